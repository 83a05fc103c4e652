"""Output files: a regular file appears under its name complete, or not at all; anything else is written through.

The data of a regular file is written to NAME.part in the same folder, which is renamed when it is complete. A symbolic
link stays a link: the file that it points to is replaced, and keeps its mode and owner. Where a file cannot be replaced
(it is a mount point, or its folder is read-only), the complete data is copied into it. A device, a pipe or an open
descriptor such as /dev/stdout is never replaced: it gets the data.
"""

import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from qgguf.errors import OutputError, OutputExistsError
from qgguf.units import readable

_LONGEST_NAME = 255
_DESCRIPTOR = re.compile(
    r"/dev/(?P<name>stdin|stdout|stderr)|(?:/dev|/proc/(?:self|thread-self|\d+))/fd/(?P<number>\d+)"
)
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Destination:
    """What a target leads to.

    target      as the user named it
    final       the file behind symbolic links
    existing    of a regular file that exists; None: there is none yet, or it is no regular file
    descriptor  an open descriptor that the target names
    is_through  the target is no regular file: it gets the data and is not replaced
    in_place    the file cannot be replaced, the data has to be copied into it
    """

    target: Path
    final: Path
    existing: os.stat_result | None = None
    descriptor: int | None = None
    is_through: bool = False
    in_place: bool = False


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
    """Check that `target` can be written, as far as it can be known before the work.

    replace  whether an existing file may be replaced
    raises   OutputError: no such folder, no permission, or `target` is a folder, a socket or a disk;
             OutputExistsError: the file exists
    """
    _check_replace(_destination(target), replace)


def is_written_through(target: Path) -> bool:
    """Return whether `target` is a device, a pipe or an open descriptor, such as /dev/stdout."""
    return _destination(target).is_through


@contextmanager
def part_file(target: Path, *, replace: bool) -> Iterator[Path]:
    """Yield the path of an empty regular file, and bring it to `target` when the block ends without an error.

    The block fills the file and syncs it to the disk. If it raises, the file is deleted and `target` is unchanged. If
    the complete file cannot be brought to `target`, it is kept under a name that the error gives.

    replace  whether an existing file may be replaced
    raises   OutputError: the file cannot be written; OutputExistsError: `target` exists, before or after the block
    """
    destination = _destination(target)
    _check_replace(destination, replace)
    with ExitStack() as held:
        with as_output_error(target):
            part, created = _create_part(destination, held)
        try:
            yield part
            with as_output_error(target):
                if not os.path.samestat(created, part.stat()):
                    raise OutputError(f"{part} was replaced by another process. Run the command again.")
        except BaseException:
            _delete(part, created)
            raise
        try:
            now = _destination(target)
            _check_replace(now, replace)
            _publish(part, now)
        except (OutputError, OSError) as error:
            raise _kept(part, destination.final, error) from error
    _sync_folder(destination.final.parent)


@contextmanager
def open_output(target: Path) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes bytes to `target`; a regular file appears when the block ends without an error.

    A device, a pipe or an open descriptor cannot be replaced: the bytes are written to it as they come.

    raises  OutputError, from the function too; BrokenPipeError: the reader of a pipe has closed it
    """
    destination = _destination(target)
    if destination.is_through:
        with _writer(lambda: _open_through(destination), target, sync=False) as write:
            yield write
    else:
        with (
            part_file(target, replace=True) as part,
            _writer(lambda: part.open("r+b"), target, sync=True) as write,
        ):
            yield write


@contextmanager
def _writer(open_it: Callable[[], BinaryIO], target: Path, *, sync: bool) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes to what `open_it` opens; its errors name `target`."""
    with as_output_error(target):
        stream = open_it()

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


# What a target is


def _destination(target: Path) -> _Destination:
    """Find out what a target leads to.

    raises  OutputError: it cannot be written
    """
    with as_output_error(target):
        descriptor = _descriptor_of(target)
        if descriptor is not None:
            _check_writable(descriptor)
            return _Destination(target, target, descriptor=descriptor, is_through=True)
        final = Path(os.path.realpath(target)) if target.is_symlink() else target
        if not final.parent.is_dir():
            raise OutputError(
                f"Cannot write {target}: there is no folder {final.parent}. Create it, or choose another one."
            )
        try:
            found = target.stat()
        except FileNotFoundError:
            found = None
        folder_is_writable = os.access(final.parent, os.W_OK | os.X_OK)
        if found is None:
            if not folder_is_writable:
                raise OutputError(
                    f"Cannot write {target}: Permission denied, or a read-only disk: no file can be made in "
                    f"{final.parent}. Choose another folder."
                )
            return _Destination(target, final)
    kind = next((name for is_kind, name in _NOT_WRITTEN if is_kind(found.st_mode)), None)
    if kind is not None:
        raise OutputError(f"Cannot write {target}: it is {kind}. {_ADVICE.get(kind, 'Choose another name.')}")
    if not stat.S_ISREG(found.st_mode):
        return _Destination(target, final, is_through=True)
    if not os.access(final, os.W_OK):
        raise OutputError(f"Cannot write {target}: Permission denied, it is read-only. Choose another name.")
    in_place = not folder_is_writable or _is_mount_point(final)
    return _Destination(target, final, existing=found, in_place=in_place)


_NOT_WRITTEN = ((stat.S_ISDIR, "a folder"), (stat.S_ISSOCK, "a socket"), (stat.S_ISBLK, "a disk (a block device)"))
_ADVICE = {"a folder": "Add a file name."}


def _check_replace(destination: _Destination, replace: bool) -> None:
    if destination.existing is not None and not replace:
        raise OutputExistsError(
            f"{destination.target} exists already. Choose another name, or replace it with --force "
            "(in Python: force=True)."
        )


def _descriptor_of(target: Path) -> int | None:
    """Return the open descriptor of this process that a path names, also through symbolic links; else None.

    Such a path leads to the file that the descriptor has open. Opening that file anew would write at its start.
    """
    path = os.path.abspath(target)
    for _ in range(40):
        match = _DESCRIPTOR.fullmatch(path)
        if match:
            if path.startswith("/proc/") and path.split("/")[2] not in ("self", "thread-self", str(os.getpid())):
                return None
            return _STANDARD[match["name"]] if match["name"] else int(match["number"])
        if not os.path.islink(path):
            return None
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    return None


def _check_writable(descriptor: int) -> None:
    try:
        os.write(descriptor, b"")
    except OSError as error:
        raise OSError(error.errno, "it is not open for writing") from error


def _is_mount_point(path: Path) -> bool:
    """Return whether a file was mounted by itself, as containers do: it cannot be replaced by renaming."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return False
    real = os.path.realpath(path)
    return any(
        re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4]) == real
        for line in mounts.splitlines()
    )


# The part file


def _create_part(destination: _Destination, held: ExitStack) -> tuple[Path, os.stat_result]:
    """Create the empty part file, locked against other processes while `held` is open."""
    elsewhere = destination.is_through or destination.in_place
    folder = Path(tempfile.gettempdir()) if elsewhere else destination.final.parent
    part = folder / (destination.final.name + ".part")
    if elsewhere or len(os.fsencode(part.name)) > _LONGEST_NAME or not _can_be_replaced(part):
        part = folder / f"qgguf-{secrets.token_hex(8)}.part"
    else:
        with suppress(FileNotFoundError), part.open("rb") as left:
            if not _lock(left):
                raise OutputError(
                    f"Another process is writing {destination.target}. Wait for it, or choose another name."
                )
            part.unlink()
    # The part is never readable by more users than the file that it becomes.
    mode = 0o666 if destination.existing is None and not elsewhere else 0o600
    stream = held.enter_context(os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode), "r+b"))
    _lock(stream)
    return part, os.fstat(stream.fileno())


def _can_be_replaced(part: Path) -> bool:
    """Return whether nothing is under the name of the part file but what a run before may have left."""
    try:
        return stat.S_ISREG(part.lstat().st_mode)
    except FileNotFoundError:
        return True


def _lock(stream: BinaryIO) -> bool:
    """Lock a file until it is closed; return False if another process has it locked."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _publish(part: Path, destination: _Destination) -> None:
    """Bring the complete part file to its destination."""
    existing = destination.existing
    if destination.is_through or destination.in_place:
        _copy(part, destination)
        return
    if existing is not None:
        if hasattr(os, "chown") and (existing.st_uid, existing.st_gid) != (part.stat().st_uid, part.stat().st_gid):
            with suppress(OSError):
                os.chown(part, existing.st_uid, existing.st_gid)
        os.chmod(part, stat.S_IMODE(existing.st_mode))
    try:
        os.replace(part, destination.final)
    except OSError:
        if existing is None:
            raise
        _copy(part, destination)


def _copy(part: Path, destination: _Destination) -> None:
    """Write the part file into what is there, and delete it."""
    with part.open("rb") as source, _open_through(destination) as out:
        shutil.copyfileobj(source, out, _COPY_BYTES)
        out.flush()
        if not destination.is_through:
            out.truncate()
            os.fsync(out.fileno())
    part.unlink()


def _open_through(destination: _Destination) -> BinaryIO:
    """Open what is there for writing, without replacing or cutting it."""
    if destination.descriptor is not None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        return os.fdopen(os.dup(destination.descriptor), "wb")
    flags = os.O_WRONLY | getattr(os, "O_BINARY", 0)
    return os.fdopen(os.open(destination.final, flags), "wb")


def _kept(part: Path, final: Path, error: Exception) -> OutputError:
    """Give the complete part file a name that no later run deletes; return the error that names it."""
    folder, number = part.parent, 1
    name = final.name if len(os.fsencode(final.name)) < _LONGEST_NAME - 20 else "qgguf-output"
    while True:
        kept = folder / f"{name}.kept{f'-{number}' if number > 1 else ''}"
        if not os.path.lexists(kept):
            break
        number += 1
    try:
        os.rename(part, kept)
    except OSError:
        kept = part
    reason = str(error) if isinstance(error, OutputError) else f"Cannot write {final}: {_reason(error)}."
    kind = OutputExistsError if isinstance(error, OutputExistsError) else OutputError
    return kind(f"{reason} The complete output is kept: {kept}")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _delete(part: Path, created: os.stat_result | None) -> None:
    """Delete the part file unless another process has replaced it; the error that led here is the one to report."""
    with suppress(OSError):
        if created is not None and os.path.samestat(created, part.stat()):
            part.unlink()


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where folders can be synced (not on Windows)."""
    if os.name != "posix":
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # a folder that may be written, and not read
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot; the file itself is synced
    finally:
        os.close(handle)
