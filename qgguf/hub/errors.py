"""What huggingface-hub and the network raise -> one line that says what to do next."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TypeVar

from qgguf.errors import ModelNotFoundError, QgError
from qgguf.hub.settings import hub_settings

_log = logging.getLogger("qgguf")
_Result = TypeVar("_Result")

# A firewall that drops packets, or a name server that does not answer, would hold each address of the hub for its
# own timeout; this is the limit for all of them together.
FIRST_ANSWER_SECONDS = 12.0

_WITHOUT_NETWORK = "or name a GGUF file on this disk (-m FILE)"


def network_errors() -> tuple[type[BaseException], ...]:
    """What a request can raise: the error family of requests, httpx or httpx2, whichever huggingface-hub brings."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error carries, or None."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def with_timeout(call: Callable[[], _Result]) -> _Result:
    """The result of a call that must get its first answer soon.

    raises  TimeoutError after FIRST_ANSWER_SECONDS (the call is left to die with the process); what the call raises
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = Thread(target=run, daemon=True, name="qgguf-first-answer")
    thread.start()
    thread.join(FIRST_ANSWER_SECONDS)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer in {FIRST_ANSWER_SECONDS:.0f} s")
    return results[0]


@contextmanager
def translate_errors(wanted: str) -> Iterator[None]:
    """Turn everything a request raises into one ModelNotFoundError.

    wanted  what was asked of the hub, as the user named it
    """
    expected: tuple[type[BaseException], ...] = (ValueError, *network_errors())
    with _hub_log_is_ours():
        try:
            yield
        except QgError:
            raise
        except expected as error:
            raise ModelNotFoundError(explain(error, wanted)) from error


def explain(error: BaseException, wanted: str) -> str:
    """One line: what happened to the request for `wanted`, and the next step."""
    hub = hub_settings().ENDPOINT
    status = status_of(error)
    if status is not None:
        return _explain_status(status, error, wanted, hub)
    # The file system names a file, the network never does.
    if isinstance(error, OSError) and error.filename is not None:
        return f"{wanted}: the cache does not work ({error}). Mend that, or set HF_HOME to another folder."
    if isinstance(error, ValueError):
        return f"{wanted}: {_first_line(error)}. Check the name, and HF_ENDPOINT ({hub})."
    return (
        f"{wanted}: no answer from {hub} ({_first_line(error)}). "
        f"Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, {_WITHOUT_NETWORK}."
    )


def explain_offline(wanted: str, cache: Path) -> str:
    """One line for HF_HUB_OFFLINE with nothing in the cache."""
    return (
        f"{wanted} is not in {cache}, and HF_HUB_OFFLINE forbids fetching it. Unset HF_HUB_OFFLINE, {_WITHOUT_NETWORK}."
    )


def _explain_status(status: int, error: BaseException, wanted: str, hub: str) -> str:
    headers = getattr(getattr(error, "response", None), "headers", {})
    code = headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return f"{wanted}: {hub} has the repository, but not this revision. Look at the repository's commits."
    if code == "EntryNotFound":
        return f"{wanted}: {hub} has the repository, but not this file. Look at the repository's files."
    if status in (401, 403) or code == "GatedRepo":
        return (
            f"{wanted}: {hub} refused ({status}): the repository is private or gated, or is not there. "
            "Check the name; if it is right, ask for access on its page and set HF_TOKEN to a token that may read it."
        )
    if status == 404:
        return f"{wanted}: {hub} has no such repository or file (404). Check the name; a private one needs HF_TOKEN."
    if status == 429:
        wait = headers.get("Retry-After")
        pause = f"in {wait} s" if wait else "in a few minutes"
        return f"{wanted}: {hub} was asked too often (429). Try again {pause}, or set HF_TOKEN for a higher limit."
    if status >= 500:
        return (
            f"{wanted}: {hub} is in trouble ({status}). Try again later, set HF_ENDPOINT to a mirror, "
            f"{_WITHOUT_NETWORK}."
        )
    return f"{wanted}: {hub} answered {status}. Check the name and HF_ENDPOINT."


def _first_line(error: BaseException) -> str:
    """What went wrong at the bottom: libraries wrap the socket's words in pages of their own."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _hub_log_is_ours() -> Iterator[None]:
    """Send huggingface-hub's log lines to ours while a request runs: it prints its retries to stderr by itself."""

    def take(record: logging.LogRecord) -> bool:
        _log.debug("huggingface-hub: %s", record.getMessage())
        return False

    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(take)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(take)
