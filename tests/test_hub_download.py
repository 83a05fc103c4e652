"""Bytes from the hub: resumed, checked, explained; against a small hub on 127.0.0.1."""

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
from tests.support.hub_server import COMMIT, Hub, Repo, serve, silence
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
    return home / f"hub/models--me--m/blobs/{CHECKSUM}.incomplete"


def files_of(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "hub").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_killed_download_goes_on_where_it_stopped(tmp_path: Path, hub: Hub):
    """After SIGKILL in the middle, a second run asks for the rest alone: the server sends each byte about once."""
    hub.bytes_per_second = 3_000_000
    process = subprocess.Popen(
        [sys.executable, "-c", f"from qgguf import hub; {FETCH}"], env=environment(tmp_path, HF_ENDPOINT=hub.url)
    )
    deadline = time.monotonic() + 20
    while hub.sent_bytes < 1_000_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    kept = part_of(tmp_path).stat().st_size
    assert 500_000 < kept < len(MODEL)
    sent = -1
    while sent != hub.sent_bytes:  # until the server has noticed that nobody listens
        sent = hub.sent_bytes
        time.sleep(0.3)
    hub.bytes_per_second = None
    hub.forget()
    path = Path(ask_hub(FETCH, tmp_path, hub.url)["answer"])
    assert path.read_bytes() == MODEL
    assert hub.ranges == [f"bytes={kept}-"]
    assert hub.sent_bytes == len(MODEL) - kept


def test_a_lost_connection_is_taken_up_again(tmp_path: Path, hub: Hub):
    """Two breaks in one run cost two more requests, for the rest each, and a warning."""
    hub.cut_after_bytes = [1_000_000, 1_500_000]
    path = Path(ask_hub(FETCH, tmp_path, hub.url, before="import logging; logging.basicConfig()\n")["answer"])
    assert path.read_bytes() == MODEL
    assert len(hub.ranges) == 3 and hub.ranges[0] == "" and all(asked for asked in hub.ranges[1:])
    # What was in a chunk of 64 KiB when the connection broke is sent again.
    assert len(MODEL) <= hub.sent_bytes <= len(MODEL) + 2 * 65536


def test_a_hub_that_sends_nothing_new_is_given_up(tmp_path: Path, hub: Hub):
    """A connection that breaks before its first byte, on first contact, is told at once."""
    hub.cut_after_bytes = [0] * 20
    started = time.monotonic()
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and "no answer from" in answer["message"]
    assert len(hub.ranges) == 1 and time.monotonic() - started < 10


def test_a_server_without_ranges_sends_all_again(tmp_path: Path, hub: Hub):
    """A 200 to a request for the rest starts the file over, and the result is right."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(MODEL[:1_000_000])
    hub.ignores_range = True
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL
    assert hub.sent_bytes == len(MODEL)


@pytest.mark.parametrize("there", [MODEL + b"x", MODEL], ids=["too long", "whole"])
def test_a_part_as_long_as_the_file_or_longer(there: bytes, tmp_path: Path, hub: Hub):
    """A whole part is only checked; one that is too long is of no use."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(there)
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL
    assert hub.sent_bytes == (0 if there == MODEL else len(MODEL))


@pytest.mark.parametrize("there", [MODEL + b"x", MODEL], ids=["too long", "whole"])
def test_a_whole_part_of_unknown_length(there: bytes, tmp_path: Path, hub: Hub):
    """Where only the checksum is published, the server's word on the length decides what a part is worth."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(there)
    pinned = f"PublishedModel('me/m', {COMMIT!r}, 'Q8_0', {{'Q8_0': PublishedFile('m-Q8_0.gguf', None, {CHECKSUM!r})}})"
    before = f"from qgguf.hub.catalogue import *\nCATALOGUE['한'] = {pinned}\n"
    assert Path(ask_hub("hub.resolve('한')", tmp_path, hub.url, before=before)["answer"]).read_bytes() == MODEL
    assert hub.sent_bytes == (0 if there == MODEL else len(MODEL))
    assert hub.ranges[0] == f"bytes={len(there)}-"


def test_a_spoilt_part_is_found_out(tmp_path: Path, hub: Hub):
    """A part that is not the file's beginning ends in ChecksumError and is deleted; the next run is right."""
    part_of(tmp_path).parent.mkdir(parents=True)
    part_of(tmp_path).write_bytes(b"\0" * 1000)
    assert ask_hub(FETCH, tmp_path, hub.url)["error"] == "ChecksumError"
    assert files_of(tmp_path) == ["main"]
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL


def test_a_wrong_file_is_deleted_and_both_checksums_are_named(tmp_path: Path, hub: Hub):
    """Bytes other than the published ones never get the model's name."""
    wrong = MODEL[:-1] + b"?"
    hub.lies["m-Q8_0.gguf"] = wrong
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ChecksumError"
    assert f"its SHA-256 is {hashlib.sha256(wrong).hexdigest()}, published is {CHECKSUM}" in answer["message"]
    assert files_of(tmp_path) == ["main"]


def test_refresh_finds_a_file_that_went_bad(tmp_path: Path, hub: Hub):
    """`refresh` reads what is here again; damage on the disk is deleted and told."""
    path = Path(ask_hub(FETCH, tmp_path, hub.url)["answer"])
    with path.open("r+b") as stream:
        stream.write(b"?")
    assert ask_hub(FETCH, tmp_path, hub.url)["answer"] == str(path)
    assert ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url)["error"] == "ChecksumError"
    assert files_of(tmp_path) == ["main"]


def test_progress_ends_at_the_whole(tmp_path: Path, hub: Hub):
    """Bytes done never go back, and end at bytes in all."""
    steps = ask_hub("(hub.resolve('me/m:Q8_0', on_progress=lambda *step: steps.append(step)), steps)[1]",
                    tmp_path, hub.url, before="steps = []\n")["answer"]  # fmt: skip
    assert steps == sorted(steps) and steps[-1] == [len(MODEL), len(MODEL)]


def test_the_cache_is_huggingface_hubs(tmp_path: Path, hub: Hub):
    """huggingface-hub finds our file without a request, and its scan has nothing to say against the cache."""
    path = ask_hub(FETCH, tmp_path, hub.url)["answer"]
    hub.forget()
    theirs = "__import__('huggingface_hub').hf_hub_download('me/m', 'm-Q8_0.gguf', local_files_only=True)"
    assert ask_hub(theirs, tmp_path, hub.url)["answer"] == path
    scan = "(lambda scan: [len(scan.warnings), scan.size_on_disk])(__import__('huggingface_hub').scan_cache_dir())"
    assert ask_hub(scan, tmp_path, hub.url)["answer"] == [0, len(MODEL)]
    assert hub.requests == []
    assert os.path.realpath(path).endswith(CHECKSUM)


def test_a_file_that_huggingface_hub_fetched_is_used(tmp_path: Path, hub: Hub):
    """What another program put into the cache is not fetched again."""
    theirs = "__import__('huggingface_hub').hf_hub_download('me/m', 'm-Q8_0.gguf')"
    path = ask_hub(theirs, tmp_path, hub.url)["answer"]
    hub.forget()
    assert ask_hub(FETCH, tmp_path, hub.url)["answer"] == path
    assert hub.requests == []


def test_a_redirect_to_storage_keeps_range_and_drops_the_token(tmp_path: Path, hub: Hub):
    """The real hub sends large files from another host: the rest is asked for there, the token is not shown there."""
    with serve() as storage:
        storage.repos = hub.repos
        hub.storage = storage.url
        part_of(tmp_path).parent.mkdir(parents=True)
        part_of(tmp_path).write_bytes(MODEL[:1_000_000])
        answer = ask_hub(FETCH, tmp_path, hub.url, HF_TOKEN="hf_secret")
        assert Path(answer["answer"]).read_bytes() == MODEL
        assert storage.ranges == ["bytes=1000000-"] and storage.tokens == [""]
        assert set(hub.tokens) == {"Bearer hf_secret"}


def test_two_runs_at_once_fetch_once(tmp_path: Path, hub: Hub):
    """The second waits for the first one's file."""
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


# What can go wrong on the way


def test_a_private_repository_opens_with_the_token(tmp_path: Path, hub: Hub):
    """HF_TOKEN is sent; without it the message says what is missing."""
    hub.repos["me/m"].token = "hf_right"
    message = ask_hub(FETCH, tmp_path, hub.url)["message"]
    assert "refused (401)" in message and "HF_TOKEN" in message
    assert "answer" in ask_hub(FETCH, tmp_path, hub.url, HF_TOKEN="hf_right")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "refused (401): the repository is private or gated, or is not there. Check the name"),
        (403, "refused (403): the repository is private or gated"),
        (404, "has no such repository or file (404). Check the name"),
        (429, "was asked too often (429). Try again in 7 s, or set HF_TOKEN"),
        (500, "is in trouble (500). Try again later, set HF_ENDPOINT to a mirror"),
        (503, "is in trouble (503). Try again later"),
    ],
)
def test_a_refusal_is_one_clear_line(status: int, words: str, tmp_path: Path, hub: Hub):
    """Every status becomes one line with the next step, on stderr nothing, within seconds and with no second try."""
    hub.status, hub.headers = status, {"Retry-After": "7"}
    # A listing is asked for first, or the file itself.
    name = "me/m:Q8_0" if status % 2 else "qwen3-embedding-4b"
    started = time.monotonic()
    answer = ask_hub(f"hub.resolve({name!r})", tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and words in answer["message"]
    assert "\n" not in answer["message"] and answer["stderr"] == ""
    assert len(hub.requests) == 1 and time.monotonic() - started < 5


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no-such-host.invalid", "nonsense", "http://[bad", "http://"]
)
def test_no_way_to_the_hub_is_one_clear_line(url: str, tmp_path: Path):
    """Nothing listens, no such host, no URL: the message says so and what to check."""
    answer = ask_hub("hub.resolve('qwen3-embedding-4b')", tmp_path, url)
    assert answer["error"] == "ModelNotFoundError" and "HF_ENDPOINT" in answer["message"]
    assert "\n" not in answer["message"] and len(answer["message"]) < 500 and answer["stderr"] == ""


@pytest.mark.parametrize("name", ["qwen3-embedding-4b", "me/m:Q8_0"])
def test_a_hub_that_never_answers_is_given_up(name: str, tmp_path: Path):
    """Whatever the timeouts of each address are, the whole first answer has its own limit."""
    with silence() as url:
        started = time.monotonic()
        answer = ask_hub(
            f"hub.resolve({name!r})", tmp_path, url, HF_HUB_DOWNLOAD_TIMEOUT="50", HF_HUB_ETAG_TIMEOUT="50",
            before="from qgguf.hub import errors; errors.FIRST_ANSWER_SECONDS = 2.0\n",
        )  # fmt: skip
        assert "no answer in 2 s" in answer["message"] and time.monotonic() - started < 8


def test_a_website_is_not_a_hub(tmp_path: Path, hub: Hub):
    """An answer that is no listing is told as such."""
    hub.status = 200
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and "HF_ENDPOINT" in answer["message"]


def test_a_listing_cannot_write_outside_the_cache(tmp_path: Path, hub: Hub):
    """File names of a hostile hub are refused before anything is fetched."""
    hub.repos["me/m"] = Repo({"../../../evil.gguf": MODEL})
    assert ask_hub("hub.resolve('me/m')", tmp_path, hub.url)["error"] == "ModelNotFoundError"
    assert hub.sent_bytes == 0 and not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["", "../x", "/x", "a/../../x", "a//x", "C:x", "a\\x", "x\0", ".", "a/.."])
def test_a_name_that_leaves_its_folder_is_no_file(name: str):
    """On no system, and neither in a listing nor where a file is fetched."""
    assert not is_clean(name)
    with pytest.raises(ModelNotFoundError):
        RepoFile("me/m", COMMIT, name, CHECKSUM, 1)


def test_an_odd_name_beside_a_model_does_no_harm(tmp_path: Path, hub: Hub):
    """Files that cannot be kept on every system are left out of a listing; the others are there."""
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL, "what?: é.txt": b"x", "../x.gguf": MODEL})
    assert Path(ask_hub("hub.resolve('me/m')", tmp_path, hub.url)["answer"]).read_bytes() == MODEL


def test_offline_uses_what_is_here_and_asks_nobody(tmp_path: Path, hub: Hub):
    """HF_HUB_OFFLINE: a cached file is found, another is refused with the reason."""
    path = ask_hub(FETCH, tmp_path, hub.url)["answer"]
    hub.forget()
    assert ask_hub(FETCH, tmp_path, hub.url, HF_HUB_OFFLINE="1")["answer"] == path
    assert ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url, HF_HUB_OFFLINE="1")["answer"] == path
    message = ask_hub("hub.resolve('qwen3-embedding-8b')", tmp_path, hub.url, HF_HUB_OFFLINE="1")["message"]
    assert message.startswith(f"qwen3-embedding-8b is not in {tmp_path / 'hub'}, and HF_HUB_OFFLINE forbids")
    assert hub.requests == []


def test_a_file_larger_than_the_disk_is_refused_before_it_is_fetched(tmp_path: Path, hub: Hub):
    """The message has both numbers and the way out."""
    hub.sizes["m-Q8_0.gguf"] = 10**18
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError"
    assert "needs 1000000000000.0 MB" in answer["message"] and "MB are free" in answer["message"]
    assert "HF_HOME" in answer["message"]
    assert not (tmp_path / "hub/models--me--m/snapshots" / COMMIT / "m-Q8_0.gguf").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no file size limits here")
def test_a_disk_that_fills_up_keeps_what_it_has(tmp_path: Path, hub: Hub):
    """A write that fails is told as lack of room, not of network; the next run goes on from there."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))\n"
    answer = ask_hub(FETCH, tmp_path, hub.url, before=limit)
    assert answer["error"] == "ModelNotFoundError" and "Make room, or set HF_HOME" in answer["message"]
    kept = part_of(tmp_path).stat().st_size
    assert 900_000 < kept <= 1_000_000
    hub.forget()
    assert Path(ask_hub(FETCH, tmp_path, hub.url)["answer"]).read_bytes() == MODEL
    assert hub.ranges == [f"bytes={kept}-"]


def test_a_cache_that_cannot_be_written_is_told_as_such(tmp_path: Path, hub: Hub):
    """A file where the cache folder should be is not blamed on the network."""
    (tmp_path / "hub").write_bytes(b"")
    answer = ask_hub(FETCH, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError"
    assert "the cache does not work" in answer["message"] and "HF_HOME" in answer["message"]
