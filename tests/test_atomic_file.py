"""qgguf.atomic_file: a file appears complete or not at all, and only a regular file is ever replaced."""

import os
import shutil
import socket
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


@pytest.fixture
def null_device(tmp_path: Path) -> Path:
    """A device that throws everything away, of our own: only a bug would harm it."""
    node = tmp_path / "null é"
    try:
        os.mknod(node, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        node.write_bytes(b"x")
    except OSError:
        pytest.skip("needs the right to make a device")
    return node


@WRITERS
@POSIX
def test_a_device_is_not_replaced(save: Save, null_device: Path):
    """It gets the data, also where the data is not written in order, and stays a device."""
    save(null_device, b"thrown away")
    assert stat.S_ISCHR(null_device.stat().st_mode) and list(null_device.parent.iterdir()) == [null_device]


@WRITERS
@POSIX
def test_a_link_to_a_device_is_not_replaced(save: Save, null_device: Path):
    """What a link leads to decides."""
    link = null_device.parent / "link"
    link.symlink_to(null_device)
    save(link, b"thrown away")
    assert link.is_symlink() and stat.S_ISCHR(null_device.stat().st_mode)
    assert sorted(null_device.parent.iterdir()) == sorted([link, null_device])


@POSIX
def test_a_disk_and_a_socket_are_refused(tmp_path: Path):
    """Before anything is written, and without the advice to use --force."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        with pytest.raises(OutputError, match=r"a socket\. Choose another name\.$"):
            check_target(tmp_path / "socket", replace=False)
    try:
        os.mknod(tmp_path / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 250))
    except OSError:
        pytest.skip("needs the right to make a device")
    with pytest.raises(OutputError, match="a disk"):
        check_target(tmp_path / "disk", replace=True)


@WRITERS
@POSIX
def test_a_pipe_is_written_to_and_not_replaced(save: Save, tmp_path: Path):
    """Its reader gets the bytes; nothing else appears in the folder."""
    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    save(fifo, b"through the pipe")
    reader.join(10)
    assert read == [b"through the pipe"]
    assert stat.S_ISFIFO(fifo.stat().st_mode) and list(tmp_path.iterdir()) == [fifo]


@WRITERS
@POSIX
@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_lines_that_a_descriptor_has_written_stay(save: Save, name: str, tmp_path: Path):
    """`-o /dev/stdout >> FILE`: the data goes after what is there, also through a link."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    log = tmp_path / "log"
    log.write_bytes(b"line 1\n")
    with log.open("ab") as appended:
        path = Path(name.format(appended.fileno()))
        if name == "link":
            path = tmp_path / "link"
            path.symlink_to(f"/dev/fd/{appended.fileno()}")
        save(path, b"line 2\n")
        save(path, b"line 3\n")
    assert log.read_bytes() == b"line 1\nline 2\nline 3\n"


@POSIX
def test_a_descriptor_that_cannot_be_written_is_refused(tmp_path: Path):
    """One that is not open, and one that is open for reading."""
    (tmp_path / "file").write_bytes(b"")
    with (tmp_path / "file").open("rb") as reading, pytest.raises(OutputError, match="not open for writing"):
        check_target(Path(f"/dev/fd/{reading.fileno()}"), replace=True)
    with pytest.raises(OutputError, match="Cannot write /dev/fd/987"):
        check_target(Path("/dev/fd/987"), replace=True)


@WRITERS
@POSIX
def test_mode_and_owner_of_an_existing_file_stay(save: Save, tmp_path: Path):
    """Also behind two links; a new file follows the umask, and nobody else may read the part meanwhile."""
    target, link = tmp_path / "é", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(tmp_path / "link 2")
    (tmp_path / "link 2").symlink_to(target)
    for mode in (0o600, 0o640, 0o664):
        target.chmod(mode)
        save(link, b"new")
        assert stat.S_IMODE(target.stat().st_mode) == mode and target.read_bytes() == b"new"
    if os.geteuid() == 0:
        os.chown(target, 12345, 23456)
        save(link, b"newer")
        assert (target.stat().st_uid, target.stat().st_gid) == (12345, 23456)
    target.chmod(0o600)
    with part_file(target, replace=True) as part:
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
    before = os.umask(0o027)
    try:
        save(tmp_path / "fresh", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "fresh").stat().st_mode) == 0o640


@WRITERS
def test_the_longest_name_can_be_written(save: Save, tmp_path: Path):
    """There is no room for ".part" after it."""
    target = tmp_path / ("한" * 85)
    assert len(os.fsencode(target.name)) == 255
    for data in (b"first", b"second"):
        save(target, data)
        assert target.read_bytes() == data and list(tmp_path.iterdir()) == [target]


@WRITERS
@POSIX
def test_what_a_user_has_under_the_name_of_the_part_stays(save: Save, tmp_path: Path):
    """A link or a folder there is none of ours."""
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "out.part").symlink_to("theirs")
    (tmp_path / "out2.part").mkdir()
    save(tmp_path / "out", b"new")
    save(tmp_path / "out2", b"new")
    assert (tmp_path / "out.part").is_symlink() and (tmp_path / "out2.part").is_dir()
    assert (tmp_path / "theirs").read_bytes() == b"theirs"
    assert (tmp_path / "out").read_bytes() == (tmp_path / "out2").read_bytes() == b"new"


def in_a_mount_namespace(command: str, tmp_path: Path) -> subprocess.CompletedProcess:
    """Run a shell command in mounts of its own; `$PY WRITER PATH` in it writes b"new" to the path."""
    program = (
        "import sys; from pathlib import Path; from tests.test_atomic_file import write_by_part, write_by_stream\n"
        "{'part': write_by_part, 'stream': write_by_stream}[sys.argv[1]](Path(sys.argv[2]), b'new')\n"
    )
    (tmp_path / "write.py").write_text(program)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    python = f"{sys.executable} {tmp_path}/write.py"
    ran = subprocess.run(
        ["unshare", "-m", "bash", "-c", f"cd {tmp_path} && {command.replace('$PY', python)}"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    if "unshare" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"needs the right to mount: {ran.stderr[:100]}")
    return ran


NAMESPACES = pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")


@NAMESPACES
@pytest.mark.parametrize("writer", ["part", "stream"])
def test_a_mounted_file_gets_the_data(writer: str, tmp_path: Path):
    """`docker run -v FILE:/out.csv`: the file cannot be replaced, so the data is copied into it."""
    (tmp_path / "inner").write_bytes(b"a longer old content")
    (tmp_path / "out é").write_bytes(b"under the mount")
    ran = in_a_mount_namespace(f"mount --bind inner 'out é' && $PY {writer} 'out é'", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "inner").read_bytes() == b"new" and (tmp_path / "out é").read_bytes() == b"under the mount"
    assert not list(tmp_path.glob("*.part"))


@NAMESPACES
@pytest.mark.parametrize("writer", ["part", "stream"])
def test_a_file_in_a_read_only_folder_gets_the_data(writer: str, tmp_path: Path):
    """The file may be written, its folder may not; a new file there is refused before the work."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "out").write_bytes(b"old, and longer")
    (tmp_path / "inner").write_bytes(b"old, and longer")
    mounts = "mount --bind folder folder && mount -o remount,ro,bind folder && mount --bind inner folder/out"
    ran = in_a_mount_namespace(f"{mounts} && $PY {writer} folder/out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "inner").read_bytes() == b"new"
    ran = in_a_mount_namespace(f"{mounts} && $PY {writer} folder/fresh", tmp_path)
    assert "no file can be made in" in ran.stderr and "kept" not in ran.stderr


@WRITERS
@POSIX
def test_output_that_cannot_be_renamed_is_kept_and_named(save: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Hours of work are not deleted because of the last step."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    for kept in ("out.kept", "out.kept-2"):
        with pytest.raises(OutputError, match=rf"Operation not permitted.*output is kept: .*/{kept}$"):
            save(tmp_path / "out", b"hours of work")
        assert (tmp_path / kept).read_bytes() == b"hours of work"
    (tmp_path / "there").write_bytes(b"old")
    save(tmp_path / "there", b"copied into it")
    assert (tmp_path / "there").read_bytes() == b"copied into it"


@POSIX
def test_two_processes_do_not_write_one_file_at_once(tmp_path: Path):
    """The second is refused before its work; the first is not disturbed."""
    program = (
        "import sys; from pathlib import Path; from qgguf.atomic_file import open_output\n"
        "with open_output(Path(sys.argv[1])) as write: write(b'second')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with open_output(tmp_path / "out") as write:
        write(b"first")
        command = [sys.executable, "-c", program, str(tmp_path / "out")]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "Another process is writing" in ran.stderr
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("out", b"first")]


@WRITERS
@POSIX
@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="needs /dev/fd")
def test_a_pipe_of_the_shell_is_written_to(save: Save):
    """`-o >(gzip > x.gz)` gives /dev/fd/63, a link whose name is no path."""
    read_end, write_end = os.pipe()
    try:
        save(Path(f"/dev/fd/{write_end}"), b"to the shell")
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
    kept = tmp_path / "out.kept"
    assert target.read_bytes() == b"theirs" and sorted(tmp_path.iterdir()) == [target, kept]


@POSIX
def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path):
    """The target is checked again before the part gets its name."""
    with pytest.raises(OutputError, match="it is a folder"), part_file(tmp_path / "out", replace=True):
        (tmp_path / "out").mkdir()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "out.kept"]


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
