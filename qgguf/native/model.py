"""One GGUF in memory: its weights and its vocabulary."""

import ctypes
import logging
import os
import weakref
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from qgguf.batching import Ids
from qgguf.errors import DeviceError, DeviceMemoryError, ModelFileError, NativeError, OptionError
from qgguf.model.spec import ModelSpec
from qgguf.native import binding
from qgguf.native.devices import Device, choose_device, handle_of, list_backends, list_devices

log = logging.getLogger("qgguf")


_HEAD = rb"^(output|token_embd)\.weight$"
"""The vocabulary projection; where the checkpoint ties it to the token embeddings, llama.cpp loads those twice."""

# What llama.cpp and its backends say when an allocation fails.
_NO_MEMORY = ("unable to allocate", "failed to allocate", "out of memory", "OutOfDeviceMemory", "bad_alloc")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that go before and after the tokens of every text: [CLS] and [SEP], or the end token alone."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]


class NativeModel:
    """Weights and vocabulary, shared by any number of contexts.

    path        the GGUF file; its header has been checked (gguf_file)
    device      "cpu", "gpu", "cuda", or "auto": the GPU where there is one; or the Device itself
    gpu_layers  repeating layers on the GPU, the last ones of the model; None for all
    head        put the vocabulary projection on the GPU too, which only the plain strategy runs; None: where the
                model's own pooling needs that strategy
    repack      on the CPU, a second copy of the weights in the order that its instructions like: faster, more memory
    mmap        weights stay in the file's pages until they are used; False reads them into memory of their own
    raises      ModelFileError where llama.cpp cannot load the file, DeviceError where the device is not there,
                DeviceMemoryError where it has no room, OptionError

    device      the Device used, with its free memory right before loading
    gpu_layers  layers on the GPU; 0 on the CPU
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: ModelSpec,
        device: str | Device = "auto",
        *,
        gpu_layers: int | None = None,
        head: bool | None = None,
        repack: bool = True,
        mmap: bool = True,
    ) -> None:
        llama = binding.llama()
        self.spec = spec
        _check_layers(gpu_layers, spec)
        _check_flags(repack=repack, mmap=mmap)
        self.device = device if isinstance(device, Device) else _choose(device, gpu_layers)
        on_gpu = self.device.is_gpu
        wanted = spec.n_layers if gpu_layers is None else gpu_layers
        self.gpu_layers = wanted if on_gpu else 0
        self.head = on_gpu and (not spec.pools_last_row() if head is None else head)
        parameters = llama.llama_model_default_params()
        # llama.cpp counts from the end, and counts the output as one layer more.
        parameters.n_gpu_layers = self.gpu_layers + 1 if self.gpu_layers else 0
        # One GPU, named: by itself llama.cpp would spread a model over all that it finds, and would set up the GPU's
        # memory for one that runs on the CPU.
        only = (ctypes.c_void_p * 2)(handle_of(self.device) if on_gpu else None, None)
        parameters.devices = ctypes.cast(only, ctypes.c_void_p)
        on_host = _Overrides(_HEAD) if on_gpu and not self.head else None
        if on_host is not None:
            parameters.tensor_buft_overrides = on_host.pointer
        parameters.use_extra_bufts = repack
        set_mmap(parameters, mmap)
        binding.last_errors()
        self._handle: int | None = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._handle:
            self._refuse(path, binding.last_errors())
        self._vocabulary = llama.llama_model_get_vocab(self._handle)
        self._finalizer = weakref.finalize(self, llama.llama_model_free, self._handle)
        self.special_tokens = self._read_special_tokens()

    def _refuse(self, path: str | os.PathLike[str], complaint: str) -> NoReturn:
        seen = complaint or "it gives no reason"
        if any(word in complaint for word in _NO_MEMORY):
            what, instead = (f"{self.gpu_layers} layers of {path}", "Put fewer layers on it, or use device=cpu.")
            if not self.device.is_gpu:
                what, instead = str(path), "Use a smaller model, or end other programs."
            raise DeviceMemoryError(f"{self.device} has no room for {what}: {seen}. {instead}")
        raise ModelFileError(f"llama.cpp cannot load {path}: {seen}. Give the GGUF of a text-embedding model.")

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

    def _read_special_tokens(self) -> SpecialTokens:
        """Return the tokens that the vocabulary adds to a text, with the end token that the header may lack."""
        llama = binding.llama()
        added = self._tokenize(b"", special=True).tolist()
        n_prefix = 1 if added and llama.llama_vocab_get_add_bos(self._vocabulary) else 0
        prefix_ids, suffix_ids = added[:n_prefix], added[n_prefix:]
        end = self.spec.end_token_id
        if end is not None and suffix_ids[-1:] != [end]:
            suffix_ids.append(end)
        return SpecialTokens(tuple(prefix_ids), tuple(suffix_ids))


def set_mmap(parameters: Any, mmap: bool) -> None:
    """Set whether a llama_model_params loads the weights as mapped pages of the file."""
    if hasattr(parameters, "load_mode"):
        llama = binding.llama()
        parameters.load_mode = llama.LLAMA_LOAD_MODE_AUTO if mmap else llama.LLAMA_LOAD_MODE_NONE
    else:  # llama-cpp-python 0.3.34
        parameters.use_mmap = mmap


class _Overrides:
    """llama_model_tensor_buft_override[]: weights that stay in the host's memory. Must outlive the load."""

    class _Override(ctypes.Structure):
        _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))

    def __init__(self, pattern: bytes) -> None:
        host = binding.ggml().ggml_backend_cpu_buffer_type
        host.restype = ctypes.c_void_p
        self._array = (self._Override * 2)(self._Override(pattern, host()), self._Override(None, None))
        self.pointer = ctypes.cast(self._array, ctypes.c_void_p)


def _choose(asked: str, gpu_layers: int | None) -> Device:
    """Choose the model's device and log the choice."""
    if gpu_layers == 0 and asked in ("gpu", "cuda"):
        raise OptionError(f"gpu_layers=0 with device={asked!r} contradict each other. Use device='cpu'.")
    if gpu_layers and asked == "cpu":
        raise OptionError(f"gpu_layers={gpu_layers} with device='cpu' contradict each other. Use device='gpu'.")
    device, why = choose_device("cpu" if gpu_layers == 0 else asked, list_devices(), list_backends())
    if gpu_layers and not device.is_gpu:
        raise DeviceError(f"gpu_layers={gpu_layers}, but there is no GPU: {why}. Use device=cpu.")
    log.info("Running on %s: %s.", device, "no layers for the GPU" if gpu_layers == 0 else why)
    return device


def _check_layers(gpu_layers: int | None, spec: ModelSpec) -> None:
    if gpu_layers is None:
        return
    if isinstance(gpu_layers, bool) or not isinstance(gpu_layers, int) or not 0 <= gpu_layers <= spec.n_layers:
        raise OptionError(f"gpu_layers={gpu_layers!r}; {spec.name} has {spec.n_layers} layers: 0 to {spec.n_layers}.")


def _check_flags(**flags: bool) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise OptionError(f"{name}={value!r}; there are True and False.")
