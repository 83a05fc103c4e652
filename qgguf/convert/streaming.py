"""Convert the weights in one pass: each thread reads a chunk of rows, converts it and writes it.

The chunks are read in the order of the files. The offset of every tensor in the output is known from the start, so they
may be written in any order. A thread holds one chunk, about 4 MB.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np

from qgguf.atomic_file import as_output_error
from qgguf.convert.safetensors import StoredTensor
from qgguf.errors import CheckpointError
from qgguf.gguf_format.tensors import TYPE_IDS, TensorInfo, row_bytes
from qgguf.native.quantize import is_finite, quantize_rows
from qgguf.types import Progress

CHUNK_BYTES = 1 << 20
# Elements widened to float32 at once: 256 KB stay in a core's cache.
BLOCK_ELEMENTS = 1 << 16
_REPORT_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class TensorConversion:
    """One tensor to convert.

    source  where it is in the checkpoint
    target  where it goes in the GGUF file
    """

    source: StoredTensor
    target: TensorInfo


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Some whole rows of a tensor: what one thread converts at a time."""

    tensor: TensorConversion
    first_row: int
    n_rows: int


def convert_tensors(
    tensors: Sequence[TensorConversion],
    out: Path,
    data_offset: int,
    threads: int,
    on_progress: Progress | None,
    on_written: Callable[[int], None],
) -> None:
    """Convert all tensors into `out`, which exists and has its full length.

    data_offset  where the weights begin in `out`
    on_progress  called in the caller's thread with bytes done and bytes in all, of the source's weights
    on_written   called in any thread with the number of bytes written just now
    raises       CheckpointError: NaN, infinity, a file that cannot be read; OutputError: `out` cannot be written
    """
    shared = _SharedState(tensors, out, data_offset, on_written)
    report = on_progress or (lambda done_bytes, total_bytes: None)
    workers = [threading.Thread(target=shared.work, name=f"qgguf-convert-{n}", daemon=True) for n in range(threads)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                worker.join(_REPORT_SECONDS)
                report(shared.done_bytes, shared.total_bytes)
        if shared.failure is None:
            report(shared.done_bytes, shared.total_bytes)
    finally:
        shared.stopped = True
        for worker in workers:
            if worker.ident is not None:
                worker.join()
    if shared.failure is not None:
        raise shared.failure


class _SharedState:
    """What the threads share: the chunks to take, the output, the bytes done and the first failure."""

    def __init__(
        self, tensors: Sequence[TensorConversion], out: Path, data_offset: int, on_written: Callable[[int], None]
    ) -> None:
        self.out, self.data_offset, self.on_written = out, data_offset, on_written
        self.done_bytes, self.total_bytes = 0, sum(tensor.source.size_bytes for tensor in tensors)
        self.stopped = False
        self.failure: BaseException | None = None
        self._lock = threading.Lock()
        # A file system lets one thread write to a file at a time; the others would spin, with this lock they sleep.
        self._write_lock = threading.Lock()
        self._chunks = _chunks(tensors)
        self._source_bytes = max([CHUNK_BYTES, *(_chunk_rows(t) * _source_row_bytes(t) for t in tensors)])
        self._target_bytes = max([1, *(_chunk_rows(t) * _target_row_bytes(t) for t in tensors)])
        self._float_elements = max([BLOCK_ELEMENTS, *(tensor.target.shape[0] for tensor in tensors)])

    def work(self) -> None:
        """Convert chunks in one thread, until none is left or a thread has failed."""
        try:
            buffer = np.empty(self._source_bytes, np.uint8)
            target = np.empty(self._target_bytes, np.uint8)
            floats = np.empty(self._float_elements, np.float32)
            with ExitStack() as opened, self.out.open("r+b", buffering=0) as out:
                sources: dict[Path, FileIO] = {}
                while (chunk := self._next()) is not None:
                    file = chunk.tensor.source.file
                    if file not in sources:
                        opened.close()
                        sources = {file: opened.enter_context(_open(file))}
                    source = buffer[: chunk.n_rows * _source_row_bytes(chunk.tensor)]
                    _read(sources[file], chunk, source.data)
                    self._write(out, chunk, _convert(chunk.tensor, source, target, floats))
                    with self._lock:
                        self.done_bytes += source.nbytes
        except BaseException as error:
            with self._lock:
                self.stopped, self.failure = True, self.failure or error

    def _next(self) -> _Chunk | None:
        with self._lock:
            return None if self.stopped else next(self._chunks, None)

    def _write(self, out: FileIO, chunk: _Chunk, converted: np.ndarray) -> None:
        view = converted.data
        with as_output_error(self.out), self._write_lock:
            first_byte = chunk.first_row * _target_row_bytes(chunk.tensor)
            out.seek(self.data_offset + chunk.tensor.target.offset + first_byte)
            while view:
                view = view[out.write(view) :]
        self.on_written(converted.nbytes)


def _open(file: Path) -> FileIO:
    try:
        return file.open("rb", buffering=0)
    except OSError as error:
        raise CheckpointError(f"Cannot read {file}: {error.strerror or error}.") from error


def _read(file: FileIO, chunk: _Chunk, view: memoryview) -> None:
    source = chunk.tensor.source
    try:
        file.seek(source.offset + chunk.first_row * _source_row_bytes(chunk.tensor))
        while view:
            n_bytes = file.readinto(view)
            if not n_bytes:
                raise CheckpointError(f"{source.file} became shorter while it was read. Convert again.")
            view = view[n_bytes:]
    except OSError as error:
        raise CheckpointError(f"Cannot read {source.file}: {error.strerror or error}.") from error


def _convert(tensor: TensorConversion, source: np.ndarray, target: np.ndarray, floats: np.ndarray) -> np.ndarray:
    """Return the rows in `source` as they are stored in the output: `source` itself, or a part of `target`."""
    file_name, name, source_type = tensor.source.file.name, tensor.source.name, TYPE_IDS[tensor.source.dtype]
    if not is_finite(source_type, source):
        raise CheckpointError(f"{file_name} holds NaN or infinity in {name!r}. Download the checkpoint again.")
    columns, target_type = tensor.target.shape[0], tensor.target.type_id
    if target_type == source_type:
        return source
    if not quantize_rows(source_type, source, columns, target_type, target, floats):
        raise CheckpointError(
            f"{file_name} has weights in {name!r} that are too large for the chosen type. Choose BF16 or F32."
        )
    return target[: source.nbytes // _source_row_bytes(tensor) * _target_row_bytes(tensor)]


def _source_row_bytes(tensor: TensorConversion) -> int:
    return row_bytes(TYPE_IDS[tensor.source.dtype], tensor.target.shape[0])


def _target_row_bytes(tensor: TensorConversion) -> int:
    return row_bytes(tensor.target.type_id, tensor.target.shape[0])


def _chunk_rows(tensor: TensorConversion) -> int:
    return max(1, CHUNK_BYTES // _source_row_bytes(tensor))


def _chunks(tensors: Sequence[TensorConversion]) -> Iterator[_Chunk]:
    """Yield all rows in the order of the weight files, so that a disk reads them from end to end."""
    for tensor in sorted(tensors, key=lambda tensor: (tensor.source.file, tensor.source.offset)):
        n_rows, n_at_once = tensor.source.size_bytes // _source_row_bytes(tensor), _chunk_rows(tensor)
        for first_row in range(0, n_rows, n_at_once):
            yield _Chunk(tensor, first_row, min(n_at_once, n_rows - first_row))
