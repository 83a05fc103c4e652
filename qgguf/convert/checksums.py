"""SHA-256 of the weight files, computed in a thread of its own from the start of a conversion.

It runs while the tokenizer is read, when the other cores have nothing to do yet, and ahead of the threads that convert,
so that they find in the page cache what it has read.
"""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from qgguf.errors import CheckpointError

# Reading and hashing run without Python's lock. To get it back from a thread that runs Python takes up to 5 ms, from
# one that parses tokenizer.json 0.1 s: large blocks. Small ones stay in a core's cache, a sixth faster.
_BLOCK_BYTES = 32 << 20
_UNDISTURBED_BYTES = 1 << 20


class Checksums:
    """As a `with` block: hashing starts at its beginning and has ended, done or not, at its end."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._before = {file: _state(file) for file in files}
        self._digests: list[str] = []
        self._failure: BaseException | None = None
        self._stopped = False
        self._block_bytes = _BLOCK_BYTES
        self._thread = threading.Thread(target=self._run, name="qgguf-checksums", daemon=True)

    def __enter__(self) -> "Checksums":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped = True
        self._thread.join()

    def undisturbed(self) -> None:
        """From now on other threads hold the GIL only briefly."""
        self._block_bytes = _UNDISTURBED_BYTES

    def wait(self) -> list[tuple[str, str]]:
        """(hex digest, file name) of each file, once all are known; to be called when all has been converted.

        raises  CheckpointError: a file that cannot be read, or was changed meanwhile
        """
        while self._thread.is_alive():
            self._thread.join(0.1)  # in steps, so that Ctrl-C is heard on every system
        if self._failure is not None:
            raise self._failure
        for file, state in self._before.items():
            if _state(file) != state:
                raise CheckpointError(f"{file} was changed while it was converted. Convert again.")
        return [(digest, file.name) for digest, file in zip(self._digests, self._before, strict=True)]

    def _run(self) -> None:
        try:
            block = bytearray(_BLOCK_BYTES)
            for file in self._before:
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
    """Changes when the file does; None where it is not there."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
