"""Hashes of files, read in blocks of 1 MiB."""

import hashlib
from pathlib import Path
from typing import Any, BinaryIO

from qgguf.types import Progress

_BLOCK_BYTES = 1 << 20


def sha256_of(path: Path, on_progress: Progress | None = None) -> str:
    """Return the SHA-256 of a file, in hex digits.

    on_progress  called with bytes read and bytes in all
    raises       OSError
    """
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        update_from(hasher, stream, path.stat().st_size, on_progress)
    return hasher.hexdigest()


def update_from(hasher: Any, stream: BinaryIO, total_bytes: int = 0, on_progress: Progress | None = None) -> int:
    """Hash a stream to its end and return the number of bytes read.

    hasher       an object of `hashlib`
    total_bytes  second argument of `on_progress`
    """
    done_bytes = 0
    while block := stream.read(_BLOCK_BYTES):
        hasher.update(block)
        done_bytes += len(block)
        if on_progress:
            on_progress(done_bytes, total_bytes)
    return done_bytes
