"""A file that appears whole or not at all: written beside its place as NAME.part, and renamed when it is complete."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from qgguf.errors import OutputError, OutputExistsError

# Written between two syncs: enough that each is worth its journal entry, and little for the last one to wait for.
_SYNC_BYTES = 64 << 20


def refuse_existing(target: Path, force: bool) -> None:
    """raises  OutputExistsError: it is there, and may not be replaced"""
    if not force and target.exists():
        raise OutputExistsError(f"{target} is there already. Choose another name, or replace it with --force.")


@contextmanager
def told(target: Path) -> Iterator[None]:
    """Convert OSError to OutputError. Wrap only our own file operations."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror or error}. Nothing is kept.") from error


@contextmanager
def part_of(target: Path, force: bool) -> Iterator[Path]:
    """An empty file for the body of the `with` to fill and sync; it takes the target's place if all went well.

    raises  OutputError: it cannot be written; OutputExistsError: the target appeared meanwhile
    """
    part = target.with_name(target.name + ".part")
    try:
        with told(target):
            part.unlink(missing_ok=True)
            with part.open("xb") as file:
                made = os.fstat(file.fileno())
        yield part
        refuse_existing(target, force)
        with told(target):
            if not os.path.samestat(made, part.stat()):
                raise OutputError(f"{part} was replaced by another process. Convert again.")
            os.replace(part, target)
    finally:
        _forget(part)
    _sync_folder(target.parent)


class Writeback:
    """Brings the part to the disk in a thread of its own, while it is still written and while it is read again.

    As a `with` block, at whose end the file is on the disk if `finish` was called in it.

    raises  OutputError, from `wrote` and at the end: the disk did not take it
    """

    def __init__(self, part: Path) -> None:
        self._part = part
        self._pending_bytes, self._last, self._stopped = 0, False, False
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="qgguf-writeback", daemon=True)

    def __enter__(self) -> "Writeback":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()
        if error is None:
            self._tell()

    def wrote(self, n_bytes: int) -> None:
        """So many bytes more are written; from any thread."""
        self._tell()
        with self._changed:
            self._pending_bytes += n_bytes
            if self._pending_bytes >= _SYNC_BYTES:
                self._changed.notify()

    def finish(self) -> None:
        """All is written: sync a last time."""
        with self._changed:
            self._last = True
            self._changed.notify()

    def _tell(self) -> None:
        if self._failure is not None:
            with told(self._part):
                raise self._failure

    def _run(self) -> None:
        try:
            with self._part.open("r+b", buffering=0) as file:
                while self._due():
                    os.fsync(file.fileno())
        except BaseException as error:
            # Kept: the system tells of a failure once, a later sync would succeed.
            self._failure = error

    def _due(self) -> bool:
        """Wait until there is something to sync; False when there is nothing more to come."""
        with self._changed:
            while not self._last and not self._stopped and self._pending_bytes < _SYNC_BYTES:
                self._changed.wait()
            due = self._last or not self._stopped
            self._pending_bytes, self._stopped, self._last = 0, self._stopped or self._last, False
            return due


def check_room(folder: Path, needed_bytes: int) -> None:
    """raises  OutputError: the disk has less room than that"""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, the file needs {needed_bytes / 1e9:.2f} GB. "
            "Make room, or write elsewhere."
        )


def _forget(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        pass  # what went wrong before is the thing to report


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where folders can be synced (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot; the file itself is synced
    finally:
        os.close(handle)
