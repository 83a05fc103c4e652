"""Downloads from a small hub on 127.0.0.1: resuming, verifying, and error messages."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qgguf.errors import ModelNotFoundError
from qgguf.hub.repository import RepoFile, is_clean
from tests.support.hub_server import COMMIT, Hub, Repo, serve, silent_server
from tests.support.processes import ask_hub, environment

MODEL = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(100_000))
CHECKSUM = hashlib.sha256(MODEL).hexdigest()
FETCH = "hub.resolve('me/m:Q8_0')"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        running.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL, "README.md": b"hi"})
        yield running


def part_of(home: Path) -> Path:
    """Return the part file of huggingface-hub 1, or the only one of qgguf that there is."""
    folder = home / "hub/models--me--m/blobs"
    return next(folder.glob(f"{CHECKSUM}.*.incomplete"), folder / f"{CHECKSUM}.incomplete")


def files_of(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "hub").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_killed_download_resumes(tmp_path: Path, hub: Hub):
    """After SIGKILL the next run requests the rest only."""
    hub.bytes_per_second = 3_000_000
    process = subprocess.Popen(
        [sys.executable, "-c", f"from qgguf import hub; {FETCH}"], env=environment(tmp_path, HF_ENDPOINT=hub.url)
    )
    deadline = time.monotonic() + 20
    while hub.sent_bytes < 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    n_bytes = part_of(tmp_path).stat().st_size
    assert 500_000 < n_bytes < len(MODEL)
    sent = -1
    while sent != hub.sent_bytes:  # until the server has noticed the closed connection
        sent = hub.sent_bytes
        time.sleep(0.3)
    hub.bytes_per_second = None
    hub.forget()
    path = Path(ask_hub(FETCH, tmp_path, hub.url)["answer"])
    assert path.read_bytes() == MODEL
    assert hub.ranges == [f"bytes={n_bytes}-"]
    assert hub.sent_bytes == len(MODEL) - n_bytes


def test_lost_connection_is_resumed(tmp_path: Path, hub: Hub):
    """Two interruptions cost two more requests, each for the rest of the file."""
    hub.cut_after_bytes = [1_000_000, 1_500_000]
    path = Path(ask_hub(FETCH, tmp_path, hub.url, before="import logging; logging.basicConfig()\n")["answer"])
    assert path.read_bytes() == MODEL
    assert len(hub.ranges) == 3 and hub.ranges[0] == "" and all(hub.ranges[1:])
    # The incomplete chunk of 64 KiB is sent again.
    assert len(MODEL) <= hub.sent_bytes <= len(MODEL) + 2 * 65536


def test_connection_lost_before_the_first_byte_is_an_error(tmp_path: Path, hub: Hub):
    """The first connection is not retried."""
    hub.cut_after_bytes = [0] * 20
    started = time.monotonic()
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and "no answer from" in answer["message"]
    assert len(hub.ranges) == 1 and time.monotonic() - started < 10


def test_server_without_range_requests_starts_over(tmp_path: Path, hub: Hub):
    """A response of 200 to a range request starts the file over."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(MODEL[:1_000_000])
    hub.ignores_range = True
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL
    assert hub.sent_bytes == len(MODEL)


@pytest.mark.parametrize("there", [MODEL + b"x", MODEL], ids=["too long", "whole"])
def test_partial_file_of_full_length_or_more(there: bytes, tmp_path: Path, hub: Hub):
    """A complete partial file is only verified; a longer one is downloaded again."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(there)
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL
    assert hub.sent_bytes == (0 if there == MODEL else len(MODEL))


@pytest.mark.parametrize("there", [MODEL + b"x", MODEL], ids=["too long", "whole"])
def test_partial_file_of_unknown_length(there: bytes, tmp_path: Path, hub: Hub):
    """Without a published size, the server's length decides whether a partial file is complete."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(there)
    pinned = f"PublishedModel('me/m', {COMMIT!r}, 'Q8_0', {{'Q8_0': PublishedFile('m-Q8_0.gguf', None, {CHECKSUM!r})}})"
    before = f"from qgguf.hub.catalogue import *\nCATALOGUE['한'] = {pinned}\n"
    assert Path(ask_hub("hub.resolve('한')", tmp_path, hub.url, before=before)["answer"]).read_bytes() == MODEL
    assert hub.sent_bytes == (0 if there == MODEL else len(MODEL))
    assert hub.ranges[0] == f"bytes={len(there)}-"


def test_damaged_partial_file_is_deleted(tmp_path: Path, hub: Hub):
    """It ends in ChecksumError; the next run starts over."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(b"\0" * 1000)
    assert ask_hub(FETCH, tmp_path, hub.url)["error"] == "ChecksumError"
    assert files_of(tmp_path) == ["main"]
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL


def test_wrong_file_is_deleted(tmp_path: Path, hub: Hub):
    """The message has both checksums, and no file stays in the cache."""
    wrong = MODEL[:-1] + b"?"
    hub.wrong_content["m-Q8_0.gguf"] = wrong
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ChecksumError"
    assert f"its SHA-256 is {hashlib.sha256(wrong).hexdigest()}, published is {CHECKSUM}" in answer["message"]
    assert files_of(tmp_path) == ["main"]


def test_refresh_deletes_a_damaged_file(tmp_path: Path, hub: Hub):
    """`refresh` verifies a cached file again."""
    path = Path(ask_hub(FETCH, tmp_path, hub.url)["answer"])
    with path.open("r+b") as stream:
        stream.write(b"?")
    assert ask_hub(FETCH, tmp_path, hub.url)["answer"] == str(path)
    assert ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url)["error"] == "ChecksumError"
    assert files_of(tmp_path) == ["main"]


def test_progress_ends_at_the_total(tmp_path: Path, hub: Hub):
    """Progress never goes back, and its last step is the total."""
    steps = ask_hub("(hub.resolve('me/m:Q8_0', on_progress=lambda *step: steps.append(step)), steps)[1]",
                    tmp_path, hub.url, before="steps = []\n")["answer"]  # fmt: skip
    assert steps == sorted(steps) and steps[-1] == [len(MODEL), len(MODEL)]


def test_huggingface_hub_reads_our_cache(tmp_path: Path, hub: Hub):
    """It finds our file without a request, and its scan has no warnings."""
    path = ask_hub(FETCH, tmp_path, hub.url)["answer"]
    hub.forget()
    theirs = "__import__('huggingface_hub').hf_hub_download('me/m', 'm-Q8_0.gguf', local_files_only=True)"
    assert ask_hub(theirs, tmp_path, hub.url)["answer"] == path
    scan = "(lambda scan: [len(scan.warnings), scan.size_on_disk])(__import__('huggingface_hub').scan_cache_dir())"
    assert ask_hub(scan, tmp_path, hub.url)["answer"] == [0, len(MODEL)]
    assert hub.requests == []
    assert os.path.realpath(path).endswith(CHECKSUM)


def test_file_of_huggingface_hub_is_used(tmp_path: Path, hub: Hub):
    """A file that another program downloaded is not downloaded again."""
    theirs = "__import__('huggingface_hub').hf_hub_download('me/m', 'm-Q8_0.gguf')"
    path = ask_hub(theirs, tmp_path, hub.url)["answer"]
    hub.forget()
    assert ask_hub(FETCH, tmp_path, hub.url)["answer"] == path
    assert hub.requests == []


def test_redirect_keeps_the_range_and_drops_the_token(tmp_path: Path, hub: Hub):
    """Large files come from another host, which must not see the token."""
    with serve() as storage:
        storage.repos = hub.repos
        hub.storage = storage.url
        part_of(tmp_path).parent.mkdir(parents=True)
        part_of(tmp_path).write_bytes(MODEL[:1_000_000])
        answer = ask_hub(FETCH, tmp_path, hub.url, HF_TOKEN="hf_secret")
        assert Path(answer["answer"]).read_bytes() == MODEL
        assert storage.ranges == ["bytes=1000000-"] and storage.tokens == [""]
        assert set(hub.tokens) == {"Bearer hf_secret"}


def test_concurrent_runs_download_once(tmp_path: Path, hub: Hub):
    """The second run waits for the file of the first."""
    hub.bytes_per_second = 3_000_000
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", f"from qgguf import hub; print({FETCH})"],
            env=environment(tmp_path, HF_ENDPOINT=hub.url),
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    paths = {run.communicate(timeout=30)[0] for run in runs}
    assert len(paths) == 1 and [run.returncode for run in runs] == [0, 0]
    assert hub.sent_bytes == len(MODEL)


# Errors


def test_private_repository_needs_the_token(tmp_path: Path, hub: Hub):
    """HF_TOKEN is sent; without it the message asks for it."""
    hub.repos["me/m"].token = "hf_right"
    message = ask_hub(FETCH, tmp_path, hub.url)["message"]
    assert "refused (401)" in message and "HF_TOKEN" in message
    assert "answer" in ask_hub(FETCH, tmp_path, hub.url, HF_TOKEN="hf_right")


EXPIRED = "hf_expired"
REQUESTS = {
    "pull": "hub.pull('me/m:Q8_0')",
    "embedder": "__import__('qgguf').Embedder('me/m:Q8_0')",
    "pinned": "hub.resolve('qwen3-embedding-4b')",
    "convert": "__import__('qgguf').convert_checkpoint('me/m')",
    "plan": "hub.locate('me/m:Q8_0')",
}


@pytest.mark.parametrize("request_", REQUESTS)
def test_expired_token_is_named_for_a_public_repository(request_: str, tmp_path: Path, hub: Hub):
    """The message names the variable, does not contain the token, and its advice works: without it there is no 401."""
    hub.expired_tokens.add(EXPIRED)
    answer = ask_hub(REQUESTS[request_], tmp_path, hub.url, HF_TOKEN=EXPIRED)
    assert answer["error"] == "ModelNotFoundError" and answer["stderr"] == ""
    message = answer["message"]
    assert "refused the token in HF_TOKEN (401): it may have expired. Unset HF_TOKEN" in message
    assert "private" not in message and EXPIRED not in message and "\n" not in message
    again = ask_hub(REQUESTS[request_], tmp_path, hub.url)
    assert "refused the token" not in again.get("message", "")
    if request_ == "pull":
        assert Path(again["answer"]).read_bytes() == MODEL


@pytest.mark.parametrize("source", ["HUGGING_FACE_HUB_TOKEN", "file"])
def test_source_of_the_expired_token_is_named(source: str, tmp_path: Path, hub: Hub):
    """It is another variable, or the file that a login writes."""
    hub.expired_tokens.add(EXPIRED)
    settings = {} if source == "file" else {source: f" {EXPIRED}\n"}
    if source == "file":
        (tmp_path / "token").write_text(EXPIRED + "\n")
    message = ask_hub(FETCH, tmp_path, hub.url, **settings)["message"]
    if source == "file":
        assert f"refused the token in {tmp_path / 'token'} (401)" in message and "hf auth logout" in message
        (tmp_path / "token").unlink()
        assert "answer" in ask_hub(FETCH, tmp_path, hub.url)
    else:
        assert f"Unset {source}" in message


def test_variable_wins_over_the_file_of_a_login(tmp_path: Path, hub: Hub):
    """HF_TOKEN is what is sent, so it is what the message names."""
    hub.expired_tokens.add(EXPIRED)
    (tmp_path / "token").write_text("hf_other")
    assert "token in HF_TOKEN" in ask_hub(FETCH, tmp_path, hub.url, HF_TOKEN=EXPIRED)["message"]
    hub.expired_tokens = {"hf_other"}
    assert f"token in {tmp_path / 'token'}" in ask_hub(FETCH, tmp_path, hub.url)["message"]


def test_gated_repository_is_no_matter_of_an_expired_token(tmp_path: Path, hub: Hub):
    """The token is valid and may not read the repository: access is to be requested."""
    hub.repos["me/m"].token, hub.repos["me/m"].gated = "hf_right", True
    assert "request access" in ask_hub(FETCH, tmp_path, hub.url, HF_TOKEN="hf_mine")["message"]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refused (401): the repository is private or gated, or does not exist. Check the name"),
        (403, "refused (403): the repository is private or gated"),
        (404, "has no such repository or file (404). Check the name"),
        (429, "got too many requests (429). Try again in 7 s, or set HF_TOKEN"),
        (500, "has a server error (500). Try again later, set HF_ENDPOINT to a mirror"),
        (503, "has a server error (503). Try again later"),
    ],
)
def test_http_error_is_one_line(status: int, words: str, tmp_path: Path, hub: Hub):
    """Each status is one line with the next step, after one request, and stderr stays empty."""
    hub.status, hub.headers = status, {"Retry-After": "7"}
    # The first request is for the file list, or for the file itself.
    name = "me/m:Q8_0" if status % 2 else "qwen3-embedding-4b"
    started = time.monotonic()
    answer = ask_hub(f"hub.resolve({name!r})", tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and words in answer["message"]
    assert "\n" not in answer["message"] and answer["stderr"] == ""
    assert len(hub.requests) == 1 and time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "nonsense", "http://[bad", "http://"]
)
def test_unreachable_hub_is_one_line(url: str, tmp_path: Path):
    """No server, no such host, an invalid URL: the message names HF_ENDPOINT."""
    answer = ask_hub("hub.resolve('qwen3-embedding-4b')", tmp_path, url)
    assert answer["error"] == "ModelNotFoundError" and "HF_ENDPOINT" in answer["message"]
    assert "\n" not in answer["message"] and len(answer["message"]) < 500 and answer["stderr"] == ""


@pytest.mark.parametrize("name", ["qwen3-embedding-4b", "me/m:Q8_0"])
def test_silent_hub_times_out(name: str, tmp_path: Path):
    """One limit holds for all addresses, whatever their own timeouts are."""
    with silent_server() as url:
        started = time.monotonic()
        answer = ask_hub(
            f"hub.resolve({name!r})", tmp_path, url, HF_HUB_DOWNLOAD_TIMEOUT="50", HF_HUB_ETAG_TIMEOUT="50",
            before="from qgguf.hub import errors; errors.FIRST_ANSWER_SECONDS = 2.0\n",
        )  # fmt: skip
        assert "no answer in 2 s" in answer["message"] and time.monotonic() - started < 8


def test_response_that_is_not_a_hubs_is_refused(tmp_path: Path, hub: Hub):
    """A server that is not a hub is reported as such."""
    hub.status = 200
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and "HF_ENDPOINT" in answer["message"]


def test_file_list_cannot_leave_the_cache(tmp_path: Path, hub: Hub):
    """File names of a hostile hub are refused before anything is downloaded."""
    hub.repos["me/m"] = Repo({"../../../evil.gguf": MODEL})
    assert ask_hub("hub.resolve('me/m')", tmp_path, hub.url)["error"] == "ModelNotFoundError"
    assert hub.sent_bytes == 0 and not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["", "../x", "/x", "a/../../x", "a//x", "C:x", "a\\x", "x\0", ".", "a/.."])
def test_file_name_that_leaves_its_folder_is_refused(name: str):
    """Such a name is refused in a file list and for a download, on every system."""
    assert not is_clean(name)
    with pytest.raises(ModelNotFoundError):
        RepoFile("me/m", COMMIT, name, CHECKSUM, 1)


def test_invalid_file_name_beside_a_model_is_left_out(tmp_path: Path, hub: Hub):
    """Files that not every system can store are ignored."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL, "what?: é.txt": b"x", "../x.gguf": MODEL})
    assert Path(ask_hub("hub.resolve('me/m')", tmp_path, hub.url)["answer"]).read_bytes() == MODEL


def test_offline_makes_no_request(tmp_path: Path, hub: Hub):
    """With HF_HUB_OFFLINE a cached file is used, and another one is refused."""
    path = ask_hub(FETCH, tmp_path, hub.url)["answer"]
    hub.forget()
    assert ask_hub(FETCH, tmp_path, hub.url, HF_HUB_OFFLINE="1")["answer"] == path
    assert ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url, HF_HUB_OFFLINE="1")["answer"] == path
    message = ask_hub("hub.resolve('qwen3-embedding-8b')", tmp_path, hub.url, HF_HUB_OFFLINE="1")["message"]
    assert message.startswith(f"qwen3-embedding-8b is not in {tmp_path / 'hub'}, and HF_HUB_OFFLINE forbids downloads")
    assert hub.requests == []


def test_file_larger_than_the_disk_is_refused(tmp_path: Path, hub: Hub):
    """It is refused before the download; the message has both sizes."""
    hub.sizes["m-Q8_0.gguf"] = 10**18
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError"
    assert "needs 1000000000.00 GB" in answer["message"] and "B are free" in answer["message"]
    assert "HF_HOME" in answer["message"]
    assert not (tmp_path / "hub/models--me--m/snapshots" / COMMIT / "m-Q8_0.gguf").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limits here")
def test_download_resumes_after_a_full_disk(tmp_path: Path, hub: Hub):
    """A failed write is reported as lack of space; the next run resumes."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
    answer = ask_hub(FETCH, tmp_path, hub.url, before=limit)
    assert answer["error"] == "ModelNotFoundError" and "Free some space, or set HF_HOME" in answer["message"]
    n_bytes = part_of(tmp_path).stat().st_size
    assert 900_000 < n_bytes <= 1_000_000
    hub.forget()
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL
    assert hub.ranges == [f"bytes={n_bytes}-"]


def test_unwritable_cache_is_reported(tmp_path: Path, hub: Hub):
    """A file where the cache folder should be is not reported as a network error."""
    (tmp_path / "hub").write_bytes(b"")
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError"
    assert "the cache cannot be used" in answer["message"] and "HF_HOME" in answer["message"]
