"""OUT is there whole or not at all: full disks, Ctrl-C, a killed process, a failing reader of progress."""

import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qgguf.convert import converter
from qgguf.convert.converter import convert_checkpoint
from qgguf.convert.writeback import Writeback
from qgguf.errors import CheckpointError, OutputError
from qgguf.model.from_gguf import read_spec
from tests.support.bert_checkpoints import make_bert_checkpoint
from tests.support.checkpoints import make_qwen3_checkpoint

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")
FULL_DEVICE = Path("/dev/full")
FULL = pytest.mark.skipif(not FULL_DEVICE.exists(), reason="needs /dev/full")
REPOSITORY = Path(__file__).resolve().parent.parent

# Prints "started" once the first piece is done; IQ4_XS is slow enough to be met in the middle.
CONVERT = """
import sys
from qgguf import convert_checkpoint
from qgguf.errors import QgError
def show(done, total):
    if 0 < done < total:
        print("started", flush=True)
try:
    convert_checkpoint(sys.argv[1], sys.argv[2], quant="IQ4_XS", threads=1, on_progress=show)
except QgError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def slow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Takes about three seconds as IQ4_XS on one thread."""
    folder = tmp_path_factory.mktemp("slow") / "model"
    return make_qwen3_checkpoint(folder, small_vocab=True, layers=6, dims=512, ffn=1536, heads=8)


def start(checkpoint: Path, out: Path, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", CONVERT, str(checkpoint), str(out)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes, **options)


@POSIX
def test_ctrl_c_leaves_nothing(slow_checkpoint: Path, tmp_path: Path):
    """After a real SIGINT the process ends soon, and neither OUT nor its part file is left."""
    with start(slow_checkpoint, tmp_path / "out.gguf") as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and "KeyboardInterrupt" in errors
    assert time.monotonic() - interrupted < 10
    assert list(tmp_path.iterdir()) == []


@POSIX
def test_a_killed_process_leaves_no_out(slow_checkpoint: Path, tmp_path: Path):
    """After SIGKILL the part file stays, OUT does not exist, and the next run succeeds."""
    out = tmp_path / "out.gguf"
    with start(slow_checkpoint, out) as process:
        assert process.stdout.readline() == "started\n"
        process.kill()
        process.communicate(timeout=30)
    assert [file.name for file in tmp_path.iterdir()] == ["out.gguf.part"]
    assert read_spec(convert_checkpoint(slow_checkpoint, out, quant="Q4_0")).quantization == "Q4_0"
    assert list(tmp_path.iterdir()) == [out]


@POSIX
def test_a_disk_that_fills_leaves_nothing(slow_checkpoint: Path, tmp_path: Path):
    """A file size limit acts as a full disk: one line, no OUT and no part file."""

    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))

    with start(slow_checkpoint, tmp_path / "out.gguf", preexec_fn=limit) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("Cannot write") and errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The write fails in a worker thread: the error has the reason, and an existing OUT is unchanged."""
    from qgguf.convert import streaming

    checkpoint, out = make_bert_checkpoint(tmp_path / "model"), tmp_path / "out.gguf"
    out.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OutputError("Cannot write: No space left on device.")

    monkeypatch.setattr(streaming._SharedState, "_write", full)
    with pytest.raises(OutputError, match="No space left"):
        convert_checkpoint(checkpoint, out, force=True)
    assert out.read_bytes() == b"old" and not out.with_name("out.gguf.part").exists()


@pytest.mark.parametrize(
    "error", [RuntimeError("from the progress bar"), BrokenPipeError("its terminal is gone"), KeyboardInterrupt()]
)
def test_error_of_on_progress_leaves_nothing(error: BaseException, tmp_path: Path):
    """on_progress runs in the caller's thread; its error is raised after the threads have ended."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")

    def fail(done: int, total: int) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        convert_checkpoint(checkpoint, tmp_path / "out.gguf", on_progress=fail)
    assert caught.value is error
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_error_stops_the_threads_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each thread ends with its current chunk, and does not finish hours of work."""
    from qgguf.convert import streaming

    checkpoint, convert, pieces = make_bert_checkpoint(tmp_path / "model", layers=6), streaming._convert, []

    def slowly(*arguments: object) -> object:
        pieces.append(arguments)
        time.sleep(0.1)
        return convert(*arguments)

    def fail(done: int, total: int) -> None:
        raise RuntimeError

    monkeypatch.setattr(streaming, "_convert", slowly)
    with pytest.raises(RuntimeError):
        convert_checkpoint(checkpoint, tmp_path / "out.gguf", threads=2, on_progress=fail)
    assert len(pieces) <= 6  # of 101


def test_file_that_reads_back_wrongly_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The part file is read again before it becomes OUT."""
    checkpoint, write = make_bert_checkpoint(tmp_path / "model"), converter._write

    def damage(part: Path, *arguments: object) -> None:
        write(part, *arguments)
        os.truncate(part, part.stat().st_size - 64)

    monkeypatch.setattr(converter, "_write", damage)
    with pytest.raises(OutputError, match="cut short"):
        convert_checkpoint(checkpoint, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_file_with_a_wrong_tensor_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names, shapes, types and offsets are compared with the plan."""
    checkpoint, write = make_bert_checkpoint(tmp_path / "model"), converter._write

    def rename(part: Path, *arguments: object) -> None:
        write(part, *arguments)
        part.write_bytes(part.read_bytes().replace(b"token_types.weight", b"token_typos.weight"))

    monkeypatch.setattr(converter, "_write", rename)
    with pytest.raises(OutputError, match="does not read back"):
        convert_checkpoint(checkpoint, tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_shrink_while_read_are_refused(tmp_path: Path):
    """Another program replaces the file: an error, and no file is left."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", small_vocab=True, layers=6)
    weights = checkpoint / "model.safetensors"

    def shrink(done: int, total: int) -> None:
        os.truncate(weights, 1_000_000)

    with pytest.raises(CheckpointError, match="became shorter"):
        # one slow thread, so that the first report comes in the middle
        convert_checkpoint(checkpoint, tmp_path / "out.gguf", quant="IQ4_NL", threads=1, on_progress=shrink)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_weights_that_change_while_read_are_refused(tmp_path: Path):
    """The hashed bytes must be the converted bytes: an error, and no file is left."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    weights = checkpoint / "model.safetensors"

    def rewrite(done: int, total: int) -> None:
        raw = weights.read_bytes()
        weights.write_bytes(raw[:-1] + b"x")
        os.utime(weights, ns=(0, 1))

    with pytest.raises(CheckpointError, match="was changed"):
        convert_checkpoint(checkpoint, tmp_path / "out.gguf", on_progress=rewrite)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    """Without --force, a file that exists at the end is not replaced either."""
    checkpoint, out = make_bert_checkpoint(tmp_path / "model"), tmp_path / "out.gguf"
    with pytest.raises(OutputError, match="exists already"):
        convert_checkpoint(checkpoint, out, on_progress=lambda done, total: out.write_bytes(b"theirs"))
    assert out.read_bytes() == b"theirs" and not out.with_name("out.gguf.part").exists()


def test_the_whole_file_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a power cut OUT is complete or absent: all bytes are written before the last sync of the part file."""
    checkpoint, out, seen = make_bert_checkpoint(tmp_path / "model"), tmp_path / "out.gguf", []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(handle: int) -> None:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            seen.append(hashlib.sha256((tmp_path / "out.gguf.part").read_bytes()).hexdigest())
        fsync(handle)

    def watched_replace(*names: object) -> None:
        seen.append("renamed")
        replace(*names)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    convert_checkpoint(checkpoint, out)
    assert seen[-2:] == [hashlib.sha256(out.read_bytes()).hexdigest(), "renamed"]


@FULL
def test_failed_sync_is_reported():
    """/dev/full cannot be synced: the error is raised at the end, and by later writes."""
    with pytest.raises(OutputError, match="Cannot write /dev/full"), Writeback(FULL_DEVICE) as disk:
        disk.finish()
    with pytest.raises(OutputError, match="Cannot write /dev/full"), Writeback(FULL_DEVICE) as disk:
        started = time.monotonic()
        while time.monotonic() - started < 30:
            disk.wrote(1 << 26)
            time.sleep(0.01)
        pytest.fail("the failure was not reported")


@FULL
def test_first_error_is_raised():
    """A later failure of the disk does not replace it; a block that is left early neither hangs nor syncs."""
    with pytest.raises(RuntimeError, match="first"), Writeback(FULL_DEVICE) as disk:
        disk.finish()
        raise RuntimeError("first")
    with Writeback(FULL_DEVICE):
        pass


@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission_is_reported(tmp_path: Path):
    """The error is one line."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        convert_checkpoint(checkpoint, tmp_path / "closed" / "out.gguf")
