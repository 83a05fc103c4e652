"""The files of unfinished downloads beside the blobs of the cache.

File locks do not lock on every network file system, so several processes may download the same blob at once. Each
writes a separate file, which no other process writes:

- `<blob>.<random>.incomplete`  the part file of one process; after the process was killed, left over
- `<blob>.qgguf.incomplete`     the bytes that an interrupted download left; no process writes to it
- `<blob>.incomplete`           a part file of huggingface-hub before version 2

What others left is taken over: the second kind is renamed. The other kinds are copied, because whether their process
still runs cannot be known from another machine or container.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".incomplete"


@contextlib.contextmanager
def part_file(blob: Path) -> Iterator[Path]:
    """Make a file for the download of a blob, with the bytes that an earlier download left; the file may be empty.

    If the block raises, the file is kept for the next download, unless the block has deleted it.

    raises  OSError
    """
    part = blob.with_name(f"{blob.name}.{secrets.token_hex(8)}{_SUFFIX}")
    rest = _rest_of(blob)
    try:
        _take_over(blob, part)
        yield part
    except BaseException:
        with contextlib.suppress(OSError):
            if _size_of(rest) <= _size_of(part):
                os.replace(part, rest)
        raise


def publish(part: Path, blob: Path) -> None:
    """Rename a complete and verified part file to its blob, and delete what other downloads of the blob left.

    raises  OSError
    """
    try:
        os.replace(part, blob)
    except FileNotFoundError:
        # Another process has published the blob, and has deleted the other part files.
        if not blob.exists():
            raise
    delete_parts(blob)


def delete_parts(blob: Path) -> None:
    """Delete all part files of a blob, so that the next download starts at the first byte.

    A process that still writes to one of them either finds the blob at its end or fails there.
    """
    for part in _parts_of(blob):
        # Windows does not delete open files.
        with contextlib.suppress(OSError):
            part.unlink()


def _rest_of(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.qgguf{_SUFFIX}")


def _parts_of(blob: Path) -> list[Path]:
    paths = (path for path in blob.parent.iterdir() if path.name.startswith(f"{blob.name}."))
    return [path for path in paths if path.name.endswith(_SUFFIX) and path.is_file() and not path.is_symlink()]


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _take_over(blob: Path, part: Path) -> None:
    """Make `part` with the bytes of the largest part file, or empty."""
    rest = _rest_of(blob)
    for left in sorted(_parts_of(blob), key=_size_of, reverse=True):
        # What cannot be read, or was renamed in the meantime, is left to the others.
        with contextlib.suppress(OSError):
            if left == rest:
                os.replace(left, part)
            else:
                shutil.copyfile(left, part)
            return
    part.touch()
