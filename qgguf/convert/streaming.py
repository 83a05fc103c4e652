"""The one pass: weights are read once, in the order they lie, converted in row chunks on all threads, and written.

Where every tensor will lie is known before it starts, so each thread reads, converts and writes its own chunks in any
order. Each thread holds one chunk: about 4 MB.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from qgguf.atomic_file import as_output_error
from qgguf.convert.quant_recipes import TYPE_IDS
from qgguf.convert.safetensors import StoredTensor
from qgguf.errors import CheckpointError
from qgguf.gguf_format.reader import row_bytes
from qgguf.gguf_format.writer import TensorPlace
from qgguf.native.quantize import is_finite, quantize_rows
from qgguf.types import Progress

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
    """Whole rows of a job's tensor."""

    job: Job
    first_row: int
    n_rows: int


def stream(
    jobs: Sequence[Job],
    out: Path,
    data_offset: int,
    threads: int,
    on_progress: Progress | None,
    on_written: Callable[[int], None],
) -> None:
    """Convert all jobs into `out`, which exists and has its full length.

    data_offset  bytes of `out` before its weights
    on_progress  called in the caller's thread with (bytes done, bytes in all) of the weights that are converted
    on_written   called in any thread with the bytes written just now
    raises       CheckpointError: NaN, infinity, a file that cannot be read; OutputError: one that cannot be written
    """
    work = _Pass(jobs, out, data_offset, on_written)
    report = on_progress or (lambda done, total: None)
    workers = [threading.Thread(target=work.run, name=f"qgguf-convert-{n}", daemon=True) for n in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_REPORT_SECONDS)
                report(work.done_bytes, work.total_bytes)
        if work.failure is None:
            report(work.done_bytes, work.total_bytes)
    finally:
        work.stopped = True
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    if work.failure is not None:
        raise work.failure


class _Pass:
    """What the threads share; they meet where they take the next chunk and where they write."""

    def __init__(self, jobs: Sequence[Job], out: Path, data_offset: int, on_written: Callable[[int], None]) -> None:
        self.out, self.data_offset, self.on_written = out, data_offset, on_written
        self.done_bytes, self.total_bytes = 0, sum(job.stored.size_bytes for job in jobs)
        self.stopped = False
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        # A file system lets one thread write to a file at a time and has the others spin meanwhile: here they sleep.
        self._writing = threading.Lock()
        self._pieces = _pieces(jobs)
        self._source_bytes = max([CHUNK_BYTES, *(_rows_at_once(job) * _source_row(job) for job in jobs)])
        self._target_bytes = max([1, *(_rows_at_once(job) * _target_row(job) for job in jobs)])
        self._scratch_elements = max([BLOCK_ELEMENTS, *(job.place.shape[0] for job in jobs)])

    def run(self) -> None:
        """One thread's work, until nothing is left or somebody failed."""
        try:
            buffer = np.empty(self._source_bytes, np.uint8)
            target = np.empty(self._target_bytes, np.uint8)
            scratch = np.empty(self._scratch_elements, np.float32)
            with ExitStack() as opened, self.out.open("r+b", buffering=0) as out:
                sources: dict[Path, FileIO] = {}
                while (piece := self._next()) is not None:
                    file = piece.job.stored.file
                    if file not in sources:
                        opened.close()
                        sources = {file: opened.enter_context(_open(file))}
                    source = buffer[: piece.n_rows * _source_row(piece.job)]
                    _read(sources[file], piece, source.data)
                    self._write(out, piece, _convert(piece.job, source, target, scratch))
                    with self._lock:
                        self.done_bytes += source.nbytes
        except BaseException as error:
            with self._lock:
                self.stopped, self.failure = True, self.failure or error

    def _next(self) -> _Piece | None:
        with self._lock:
            return None if self.stopped else next(self._pieces, None)

    def _write(self, out: FileIO, piece: _Piece, made: np.ndarray) -> None:
        view = made.data
        with as_output_error(self.out), self._writing:
            out.seek(self.data_offset + piece.job.place.offset + piece.first_row * _target_row(piece.job))
            while view:
                view = view[out.write(view) :]
        self.on_written(made.nbytes)


def _open(file: Path) -> FileIO:
    try:
        return file.open("rb", buffering=0)
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror or error}.") from error


def _read(source: FileIO, piece: _Piece, view: memoryview) -> None:
    stored = piece.job.stored
    try:
        source.seek(stored.offset + piece.first_row * _source_row(piece.job))
        while view:
            n_bytes = source.readinto(view)
            if not n_bytes:
                raise CheckpointError(f"{stored.file} became shorter while it was read. Convert again.")
            view = view[n_bytes:]
    except OSError as error:
        raise CheckpointError(f"Cannot read {stored.file}: {error.strerror or error}.") from error


def _convert(job: Job, source: np.ndarray, target: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    source_type = TYPE_IDS[job.stored.dtype]
    if not is_finite(source_type, source):
        raise CheckpointError(
            f"{job.stored.file.name} holds NaN or infinity in {job.stored.name!r}. Download the checkpoint again."
        )
    columns, type_id = job.place.shape[0], job.place.type_id
    if type_id == source_type:
        return source
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


def _pieces(jobs: Sequence[Job]) -> Iterator[_Piece]:
    """All rows, in the order they lie in the weight files, so that a disk reads them from end to end."""
    for job in sorted(jobs, key=lambda job: (job.stored.file, job.stored.offset)):
        n_rows, at_once = job.stored.size_bytes // _source_row(job), _rows_at_once(job)
        for first in range(0, n_rows, at_once):
            yield _Piece(job, first, min(at_once, n_rows - first))
