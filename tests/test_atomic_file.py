"""qgguf.atomic_file: a file appears complete or not at all, and only a regular file is ever replaced."""

import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from qgguf.atomic_file import check_free_space, check_target, open_output, part_file
from qgguf.errors import OutputError, OutputExistsError

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs FIFOs and symbolic links of POSIX")
FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def write_by_part(target: Path, data: bytes) -> None:
    """Write a file as the converter does."""
    with part_file(target, replace=True) as part:
        part.write_bytes(data)


def write_by_stream(target: Path, data: bytes) -> None:
    """Write a file as `qgguf embed -o` does."""
    with open_output(target) as write:
        write(data)


WRITERS = pytest.mark.parametrize("save", [write_by_part, write_by_stream])
Save = Callable[[Path, bytes], None]


@WRITERS
def test_new_and_existing_files_are_written(save: Save, tmp_path: Path):
    """The whole content is there, and no part file is left."""
    target = tmp_path / "é 한 😉.bin"
    for data in (b"first", b"second, longer", b""):
        save(target, data)
        assert target.read_bytes() == data and list(tmp_path.iterdir()) == [target]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path):
    """Readers see the old content, then the new one."""
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with open_output(target) as write:
        write(b"new")
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), OSError("of the block")])
def test_an_error_in_the_block_leaves_the_old_file(error: BaseException, tmp_path: Path):
    """The error comes out unchanged; the part file is deleted."""
    target = tmp_path / "out"
    target.write_bytes(b"old")
    with pytest.raises(type(error)) as caught, open_output(target) as write:
        write(b"half")
        raise error
    assert caught.value is error
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


@WRITERS
def test_a_part_file_of_a_killed_run_is_no_obstacle(save: Save, tmp_path: Path):
    """It is deleted and written anew."""
    (tmp_path / "out.part").write_bytes(b"left by SIGKILL")
    save(tmp_path / "out", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@WRITERS
@POSIX
def test_a_symbolic_link_stays_a_link(save: Save, tmp_path: Path):
    """The file that it points to is replaced, in that file's own folder."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "real").write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(Path("folder", "real"))
    save(link, b"new")
    assert link.is_symlink() and (folder / "real").read_bytes() == b"new"
    assert [file.name for file in folder.iterdir()] == ["real"]


@WRITERS
@POSIX
def test_a_link_to_a_file_that_does_not_exist_creates_it(save: Save, tmp_path: Path):
    """As the shell's > does."""
    (tmp_path / "link").symlink_to("real")
    save(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"new"


@WRITERS
@POSIX
def test_a_link_that_leads_nowhere_is_refused(save: Save, tmp_path: Path):
    """To a folder that does not exist, and to itself."""
    (tmp_path / "broken").symlink_to(Path("no-such", "real"))
    (tmp_path / "circle").symlink_to("circle")
    for name in ("broken", "circle"):
        with pytest.raises(OutputError, match=f"Cannot write .*{name}"):
            save(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()


@WRITERS
def test_a_folder_is_refused(save: Save, tmp_path: Path):
    """A folder is never replaced, not even an empty one."""
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        save(tmp_path / "out", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@WRITERS
def test_a_missing_folder_is_named_and_not_created(save: Save, tmp_path: Path):
    """A file where the folder should be is no folder."""
    (tmp_path / "file").write_bytes(b"")
    for folder in ("none", "file"):
        with pytest.raises(OutputError, match=f"there is no folder .*{folder}"):
            save(tmp_path / folder / "out", b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@WRITERS
@POSIX
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_reported(save: Save, tmp_path: Path):
    """With the system's own reason."""
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        save(tmp_path / "closed" / "out", b"new")


@POSIX
def test_a_device_is_not_replaced():
    """A stream goes to the device; a file that is written out of order is refused."""
    with open_output(Path(os.devnull)) as write:
        write(b"thrown away")
    with pytest.raises(OutputError, match="a device or a pipe"):
        write_by_part(Path(os.devnull), b"new")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@POSIX
def test_a_link_to_a_device_is_not_replaced(tmp_path: Path):
    """What a link leads to decides."""
    (tmp_path / "link").symlink_to(os.devnull)
    write_by_stream(tmp_path / "link", b"thrown away")
    with pytest.raises(OutputError, match="a device or a pipe"):
        write_by_part(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and list(tmp_path.iterdir()) == [tmp_path / "link"]


@POSIX
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    """Its reader gets the bytes; nothing else appears in the folder."""
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    write_by_stream(fifo, b"through the pipe")
    reader.join(10)
    assert read == [b"through the pipe"]
    with pytest.raises(OutputError, match="a device or a pipe"):
        write_by_part(fifo, b"new")
    assert stat.S_ISFIFO(fifo.stat().st_mode) and list(tmp_path.iterdir()) == [fifo]


@POSIX
@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_pipe_of_the_shell_is_written_to():
    """`-o >(gzip > x.gz)` gives /dev/fd/63, a link whose name is no path."""
    read_end, write_end = os.pipe()
    try:
        write_by_stream(Path(f"/dev/fd/{write_end}"), b"to the shell")
        assert os.read(read_end, 100) == b"to the shell"
    finally:
        os.close(read_end)
        os.close(write_end)


@POSIX
def test_a_closed_pipe_is_no_output_error(tmp_path: Path):
    """The reader has stopped reading: the command line ends quietly, as `| head` does."""
    os.mkfifo(tmp_path / "fifo")
    threading.Thread(target=lambda: (tmp_path / "fifo").open("rb").close(), daemon=True).start()
    with pytest.raises(BrokenPipeError), open_output(tmp_path / "fifo") as write:
        while True:
            write(bytes(1 << 16))


@FULL
def test_a_full_device_is_reported():
    """Small outputs fail when they are flushed, large ones when they are written."""
    for size in (1, 1 << 20):
        with pytest.raises(OutputError, match="Cannot write /dev/full: No space left"):
            write_by_stream(Path("/dev/full"), bytes(size))


@POSIX
def test_a_full_disk_is_reported_and_leaves_the_old_file(tmp_path: Path):
    """A limit on the file's size stands in for a full disk."""
    program = (
        "import resource, sys; from pathlib import Path; from qgguf.atomic_file import open_output\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "with open_output(Path(sys.argv[1])) as write: write(bytes(1000))\n"
    )
    target = tmp_path / "out"
    target.write_bytes(b"old")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    ran = subprocess.run([sys.executable, "-c", program, str(target)], env=environment, capture_output=True, text=True)
    assert "OutputError: Cannot write" in ran.stderr and "File too large" in ran.stderr
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_an_existing_file_is_replaced_only_on_request(tmp_path: Path):
    """Also one that appears while the part is written."""
    target = tmp_path / "out"
    with pytest.raises(OutputExistsError, match=r"exists already.*--force"), part_file(target, replace=False):
        target.write_bytes(b"theirs")
    with pytest.raises(OutputExistsError), part_file(target, replace=False):
        pytest.fail("the block ran")
    assert target.read_bytes() == b"theirs" and list(tmp_path.iterdir()) == [target]


@POSIX
def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    """The target is checked again before the part gets its name."""
    with pytest.raises(OutputError, match="it is a folder"), part_file(tmp_path / "out", replace=True):
        (tmp_path / "out").mkdir()
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_the_part_file_of_another_process_is_neither_used_nor_deleted(tmp_path: Path):
    """Two runs that write the same target: the later one keeps its part, the earlier one reports it."""
    (tmp_path / "theirs").write_bytes(b"theirs")
    with (
        pytest.raises(OutputError, match="replaced by another process"),
        part_file(tmp_path / "out", replace=True) as part,
    ):
        os.replace(tmp_path / "theirs", part)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("out.part", b"theirs")]


def test_checks_before_the_work_create_nothing(tmp_path: Path):
    """check_target only looks."""
    check_target(tmp_path / "out", replace=False)
    assert list(tmp_path.iterdir()) == []


def test_free_space_is_compared_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No error where there is enough, to the byte."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2_500_000))
    check_free_space(tmp_path, 2_500_000)
    with pytest.raises(OutputError, match=r"has 2\.5 MB free, the file needs 3\.00 GB"):
        check_free_space(tmp_path, 3_000_000_000)
