"""Part files of downloads: taken over, kept, deleted; and downloads at once where file locks do not lock."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qgguf.hub.part_files import delete_parts, part_file, publish
from tests.support.hub_server import Repo, serve
from tests.support.processes import environment

MODEL = b"".join(hashlib.sha256("한 é 😉 %d".encode() % number).digest() for number in range(60_000))
CHECKSUM = hashlib.sha256(MODEL).hexdigest()
# File locks of a network file system that answers "locked" to everyone.
NO_LOCKS = "import fcntl\nfcntl.flock = lambda *_: None\nfcntl.lockf = lambda *_: None\n"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_part_file_is_kept_for_the_next_download(tmp_path: Path):
    """What an interrupted download wrote is in the part file of the next."""
    blob = tmp_path / "blob"
    with pytest.raises(KeyboardInterrupt), part_file(blob) as part:
        assert part.read_bytes() == b""
        part.write_bytes(b"first")
        raise KeyboardInterrupt
    assert names_in(tmp_path) == ["blob.qgguf.incomplete"]
    with part_file(blob) as part:
        assert part.read_bytes() == b"first" and names_in(tmp_path) == [part.name]
        publish(part, blob)
    assert names_in(tmp_path) == ["blob"] and blob.read_bytes() == b"first"


def test_two_interrupted_downloads_leave_the_longer_part(tmp_path: Path):
    blob = tmp_path / "blob"
    for content in (b"first", b"fi", b"firs"):
        with pytest.raises(OSError, match="cut"), part_file(blob) as part:
            part.write_bytes(content)
            raise OSError("cut")
    with part_file(blob) as part:
        assert part.read_bytes() == b"firs"


def test_part_file_of_another_process_is_copied(tmp_path: Path):
    """The other process goes on writing to its own file, and finds the blob at its end."""
    blob = tmp_path / "blob"
    with part_file(blob) as first:
        first.write_bytes(b"half")
        with first.open("ab") as stream, part_file(blob) as second:
            assert second.read_bytes() == b"half" and first.exists()
            second.write_bytes(b"whole")
            publish(second, blob)
            stream.write(b"xx")
        publish(first, blob)
    assert names_in(tmp_path) == ["blob"] and blob.read_bytes() == b"whole"


def test_publishing_a_deleted_part_is_an_error_without_a_blob(tmp_path: Path):
    blob = tmp_path / "blob"
    with pytest.raises(FileNotFoundError), part_file(blob) as part:
        delete_parts(blob)
        publish(part, blob)
    assert names_in(tmp_path) == []


def test_other_blobs_links_and_folders_are_left_alone(tmp_path: Path):
    blob, other = tmp_path / "blob", tmp_path / "blob2.incomplete"
    other.write_bytes(b"other")
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / "blob.link.incomplete").symlink_to(target)
    (tmp_path / "blob.folder.incomplete").mkdir()
    with part_file(blob) as part:
        assert part.read_bytes() == b""
        publish(part, blob)
    assert other.read_bytes() == b"other" and target.read_bytes() == b"mine"
    assert (tmp_path / "blob.folder.incomplete").is_dir()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["", ".qgguf", ".0a", ".host-한"]), st.integers(0, 50)), max_size=5))
def test_the_largest_part_is_taken(tmp_path: Path, left: list[tuple[str, int]]):
    blob = tmp_path / "blob"
    for name, n_bytes in left:
        blob.with_name(f"blob{name}.incomplete").write_bytes(b"x" * n_bytes)
    largest = max(dict(left).values(), default=0)
    with part_file(blob) as part:
        assert part.read_bytes() == b"x" * largest
        publish(part, blob)
    assert names_in(tmp_path) == ["blob"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("interruption", ["none", "kill", "cut", "wrong"])
def test_pulls_at_once_without_locks_never_publish_wrong_bytes(interruption: str, tmp_path: Path):
    """Three pulls at once: every one that ends well has the right file, every other one an error of one line."""
    (tmp_path / "no_locks").mkdir()
    (tmp_path / "no_locks/sitecustomize.py").write_text(NO_LOCKS)
    blobs = tmp_path / "hub/models--me--m/blobs"
    with serve() as hub:
        hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL})
        hub.bytes_per_second = 1_500_000
        if interruption == "cut":
            hub.cut_after_bytes = [700_000, 300_000, 900_000, 100_000]
        if interruption == "wrong":
            hub.wrong_content["m-Q8_0.gguf"] = MODEL[:-1] + b"?"
        path = os.pathsep.join([str(tmp_path / "no_locks"), environment(tmp_path)["PYTHONPATH"]])
        pulls = []
        for number in range(3):
            pulls.append(
                subprocess.Popen(
                    [sys.executable, "-m", "qgguf", "pull", "me/m:Q8_0"],
                    env=environment(tmp_path, HF_ENDPOINT=hub.url, PYTHONPATH=path),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            started = time.monotonic()
            while hub.sent_bytes < 300_000 * (number + 1) and time.monotonic() - started < 20:
                time.sleep(0.02)
        if interruption == "kill":
            pulls[0].kill()
        answers = [pull.communicate(timeout=60) for pull in pulls]
    codes = [pull.returncode for pull in pulls]
    for code, (_, message) in zip(codes, answers, strict=True):
        assert code in (0, 1, -signal.SIGKILL) and b"Traceback" not in message, message
    published = [blob for blob in blobs.iterdir() if blob.suffix != ".incomplete"]
    if interruption == "wrong":
        assert codes == [1, 1, 1] and published == []
        return
    assert codes == [-signal.SIGKILL if interruption == "kill" else 0, 0, 0], answers
    assert [hashlib.sha256(blob.read_bytes()).hexdigest() for blob in published] == [CHECKSUM]
    if interruption == "none":
        assert hub.sent_bytes > len(MODEL), "the pulls waited for each other, so the locks locked"
        assert names_in(blobs) == [CHECKSUM]
