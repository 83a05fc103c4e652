"""Errors of huggingface-hub and of the network, translated into one line with the next step."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from qgguf.errors import ModelNotFoundError, QgError
from qgguf.hub.settings import hub_settings

_log = logging.getLogger("qgguf")
_Result = TypeVar("_Result")

# Limit for all addresses of the hub together. Behind a firewall that drops packets, or with a name server that does not
# answer, each address would take its own timeout.
FIRST_ANSWER_SECONDS = 12.0

# As huggingface-hub reads them, in this order; then the file that its login writes.
_TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")

_WITHOUT_NETWORK = "or name a GGUF file on this disk (-m FILE)"


def network_errors() -> tuple[type[BaseException], ...]:
    """Return what a request can raise: the errors of requests, httpx or httpx2, whichever huggingface-hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of an error, or None."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def with_timeout(call: Callable[[], _Result]) -> _Result:
    """Return the result of a call, which may take FIRST_ANSWER_SECONDS.

    raises  TimeoutError: it took longer, and goes on in a daemon thread; the errors of the call
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
def translate_errors(resource: str) -> Iterator[None]:
    """Convert the errors of a request in the block to ModelNotFoundError; errors of qgguf pass unchanged.

    resource  what is requested from the hub, for the message: a repository or "repository/file"
    """
    expected: tuple[type[BaseException], ...] = (ValueError, *network_errors())
    with _hub_log_redirected():
        try:
            yield
        except QgError:
            raise
        except expected as error:
            raise ModelNotFoundError(explain(error, resource)) from error


def explain(error: BaseException, resource: str) -> str:
    """Return one line on why the request for a resource failed, with the next step."""
    hub = hub_settings().ENDPOINT
    status = status_of(error)
    if status is not None:
        return _explain_status(status, error, resource, hub)
    # Only errors of the file system name a file.
    if isinstance(error, OSError) and error.filename is not None:
        return f"{resource}: the cache cannot be used ({error}). Fix that, or set HF_HOME to another folder."
    if isinstance(error, ValueError):
        return f"{resource}: {_first_line(error)}. Check the name, and HF_ENDPOINT ({hub})."
    return (
        f"{resource}: no answer from {hub} ({_first_line(error)}). "
        f"Check the network, the proxy (HTTPS_PROXY) and HF_ENDPOINT, {_WITHOUT_NETWORK}."
    )


def explain_offline(resource: str, cache: Path) -> str:
    """Return the message for a resource that is not in the cache while HF_HUB_OFFLINE is set."""
    return (
        f"{resource} is not in {cache}, and HF_HUB_OFFLINE forbids downloads. Unset HF_HUB_OFFLINE, {_WITHOUT_NETWORK}."
    )


def _explain_status(status: int, error: BaseException, resource: str, hub: str) -> str:
    headers = getattr(getattr(error, "response", None), "headers", {})
    code = headers.get("X-Error-Code", "")
    if code == "RevisionNotFound":
        return f"{resource}: {hub} has the repository, but not this revision. See the repository's commits on its page."
    if code == "EntryNotFound":
        return f"{resource}: {hub} has the repository, but not this file. See the repository's files on its page."
    if status == 401 and code != "GatedRepo" and (source := _source_of_token(error)) is not None:
        return _explain_refused_token(resource, hub, source)
    if status in (401, 403) or code == "GatedRepo":
        return (
            f"{resource}: {hub} refused ({status}): the repository is private or gated, or does not exist. "
            "Check the name. If it is right, request access on its page and set HF_TOKEN to a token that can read it."
        )
    if status == 404:
        return f"{resource}: {hub} has no such repository or file (404). Check the name. Private ones need HF_TOKEN."
    if status == 429:
        wait = headers.get("Retry-After")
        pause = f"in {wait} s" if wait else "in a few minutes"
        return f"{resource}: {hub} got too many requests (429). Try again {pause}, or set HF_TOKEN for a higher limit."
    if status >= 500:
        return (
            f"{resource}: {hub} has a server error ({status}). Try again later, set HF_ENDPOINT to a mirror, "
            f"{_WITHOUT_NETWORK}."
        )
    return f"{resource}: {hub} answered {status}. Check the name and HF_ENDPOINT."


def _explain_refused_token(resource: str, hub: str, source: str) -> str:
    """Return the message for a hub that does not accept the token; it answers so for public repositories too.

    source  the environment variable or the file that the token is from; "" where it is from elsewhere
    """
    if source in _TOKEN_VARIABLES:
        remedy = f"Unset {source}, which is enough for a public repository, or set it to a new token."
    elif source:
        remedy = "Log in again (hf auth login), or log out (hf auth logout), which is enough for a public repository."
    else:
        remedy = "Log in again (hf auth login), or set HF_TOKEN to a new token."
    name = f" in {source}" if source else ""
    return f"{resource}: {hub} refused the token{name} (401): it may have expired. {remedy}"


def _source_of_token(error: BaseException) -> str | None:
    """Return the variable or the file of the token that the refused request had, "" for another one; None for none."""
    try:
        response: Any = getattr(error, "response", None)
        sent: str = response.request.headers.get("Authorization", "")
    except (AttributeError, RuntimeError):  # httpx raises the second for a response without a request
        return None
    token = sent.removeprefix("Bearer ")
    if not token:
        return None
    for name in _TOKEN_VARIABLES:
        if _clean(os.environ.get(name, "")) == token:
            return name
    path = str(hub_settings().HF_TOKEN_PATH)
    try:
        is_from_file = _clean(Path(path).read_text(encoding="utf-8", errors="replace")) == token
    except OSError:
        is_from_file = False
    return path if is_from_file else ""


def _clean(token: str) -> str:
    """Return a token as huggingface-hub sends it."""
    return token.replace("\r", "").replace("\n", "").strip()


def _first_line(error: BaseException) -> str:
    """Return the first line of the innermost error; libraries wrap the error of the socket in long ones."""
    while deeper := error.__cause__ or error.__context__:
        error = deeper
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _hub_log_redirected() -> Iterator[None]:
    """Send huggingface-hub's log records to our logger during a request; its own handler writes retries to stderr."""

    def redirect(record: logging.LogRecord) -> bool:
        _log.debug("huggingface-hub: %s", record.getMessage())
        return False

    handlers = list(logging.getLogger("huggingface_hub").handlers)
    for handler in handlers:
        handler.addFilter(redirect)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(redirect)
