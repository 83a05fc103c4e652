"""Atomic file output: a file appears under its name complete, or not at all.

The data is written to NAME.part in the same folder, which is renamed when it is complete. A symbolic link stays a link:
the file that it points to is replaced. Only a regular file is ever replaced, never a device, a pipe or a folder.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qgguf.errors import OutputError, OutputExistsError
from qgguf.units import readable


@contextmanager
def as_output_error(target: Path) -> Iterator[None]:
    """Convert OSError to OutputError. Wrap only our own file operations.

    A closed pipe stays a BrokenPipeError: its reader has stopped reading, which is no fault of the output.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {target}: {error.strerror or error}. Fix this, or choose another output file."
        ) from error


def check_target(target: Path, *, replace: bool) -> None:
    """Check that a regular file can be created or replaced at `target`.

    replace  whether an existing file may be replaced
    raises   OutputError: no such folder, or `target` is a folder, device or pipe; OutputExistsError: the file exists
    """
    with as_output_error(target):
        mode, folder = _mode(target), _behind_link(target).parent
        if not folder.is_dir():
            raise OutputError(f"Cannot write {target}: there is no folder {folder}. Create it, or choose another one.")
    if mode is None:
        return
    if stat.S_ISDIR(mode):
        raise OutputError(f"Cannot write {target}: it is a folder. Add a file name.")
    if not stat.S_ISREG(mode):
        raise OutputError(f"Cannot write {target}: it is a device or a pipe, not a regular file. Choose another name.")
    if not replace:
        raise OutputExistsError(
            f"{target} exists already. Choose another name, or replace it with --force (in Python: force=True)."
        )


@contextmanager
def part_file(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield the path of an empty file beside `target`, and rename it to `target` when the block ends without an error.

    The block fills the file and syncs it to the disk. If it raises, the file is deleted and `target` is unchanged.

    replace  whether an existing file may be replaced
    raises   OutputError: the file cannot be written; OutputExistsError: `target` exists, before or after the block
    """
    check_target(target, replace=replace)
    final = _behind_link(target)
    part = final.with_name(final.name + ".part")
    created: os.stat_result | None = None
    try:
        with as_output_error(target):
            part.unlink(missing_ok=True)
            with part.open("xb") as file:
                created = os.fstat(file.fileno())
        yield part
        check_target(target, replace=replace)
        with as_output_error(target):
            if not os.path.samestat(created, part.stat()):
                raise OutputError(f"{part} was replaced by another process. Run the command again.")
            os.replace(part, final)
    except BaseException:
        _delete(part, created)
        raise
    _sync_folder(final.parent)


@contextmanager
def open_output(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes bytes to `target`; the file appears when the block ends without an error.

    A device or a pipe cannot be replaced: the bytes are written to it as they come.

    raises  OutputError, from the function too; BrokenPipeError: the reader of a pipe has closed it
    """
    with as_output_error(target):
        mode = _mode(target)
    if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        with part_file(target, replace=True) as part, _writer(part, target, sync=True) as write:
            yield write
    else:
        with _writer(target, target, sync=False) as write:
            yield write


@contextmanager
def _writer(path: Path, target: Path, *, sync: bool) -> Iterator[Callable[[bytes], object]]:
    """Open `path`, and yield a function that writes to it; its errors name `target`."""
    with as_output_error(target):
        stream = path.open("wb")

    def write(data: bytes) -> None:
        with as_output_error(target):
            stream.write(data)

    try:
        yield write
        with as_output_error(target):
            stream.flush()
            if sync:
                os.fsync(stream.fileno())
    finally:
        # A second flush that fails here was reported by the first, or is no news after the block's own error.
        with suppress(OSError):
            stream.close()


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Check that the disk of `folder` has room for a file.

    raises  OutputError with both sizes
    """
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{folder} has {readable(free_bytes)} free, the file needs {readable(needed_bytes)}. "
            "Free some space, or choose another folder."
        )


def _mode(path: Path) -> int | None:
    """Return the st_mode of what a path leads to, or None if nothing is there."""
    try:
        return path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _behind_link(path: Path) -> Path:
    """Return the file that a symbolic link points to, or else the path itself."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _delete(part: Path, created: os.stat_result | None) -> None:
    """Delete the part file unless another process has replaced it; the error that led here is the one to report."""
    with suppress(OSError):
        if created is not None and os.path.samestat(created, part.stat()):
            part.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where folders can be synced (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot; the file itself is synced
    finally:
        os.close(handle)
