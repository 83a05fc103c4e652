"""The speed of llama.cpp's kernels on a prompt: the rate that other rates are compared with."""

import ctypes
import time

import numpy as np

from qgguf import lifetime
from qgguf.errors import NativeError
from qgguf.native import binding
from qgguf.native.model import NativeModel

N_TOKENS = 512


class PromptProcessing:
    """Prompt processing as llama-bench's pp512 measures it: 512 random tokens, no embeddings, the last token's logits.

    model    an open model
    threads  CPU threads
    raises   NativeError: llama.cpp cannot make the context
    source   test_prompt in tools/llama-bench/llama-bench.cpp
    """

    def __init__(self, model: NativeModel, *, threads: int) -> None:
        llama = binding.llama()
        self.model = model  # its weights must outlive the context
        # An encoder aborts on more tokens than it has positions.
        self.n_tokens = min(N_TOKENS, model.spec.context_length)
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = self.n_tokens
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        parameters.offload_kqv = parameters.op_offload = model.device.is_gpu
        if model.spec.is_decoder:
            parameters.n_outputs_max = 1
        binding.last_errors()
        with lifetime.native_call():
            self._handle: int | None = llama.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            reason = binding.last_errors() or "no reason given"
            raise NativeError(f"llama.cpp cannot make a context for {self.n_tokens} tokens: {reason}.")
        self._memory = llama.llama_get_memory(self._handle)
        self._free = lifetime.free_with(self, llama.llama_free, self._handle)
        self._ids = np.random.default_rng(0).integers(0, model.spec.vocab_size, self.n_tokens, np.int32)

    def close(self) -> None:
        """Free the context; the model stays open."""
        self._handle = None
        self._free()

    def seconds(self) -> float:
        """Measure one pass over `n_tokens` tokens, in seconds."""
        llama = binding.llama()
        if self._handle is None:
            raise NativeError("This PromptProcessing is closed. Open another.")
        if self._memory:
            llama.llama_memory_clear(self._memory, False)
        batch = llama.llama_batch_get_one(self._ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)), self.n_tokens)
        started = time.perf_counter()
        with lifetime.native_call():
            code = (llama.llama_decode if self._memory else llama.llama_encode)(self._handle, batch)
            llama.llama_synchronize(self._handle)
        seconds = time.perf_counter() - started
        if code:
            raise NativeError(f"llama.cpp stopped with {code}: {binding.last_errors() or 'no reason given'}.", code)
        return seconds
