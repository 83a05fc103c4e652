"""Notices that a file was written to while its pages are mapped into memory.

llama.cpp reads weights from the file's pages when they are first used. A program that writes into the file, as `cp`
does over an existing name, changes weights that are in use: vectors are wrong, or the process ends by SIGBUS. A file
that is deleted, or replaced by renaming, stays as it was for the processes that have it open.
"""

import os
import weakref

from qgguf.errors import ModelFileError


class MappedFile:
    """A file that was opened before it was mapped.

    raises  ModelFileError: the file cannot be read

    close   function that closes the file; may be called again
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise ModelFileError(f"Cannot read {path}: {error.strerror or error}") from error
        # Collected without `close`, as a model may be, a file object would warn.
        self.close = weakref.finalize(self, os.close, self._descriptor)
        self._state = self._read_state()

    def check(self) -> None:
        """Check that size and modification time are those at opening. Takes a microsecond.

        raises  ModelFileError: they differ
        """
        if self._read_state() != self._state:
            raise ModelFileError(
                f"{self._path} was written to while it was open, and its weights are read from it. Open the model "
                "again. To replace a file that is in use, write another one and rename it."
            )

    def _read_state(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns
