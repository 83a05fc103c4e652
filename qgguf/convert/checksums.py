"""Compute the SHA-256 of the weight files in a background thread, from the start of a conversion.

It runs while the tokenizer is read, when the other cores are idle, and ahead of the threads that convert: they find in
the page cache what it has read.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from qgguf.errors import CheckpointError

# Reading and hashing release the GIL. Getting it back takes up to 5 ms while another thread runs Python code, and 0.1 s
# while one parses tokenizer.json, so blocks are large then. Small blocks stay in a core's cache: a sixth faster.
_LARGE_BLOCK_BYTES = 32 << 20
_SMALL_BLOCK_BYTES = 1 << 20


class Checksums:
    """Hashes files while its `with` block runs; at the end of the block the thread has ended, complete or not."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._states = {file: _state(file) for file in files}
        self._digests: list[str] = []
        self._failure: BaseException | None = None
        self._stopped = False
        self._block_bytes = _LARGE_BLOCK_BYTES
        self._thread = threading.Thread(target=self._run, name="qgguf-checksums", daemon=True)

    def __enter__(self) -> "Checksums":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()

    def use_small_blocks(self) -> None:
        """Hash small blocks from now on: other threads hold the GIL only briefly."""
        self._block_bytes = _SMALL_BLOCK_BYTES

    def wait(self) -> list[tuple[str, str]]:
        """Wait for all digests, and return (hex digest, file name) of each file. Call it when everything is converted.

        raises  CheckpointError: a file cannot be read, or has changed since the start
        """
        while self._thread.is_alive():
            self._thread.join(0.1)  # in steps: on Windows, Ctrl-C does not interrupt a wait
        if self._failure is not None:
            raise self._failure
        for file, state in self._states.items():
            if _state(file) != state:
                raise CheckpointError(f"{file} was changed while it was converted. Convert again.")
        return [(digest, file.name) for digest, file in zip(self._digests, self._states, strict=True)]

    def _run(self) -> None:
        try:
            block = bytearray(_LARGE_BLOCK_BYTES)
            for file in self._states:
                self._digests.append(self._digest(file, memoryview(block)))
        except OSError as error:
            self._failure = CheckpointError(f"Cannot read {error.filename}: {error.strerror or error}.")
        except BaseException as error:
            self._failure = error

    def _digest(self, file: Path, block: memoryview) -> str:
        digest = hashlib.sha256()
        with file.open("rb", buffering=0) as stream:
            while not self._stopped and (n_bytes := stream.readinto(block[: self._block_bytes])):
                digest.update(block[:n_bytes])
        return digest.hexdigest()


def _state(file: Path) -> tuple[int, int, int] | None:
    """Return values that change when the file does; None if it does not exist."""
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
