"""Sync a growing file to the disk in a background thread, so that the last sync has little left to write."""

import os
import threading
from pathlib import Path
from types import TracebackType

from qgguf.atomic_file import as_output_error

# Written between two syncs: enough that each is worth its journal entry, and little for the last one to wait for.
_SYNC_BYTES = 64 << 20


class Writeback:
    """Syncs a file while it is written, and while it is read again; used as a `with` block.

    After the block the file is on the disk, if `finish` was called in it.

    raises  OutputError, from `wrote` and at the end of the block: the disk reported an error
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
            self._raise_failure()

    def wrote(self, n_bytes: int) -> None:
        """Count bytes that were written just now, from any thread."""
        self._raise_failure()
        with self._changed:
            self._pending_bytes += n_bytes
            if self._pending_bytes >= _SYNC_BYTES:
                self._changed.notify()

    def finish(self) -> None:
        """Request the last sync: everything is written."""
        with self._changed:
            self._last = True
            self._changed.notify()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            with as_output_error(self._part):
                raise self._failure

    def _run(self) -> None:
        try:
            with self._part.open("r+b", buffering=0) as file:
                while self._due():
                    os.fsync(file.fileno())
        except BaseException as error:
            # Stored, because the system reports a failed write once: a later sync would succeed.
            self._failure = error

    def _due(self) -> bool:
        """Wait until there is something to sync; return False when nothing more comes."""
        with self._changed:
            while not self._last and not self._stopped and self._pending_bytes < _SYNC_BYTES:
                self._changed.wait()
            due = self._last or not self._stopped
            self._pending_bytes, self._stopped, self._last = 0, self._stopped or self._last, False
            return due
