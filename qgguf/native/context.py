"""A place to compute: KV cache and scratch over one model, and the call that turns token ids into vectors."""

import ctypes
import weakref
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgguf.errors import NativeError
from qgguf.native import binding
from qgguf.native.model import NativeModel
from qgguf.spec import ModelSpec, Pooling

Ids = NDArray[np.int32]
Vectors = NDArray[np.float32]

MAX_TEXTS = 64
"""Texts in one batch. llama.cpp keeps a row of logits for each, 0.6 MB at 151,669 tokens of vocabulary."""

MICRO_BATCH = 512
BATCH_TOKENS = 2048

# What llama_decode and llama_encode return, and what it means for us.
DECODE_CODES = {
    1: "no room in the KV cache",
    2: "aborted",
    -1: "invalid batch",
    -2: "out of memory while preparing the batch",
    -3: "the computation failed",
}


class ComputePath(Enum):
    """How vectors are taken out of llama.cpp.

    LAST_ROWS  the last token's row of the final norm, read by a callback that then stops the graph: the vocabulary
               projection never runs. Causal models with last-token pooling.
    POOLED     llama.cpp's own pooling, all tokens as outputs. Every model; the oracle of the other.
    """

    LAST_ROWS = "last rows"
    POOLED = "pooled by llama.cpp"

    @staticmethod
    def best_for(spec: ModelSpec, pooling: Pooling) -> "ComputePath":
        """The cheapest path that gives the model's vectors."""
        return ComputePath.LAST_ROWS if spec.causal and pooling is Pooling.LAST else ComputePath.POOLED


class NativeContext:
    """A place to compute: KV cache and scratch for batches of texts over one NativeModel. Not thread-safe.

    cells      tokens in one batch, all texts together; one text may take them all
    threads    CPU threads
    pooling    how a text's vector is made
    path       how it is read
    """

    def __init__(self, model: NativeModel, *, cells: int, threads: int, pooling: Pooling, path: ComputePath) -> None:
        llama = binding.llama()
        self.model, self.pooling, self.path, self.cells = model, pooling, path, cells
        one_pass = path is ComputePath.POOLED and not (model.spec.causal and pooling is Pooling.LAST)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = cells
        parameters.n_batch = (
            cells if one_pass else min(cells, BATCH_TOKENS if path is ComputePath.LAST_ROWS else MICRO_BATCH)
        )
        parameters.n_ubatch = parameters.n_batch if one_pass else min(parameters.n_batch, MICRO_BATCH)
        parameters.n_seq_max = MAX_TEXTS
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        parameters.pooling_type = int(pooling)
        parameters.embeddings = path is ComputePath.POOLED
        parameters.offload_kqv = parameters.op_offload = model.device != "cpu"
        if path is ComputePath.LAST_ROWS:
            parameters.n_outputs_max = MAX_TEXTS
            self._rows = _RowReader(model.spec.dims)
            parameters.cb_eval = self._rows.callback
        self.batch_tokens: int = parameters.n_batch
        binding.last_complaint()
        self._handle: int | None = llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise NativeError(
                f"No room to compute {cells:,} tokens at once: {binding.last_complaint() or 'llama.cpp says no more'}. "
                "Set a smaller max_tokens."
            )
        self._memory = llama.llama_get_memory(self._handle)
        self._finalizer = weakref.finalize(self, llama.llama_free, self._handle)

    def close(self) -> None:
        self._handle = None
        self._finalizer()

    def vectors(self, texts: Sequence[Ids]) -> Vectors:
        """One vector for each text.

        texts    ids of each text, frame included: 1 to MAX_TEXTS texts of 1 token or more, `cells` tokens in all
        returns  (n_texts, dims) float32, as the model makes them (length not 1)
        raises   NativeError with llama.cpp's code
        """
        lengths = np.array([len(ids) for ids in texts], np.int32)
        # Each of these would be an abort of the process inside llama.cpp.
        if not 1 <= len(texts) <= MAX_TEXTS or lengths.min() < 1 or lengths.sum() > self.cells:
            raise NativeError(
                f"A batch of {len(texts)} texts and {lengths.sum()} tokens; room for {self.cells} tokens."
            )
        batch = _Batch(texts, lengths)
        out = np.empty((len(texts), self.model.spec.dims), np.float32)
        try:
            for start in range(0, batch.n_tokens, self.batch_tokens):
                stop = min(start + self.batch_tokens, batch.n_tokens)
                ended = np.flatnonzero((batch.ends >= start) & (batch.ends < stop))
                self._compute(batch, start, stop)
                out[ended] = self._rows.take(len(ended)) if self.path is ComputePath.LAST_ROWS else self._pooled(ended)
        finally:
            self._forget(data=False)
        if not np.isfinite(out).all():
            # A NaN left in the cache's unused cells can reach later texts through 0 * NaN.
            self._forget(data=True)
        return out

    def _forget(self, *, data: bool) -> None:
        if self._memory:
            binding.llama().llama_memory_clear(self._memory, data)

    def _compute(self, batch: "_Batch", start: int, stop: int) -> None:
        llama = binding.llama()
        binding.last_complaint()
        call = llama.llama_decode if self._memory else llama.llama_encode
        code = call(self._handle, batch.slice(start, stop))
        if code != 0:
            what = DECODE_CODES.get(code, "an unknown failure")
            raise NativeError(
                f"llama.cpp stopped with {code}, {what}: {binding.last_complaint() or 'no reason'}.", code
            )

    def _pooled(self, texts: NDArray[np.intp]) -> Vectors:
        llama, dims = binding.llama(), self.model.spec.dims
        out = np.empty((len(texts), dims), np.float32)
        for row, text in enumerate(texts):
            pointer = llama.llama_get_embeddings_seq(self._handle, int(text))
            if not pointer:
                raise NativeError("llama.cpp gives no vector for a text: this model pools nothing. Set pooling=.")
            out[row] = np.ctypeslib.as_array(pointer, (dims,))
        return out


class _Batch:
    """Arrays of a batch as llama.cpp reads them, filled without a Python step per token."""

    def __init__(self, texts: Sequence[Ids], lengths: NDArray[np.int32]) -> None:
        ends = np.cumsum(lengths, dtype=np.int64)
        self.n_tokens = int(ends[-1])
        self.ends = ends - 1
        self.tokens = np.concatenate(texts).astype(np.int32, copy=False)
        starts = np.repeat(ends - lengths, lengths)
        self.positions = (np.arange(self.n_tokens) - starts).astype(np.int32)
        self.sequences = np.repeat(np.arange(len(texts), dtype=np.int32), lengths)
        self.sequence_pointers = self.sequences.ctypes.data + 4 * np.arange(self.n_tokens, dtype=np.uintp)
        self.sequence_counts = np.ones(self.n_tokens, np.int32)
        self.outputs = np.zeros(self.n_tokens, np.int8)
        self.outputs[self.ends] = 1

    def slice(self, start: int, stop: int) -> Any:
        """llama_batch over tokens start to stop. This object must outlive it."""
        batch = binding.llama().llama_batch()
        batch.n_tokens = stop - start
        for field, array in (
            ("token", self.tokens),
            ("pos", self.positions),
            ("n_seq_id", self.sequence_counts),
            ("seq_id", self.sequence_pointers),
            ("logits", self.outputs),
        ):
            kind = dict(batch._fields_)[field]
            setattr(batch, field, ctypes.cast(array.ctypes.data + start * array.itemsize, kind))
        return batch


class _RowReader:
    """Copies the rows of the node `result_norm` and stops the graph there, before the vocabulary projection.

    llama.cpp asks for each node "do you need it?"; at the one that is needed it computes up to it, calls again with
    ask=False, and goes on only if told so. The node holds one row for each token flagged as output.
    """

    NODE = b"result_norm\0"
    # struct ggml_tensor of the pinned binding: ne at 16, name at 256
    _NE, _NAME = 16, 256

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self._blocks: list[Vectors] = []
        self._get = binding.ggml().ggml_backend_tensor_get
        self._get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
        self._get.restype = None
        self.callback = binding.llama().ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, tensor: int, ask: bool, _data: Any) -> bool:
        if ask:
            return ctypes.string_at(tensor + self._NAME, len(self.NODE)) == self.NODE
        n_columns, n_rows = (ctypes.c_int64 * 2).from_address(tensor + self._NE)
        if n_rows and n_columns == self.dims:
            rows = np.empty((n_rows, self.dims), np.float32)
            self._get(tensor, rows.ctypes.data, 0, rows.nbytes)
            self._blocks.append(rows)
        return False

    def take(self, n_rows: int) -> Vectors:
        """The rows read since the last call, which must be `n_rows`."""
        blocks, self._blocks = self._blocks, []
        got = sum(map(len, blocks))
        if got != n_rows:
            raise NativeError(f"llama.cpp computed {got} last rows, {n_rows} were asked for.")
        return np.concatenate(blocks) if blocks else np.empty((0, self.dims), np.float32)
