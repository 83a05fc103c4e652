"""The one pass: weight files are read once, in order, hashed, converted in row chunks on all threads, and written.

Where every tensor will lie is known before it starts, so each thread writes its own chunks and none waits for another.
Each thread holds one chunk: about 4 MB.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qgguf.convert.header import TensorPlace
from qgguf.convert.mixture import TYPE_IDS
from qgguf.convert.part_file import told
from qgguf.convert.safetensors import StoredTensor
from qgguf.errors import CheckpointError
from qgguf.gguf_header import row_bytes
from qgguf.native.quantize import is_finite, quantize_rows

Progress = Callable[[int, int], None]

CHUNK_BYTES = 1 << 20
# Numbers widened to float32 at once: 256 KB stay in a core's cache.
BLOCK_ELEMENTS = 1 << 16
_REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Job:
    """One tensor: where it lies in the checkpoint, where it goes in the GGUF."""

    stored: StoredTensor
    place: TensorPlace


@dataclass(frozen=True, slots=True)
class _Piece:
    """Consecutive bytes of a weight file: whole rows of a job's tensor, or bytes that are only hashed."""

    file: int
    size_bytes: int
    job: Job | None = None
    first_row: int = 0


def stream(
    files: Sequence[Path], jobs: Sequence[Job], out: Path, data_offset: int, threads: int, on_progress: Progress | None
) -> list[str]:
    """Convert all jobs into `out`, which exists and has its full length.

    data_offset  bytes of `out` before its weights
    on_progress  called in the caller's thread with (bytes done, bytes in all) of the weight files
    returns      SHA-256 of each file, in hexadecimal
    raises       CheckpointError: NaN, infinity, a file that cannot be read; OutputError: one that cannot be written
    """
    work = _Pass(files, jobs, out, data_offset)
    report = on_progress or (lambda done, total: None)
    workers = [threading.Thread(target=work.run, name=f"qgguf-convert-{n}", daemon=True) for n in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_REPORT_SECONDS)
                report(work.done_bytes, work.total_bytes)
        # Small work may be done before its threads are first looked at.
        report(work.done_bytes, work.total_bytes)
    finally:
        work.stopped = True
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        work.close()
    if work.failure is not None:
        raise work.failure
    return [digest.hexdigest() for digest in work.digests]


class _Pass:
    """What the threads share; `_take` is the only place where they meet."""

    def __init__(self, files: Sequence[Path], jobs: Sequence[Job], out: Path, data_offset: int) -> None:
        self.files, self.out, self.data_offset = files, out, data_offset
        sizes = [file.stat().st_size for file in files]
        self.done_bytes, self.total_bytes = 0, sum(sizes)
        self.digests = [hashlib.sha256() for _ in files]
        self.stopped = False
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        self._pieces = _pieces(files, sizes, jobs)
        self._open: tuple[int, BinaryIO] | None = None
        rows = [_rows_at_once(job) for job in jobs]
        self._source_bytes = max(
            [CHUNK_BYTES, *(n * _source_row(job) for n, job in zip(rows, jobs, strict=True))],
        )
        self._target_bytes = max([1, *(n * _target_row(job) for n, job in zip(rows, jobs, strict=True))])
        self._scratch_elements = max([BLOCK_ELEMENTS, *(job.place.shape[0] for job in jobs)])

    def run(self) -> None:
        """One thread's work, until nothing is left or somebody failed."""
        try:
            source = np.empty(self._source_bytes, np.uint8)
            target = np.empty(self._target_bytes, np.uint8)
            scratch = np.empty(self._scratch_elements, np.float32)
            with self.out.open("r+b", buffering=0) as out:
                while (piece := self._take(source)) is not None:
                    if piece.job is not None:
                        made = _convert(piece.job, source[: piece.size_bytes], target, scratch)
                        self._write(out, piece.job, piece.first_row, made)
                    with self._lock:
                        self.done_bytes += piece.size_bytes
        except BaseException as error:
            with self._lock:
                self.stopped, self.failure = True, self.failure or error

    def _take(self, buffer: np.ndarray) -> _Piece | None:
        """Read and hash the next piece; files are read from end to end, so that the disk is too."""
        with self._lock:
            if self.stopped:
                return None
            piece = next(self._pieces, None)
            if piece is None:
                return None
            view = buffer[: piece.size_bytes].data
            self._read(piece.file, view)
            self.digests[piece.file].update(view)
            return piece

    def _read(self, number: int, view: memoryview) -> None:
        try:
            if self._open is None or self._open[0] != number:
                self.close()
                self._open = number, self.files[number].open("rb", buffering=0)
            n_read = 0
            while n_read < len(view):
                n_more = self._open[1].readinto(view[n_read:])  # type: ignore[attr-defined]
                if not n_more:
                    raise CheckpointError(f"{self.files[number]} became shorter while it was read. Convert again.")
                n_read += n_more
        except OSError as error:
            raise CheckpointError(f"Cannot read {self.files[number]}: {error.strerror or error}.") from error

    def _write(self, out: BinaryIO, job: Job, first_row: int, made: np.ndarray) -> None:
        view = made.data
        with told(self.out):
            out.seek(self.data_offset + job.place.offset + first_row * _target_row(job))
            while view:
                view = view[out.write(view) :]

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None


def _convert(job: Job, source: np.ndarray, target: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    source_type = TYPE_IDS[job.stored.dtype]
    if not is_finite(source_type, source):
        raise CheckpointError(
            f"{job.stored.file.name} holds NaN or infinity in {job.stored.name!r}. Download the checkpoint again."
        )
    columns, type_id = job.place.shape[0], job.place.type_id
    if not quantize_rows(source_type, source, columns, type_id, target, scratch):
        raise CheckpointError(
            f"{job.stored.file.name} has weights in {job.stored.name!r} that are too large for the type asked for. "
            "Choose BF16 or F32."
        )
    return target[: source.nbytes // _source_row(job) * _target_row(job)]


def _source_row(job: Job) -> int:
    return row_bytes(TYPE_IDS[job.stored.dtype], job.place.shape[0])


def _target_row(job: Job) -> int:
    return row_bytes(job.place.type_id, job.place.shape[0])


def _rows_at_once(job: Job) -> int:
    return max(1, CHUNK_BYTES // _source_row(job))


def _pieces(files: Sequence[Path], sizes: Sequence[int], jobs: Sequence[Job]) -> Iterator[_Piece]:
    """The weight files from first byte to last."""
    for number, (file, size_bytes) in enumerate(zip(files, sizes, strict=True)):
        at = 0
        for job in sorted((job for job in jobs if job.stored.file == file), key=lambda job: job.stored.offset):
            yield from _only_hashed(number, job.stored.offset - at)
            row, n_rows = _source_row(job), job.stored.size_bytes // _source_row(job)
            for first in range(0, n_rows, _rows_at_once(job)):
                rows = min(_rows_at_once(job), n_rows - first)
                yield _Piece(number, rows * row, job, first)
            at = job.stored.offset + job.stored.size_bytes
        yield from _only_hashed(number, size_bytes - at)


def _only_hashed(number: int, n_bytes: int) -> Iterator[_Piece]:
    for start in range(0, n_bytes, CHUNK_BYTES):
        yield _Piece(number, min(CHUNK_BYTES, n_bytes - start))
