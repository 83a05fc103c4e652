"""Contexts of llama.cpp: the KV cache and compute buffer of a model, and the call that makes vectors from token ids."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qgguf import lifetime
from qgguf.batching import Ids, SharedTokens, common_length, flat_tokens, share_prefixes
from qgguf.errors import DeviceMemoryError, NativeError
from qgguf.memory.planner import KEPT_PREFIXES, KEPT_TOKENS, n_sequences_of, one_pass_tokens
from qgguf.model.spec import Pooling
from qgguf.native import binding
from qgguf.native.model import NativeModel
from qgguf.native.row_reader import RowReader
from qgguf.native.signals import HeldSignals
from qgguf.native.strategy import Strategy
from qgguf.native.token_batch import TokenBatch
from qgguf.vectors import Vectors

LEAST_KEPT = 4
"""Tokens of the shortest prompt that stays in the KV cache. A shorter one costs less than looking it up."""

MICRO_BATCH = 512
"""Tokens that llama.cpp computes at once, for models whose texts can be split."""

KV_TYPE_IDS = {"f16": 1, "q8_0": 8, "q4_0": 2}
"""Type of a KV cache -> ggml_type."""

_FLASH_ATTENTION_OFF = 0

# llama_attention_type
_CAUSAL, _NOT_CAUSAL = 0, 1

# Return codes of llama_decode and llama_encode.
DECODE_CODES = {
    1: "no room in the KV cache",
    2: "aborted",
    -1: "invalid batch",
    -2: "out of memory while preparing the batch",
    -3: "the computation failed",
}


_NO_IDS: Ids = np.empty(0, np.int32)


def _do_nothing(_done: int, _total: int) -> None:
    """Do nothing between two native calls."""


class NativeContext:
    """KV cache and compute buffer for batches of texts over one NativeModel. Not thread-safe.

    cells        most tokens in one batch, in one text or in many
    threads      CPU threads
    pooling      how a text's vector is made of the rows of its tokens
    strategy     how vectors are read from llama.cpp
    micro_batch  tokens that llama.cpp computes at once, for models whose texts can be split
    kv_type      type of the KV cache, a key of KV_TYPE_IDS
    raises       DeviceMemoryError: the GPU has too little free memory; NativeError
    """

    def __init__(
        self,
        model: NativeModel,
        *,
        cells: int,
        threads: int,
        pooling: Pooling,
        strategy: Strategy,
        micro_batch: int = MICRO_BATCH,
        kv_type: str = "f16",
    ) -> None:
        llama = binding.llama()
        n_sequences = n_sequences_of(model.spec.vocab_size)
        self.max_texts = n_sequences - KEPT_PREFIXES
        # Pooling over all of a text's tokens needs them in one micro-batch.
        one_pass = not model.spec.pools_last_row(pooling)
        # llama.cpp aborts on fewer outputs than sequences.
        cells = one_pass_tokens(cells, n_sequences) if one_pass else max(cells, n_sequences)
        self.model, self.pooling, self.strategy, self.cells = model, pooling, strategy, cells
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = cells + (KEPT_TOKENS if strategy is Strategy.LAST_ROWS else 0)
        parameters.n_batch = parameters.n_ubatch = cells if one_pass else min(cells, micro_batch)
        self._slots = range(self.max_texts, n_sequences)
        self._between: Callable[[int, int], None] = _do_nothing
        self._kept: dict[int, Ids] = {}
        self.computed_tokens = 0
        """Number of tokens that llama.cpp has computed in this context."""
        parameters.n_seq_max = n_sequences
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = self._threads = threads
        parameters.no_perf = True
        parameters.pooling_type = int(pooling)
        # llama.cpp's own default is what the header declares, and causal where it declares nothing.
        parameters.attention_type = _CAUSAL if model.spec.causal else _NOT_CAUSAL
        parameters.embeddings = strategy is Strategy.PLAIN
        parameters.type_k = parameters.type_v = KV_TYPE_IDS[kv_type]
        parameters.offload_kqv = model.device.is_gpu
        # With it, llama.cpp would run large products of the CPU's layers on the GPU, and reserve memory for copies of
        # their weights there, the vocabulary projection's too: 110 MiB for a model that is planned with 2 MiB, and
        # layers are on the CPU because the GPU's memory is short.
        parameters.op_offload = False
        if strategy is not Strategy.PLAIN:
            parameters.n_outputs_max = n_sequences
        self._rows: RowReader | None = None
        if strategy is Strategy.LAST_ROWS:
            self._rows = RowReader(model.spec.dims)
            parameters.cb_eval = self._rows.callback
        if strategy is Strategy.TWO_CALLS and not model.device.is_gpu:
            # With fewer than 64 tokens at once, llama.cpp's flash attention on a CPU sums in half precision. A text of
            # 2,800 equal words has cosine 0.9937 to the exact vector with it, and 1.0000 without.
            parameters.flash_attn_type = _FLASH_ATTENTION_OFF
        self.batch_tokens: int = parameters.n_batch
        binding.last_errors()
        with lifetime.native_call():
            self._handle: int | None = llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            reason = binding.last_errors() or "llama.cpp gives no reason"
            message = f"llama.cpp cannot make a context for {cells:,} tokens: {reason}."
            if model.device.is_gpu:
                raise DeviceMemoryError(
                    f"{model.device}: {message} Put fewer layers on it, or set a smaller max_tokens."
                )
            raise NativeError(f"{message} Set a smaller max_tokens.")
        self._memory = llama.llama_get_memory(self._handle)
        self._free = lifetime.free_with(self, llama.llama_free, self._handle)

    def close(self) -> None:
        """Free the context's memory. The model stays open."""
        self._handle = None
        self._free()

    @property
    def kept_tokens(self) -> int:
        """Number of tokens of prompts that are in the KV cache for later calls."""
        return sum(map(len, self._kept.values()))

    def use_threads(self, threads: int) -> None:
        """Set the number of CPU threads for the next calls."""
        if threads != self._threads:
            self._threads = threads
            binding.llama().llama_set_n_threads(self._handle, threads, threads)

    def vectors(
        self, texts: Sequence[Ids], prompt: Ids = _NO_IDS, between: Callable[[int, int], None] = _do_nothing
    ) -> Vectors:
        """Compute one vector for each text.

        texts    ids of each text, special tokens included, distinct: 1 to `max_texts`, `cells` tokens in all;
                 with LAST_ROWS sorted by `batching.sort_key`
        prompt   ids that texts may begin with; the part that all begin with stays in the KV cache for the next call
        between  called between two native calls with the number of tokens done and of all; an exception ends the work
        returns  (n_texts, dims) float32, not normalised
        raises   NativeError with llama.cpp's code
        """
        # llama.cpp would abort the process.
        if not 1 <= len(texts) <= self.max_texts or min(map(len, texts)) < 1:
            raise NativeError(f"A batch of {len(texts)} texts; 1 to {self.max_texts} of a token or more are allowed.")
        out = np.empty((len(texts), self.model.spec.dims), np.float32)
        done = False
        self._between = between
        try:
            if self.strategy is Strategy.LAST_ROWS:
                self._shared(texts, prompt, out)
            elif self.strategy is Strategy.TWO_CALLS:
                self._two_calls(self._batch(flat_tokens(texts)), out)
            else:
                self._one_call(self._batch(flat_tokens(texts)), out)
            done = bool(np.isfinite(out).all())
        finally:
            if not done:
                # A NaN left in the cache's unused cells can reach later texts through 0 * NaN.
                self._forget(data=True)
            elif self.strategy is not Strategy.LAST_ROWS:
                self._forget(data=False)
        return out

    def _batch(self, layout: SharedTokens) -> TokenBatch:
        """Return the batch of a layout.

        raises  NativeError: it has more tokens than the context has cells
        """
        if len(layout.tokens) > self.cells:
            raise NativeError(f"A batch of {len(layout.tokens)} tokens; {self.cells} are allowed.")
        return TokenBatch.of(layout)

    def _forget(self, *, data: bool) -> None:
        """Remove all sequences, the prompts too; with `data`, set the KV cache to zero."""
        self._kept.clear()
        if self._rows:
            self._rows.discard()
        if self._memory:
            binding.llama().llama_memory_clear(self._memory, data)

    def _shared(self, texts: Sequence[Ids], prompt: Ids, out: Vectors) -> None:
        """Compute each beginning that texts share once, and the prompt once for many calls."""
        prompt = self._worth_keeping(texts, prompt)
        llama = binding.llama()
        if len(prompt):
            slot = self._slot_of(prompt)
            for sequence in range(len(texts)):
                llama.llama_memory_seq_cp(self._memory, slot, sequence, 0, len(prompt))
        self._one_call(self._batch(share_prefixes(texts, len(prompt))), out)
        for sequence in range(len(texts)):
            llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _worth_keeping(self, texts: Sequence[Ids], prompt: Ids) -> Ids:
        """Return the part of the prompt that begins every text and is shorter than each; no ids if too short."""
        n = min(len(prompt), KEPT_TOKENS)
        for text in texts:
            n = min(n, common_length(prompt[:n], text), len(text) - 1)
            if n < LEAST_KEPT:
                return _NO_IDS
        return prompt[:n]

    def _slot_of(self, prompt: Ids) -> int:
        """Return the sequence that holds this prompt, or a longer one that begins with it. Compute it if there is none.

        The prompt is computed without texts, so that the first call with it gives the same bytes as the next.
        """
        for slot, kept in self._kept.items():
            if len(prompt) <= len(kept) and np.array_equal(kept[: len(prompt)], prompt):
                self._kept[slot] = self._kept.pop(slot)  # the last one is the most recently used
                return slot
        while len(self._kept) == KEPT_PREFIXES or self.kept_tokens + len(prompt) > KEPT_TOKENS:
            oldest = next(iter(self._kept))
            del self._kept[oldest]
            binding.llama().llama_memory_seq_rm(self._memory, oldest, -1, -1)
        slot = next(slot for slot in self._slots if slot not in self._kept)
        layout = flat_tokens([prompt])
        in_slot = replace(layout, first=np.full_like(layout.first, slot), ends=np.empty(0, np.int64))
        self._one_call(TokenBatch.of(in_slot), np.empty((0, self.model.spec.dims), np.float32))
        self._kept[slot] = prompt
        return slot

    def _one_call(self, batch: TokenBatch, out: Vectors) -> None:
        """Compute a batch slice by slice, and write the vectors of its texts."""
        for start, stop in self._slices(batch.n_tokens):
            if start:
                self._between(start, batch.n_tokens)
            ended = np.flatnonzero((batch.ends >= start) & (batch.ends < stop))
            self._compute(batch, start, stop)
            out[ended] = self._rows.take(len(ended)) if self._rows else self._pooled(ended)

    def _two_calls(self, batch: TokenBatch, out: Vectors) -> None:
        """Compute all tokens but each text's last, then the last ones, and write the vectors of the texts."""
        before, last = batch.split_off_last()
        for start, stop in self._slices(before.n_tokens):
            if start:
                self._between(start, batch.n_tokens)
            self._compute(before, start, stop)
        llama = binding.llama()
        llama.llama_set_embeddings(self._handle, True)
        try:
            self._compute(last, 0, last.n_tokens)
            out[:] = self._pooled(np.arange(len(out)))
        finally:
            llama.llama_set_embeddings(self._handle, False)

    def _slices(self, n_tokens: int) -> Iterator[tuple[int, int]]:
        """Cut a batch into the fewest slices that llama.cpp accepts, of nearly equal sizes.

        A last slice of fewer than 64 tokens would be computed in half precision, see TWO_CALLS above.
        """
        n_slices = -(-n_tokens // self.batch_tokens)
        for number in range(n_slices):
            yield n_tokens * number // n_slices, n_tokens * (number + 1) // n_slices

    def _compute(self, batch: TokenBatch, start: int, stop: int) -> None:
        """Let llama.cpp compute tokens start to stop of a batch, at most `batch_tokens`."""
        llama = binding.llama()
        binding.last_errors()
        call = llama.llama_decode if self._memory else llama.llama_encode
        part = batch.slice(start, stop)
        with lifetime.native_call():
            if self._rows is None:
                code = lifetime.run_parallel(lambda: call(self._handle, part))
            else:
                with HeldSignals() as held:
                    self._rows.stop = held.stops
                    code = lifetime.run_parallel(lambda: call(self._handle, part))
        self.computed_tokens += stop - start
        if code != 0:
            meaning = DECODE_CODES.get(code, "an unknown failure")
            reason = binding.last_errors() or "no reason given"
            raise NativeError(f"llama.cpp stopped with {code}, {meaning}: {reason}.", code)

    def _pooled(self, texts: NDArray[np.intp]) -> Vectors:
        """Return the vectors that llama.cpp pooled for these texts."""
        llama, dims = binding.llama(), self.model.spec.dims
        out = np.empty((len(texts), dims), np.float32)
        for row, text in enumerate(texts):
            pointer = llama.llama_get_embeddings_seq(self._handle, int(text))
            if not pointer:
                raise NativeError("llama.cpp returned no vector for a text: the model has no pooling. Set pooling=.")
            out[row] = np.ctypeslib.as_array(pointer, (dims,))
        return out
