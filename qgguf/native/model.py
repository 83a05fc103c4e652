"""One GGUF in memory: its weights and its vocabulary."""

import ctypes
import logging
import os
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgguf.errors import DeviceError, ModelFileError, NativeError, OptionError
from qgguf.native import binding
from qgguf.spec import ModelSpec

log = logging.getLogger("qgguf")

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Frame:
    """Ids that stand before and after every text: [CLS] and [SEP], or the end token alone."""

    before: tuple[int, ...]
    after: tuple[int, ...]


class NativeModel:
    """Weights and vocabulary, shared by any number of contexts.

    path     the GGUF file; its header has been checked (gguf_file)
    device   "cpu", "cuda", or "auto": the GPU where the binding has one
    raises   ModelFileError where llama.cpp cannot load the file, DeviceError where the device is not there
    """

    def __init__(self, path: str | os.PathLike[str], spec: ModelSpec, device: str = "auto") -> None:
        llama = binding.llama()
        self.spec = spec
        self.device = _choose_device(device)
        parameters = llama.llama_model_default_params()
        parameters.n_gpu_layers = -1 if self.device == "cuda" else 0
        binding.last_complaint()
        self._handle: int | None = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._handle:
            raise ModelFileError(
                f"llama.cpp cannot load {path}: {binding.last_complaint() or 'it gives no reason'}. "
                "Give the GGUF of a text-embedding model."
            )
        self._vocabulary = llama.llama_model_get_vocab(self._handle)
        self._finalizer = weakref.finalize(self, llama.llama_model_free, self._handle)
        self.frame = self._read_frame()

    def close(self) -> None:
        """Free the weights. Contexts over them must be closed before."""
        self._handle = None
        self._finalizer()

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise NativeError("The model is closed. Open it again: Embedder(...)")
        return self._handle

    def tokenize(self, text: str) -> Ids:
        """Ids of a text's own tokens: nothing before, nothing after, and never a control token.

        raises  UnicodeEncodeError for lone surrogates
        """
        return self._tokenize(text.encode("utf-8"), special=False)

    def _tokenize(self, utf8: bytes, *, special: bool) -> Ids:
        llama, _ = binding.llama(), self.handle
        room = len(utf8) + 8  # no tokenizer of llama.cpp makes more tokens than bytes, its specials apart
        while True:
            ids = np.empty(room, np.int32)
            pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            n_tokens = llama.llama_tokenize(self._vocabulary, utf8, len(utf8), pointer, room, special, False)
            if n_tokens >= 0:
                found: Ids = ids[:n_tokens].copy()
                return found
            if -n_tokens <= room:
                raise NativeError(f"llama.cpp cannot tokenise a text of {len(utf8):,} bytes.", n_tokens)
            room = -n_tokens

    def _read_frame(self) -> Frame:
        """What the vocabulary puts around a text, with the end token that the header may have lost."""
        llama = binding.llama()
        around = self._tokenize(b"", special=True).tolist()
        starts = llama.llama_vocab_get_add_bos(self._vocabulary) and bool(around)
        before, after = (around[:1], around[1:]) if starts else ([], around)
        end = self.spec.end_token_id
        if end is not None and after[-1:] != [end]:
            after = [*after, end]
        return Frame(tuple(before), tuple(after))


def _choose_device(device: str) -> str:
    if device not in ("auto", "cpu", "cuda"):
        raise OptionError(f"device={device!r}; there are auto, cpu and cuda.")
    if device == "cpu":
        return "cpu"
    if binding.llama().llama_supports_gpu_offload():
        return "cuda"
    if device == "cuda":
        raise DeviceError(
            "This llama-cpp-python was built without a GPU. Use device=cpu, or build it with CUDA: "
            'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-binary :all: llama-cpp-python'
        )
    log.info("Running on the CPU: this llama-cpp-python was built without a GPU.")
    return "cpu"
