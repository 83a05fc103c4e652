"""A GGUF model in memory: weights and vocabulary."""

import ctypes
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from qgguf import lifetime
from qgguf.batching import Ids
from qgguf.errors import DeviceError, DeviceMemoryError, ModelFileError, NativeError, OptionError, QgError
from qgguf.model.spec import ModelSpec
from qgguf.native import binding
from qgguf.native.devices import Device, choose_device, handle_of, list_backends, list_devices

log = logging.getLogger("qgguf")


_HEAD = rb"^(output|token_embd)\.weight$"
"""The vocabulary projection. Where the checkpoint ties it to the token embeddings, llama.cpp loads those twice."""

# What llama.cpp and its backends log when an allocation fails.
_NO_MEMORY = ("unable to allocate", "failed to allocate", "out of memory", "OutOfDeviceMemory", "bad_alloc")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that go before and after the tokens of every text: [CLS] and [SEP], or the end token alone."""

    prefix_ids: tuple[int, ...]
    suffix_ids: tuple[int, ...]


class NativeModel:
    """Weights and vocabulary, shared by any number of contexts.

    path        a GGUF file whose header has been checked (model.from_gguf)
    device      "cpu", "gpu", "cuda", "auto" (the GPU where there is one), or a Device
    gpu_layers  number of repeating layers on the GPU, from the model's end; None: all
    head        load the vocabulary projection to the GPU too, which only the plain strategy computes; None: where the
                model's own pooling needs that strategy
    repack      on the CPU, make a second copy of the weights in the order of its instructions: faster, more memory
    mmap        leave weights in the file's pages until they are used; False: read them into memory
    raises      ModelFileError: llama.cpp cannot load the file; DeviceError: there is no such device;
                DeviceMemoryError: its memory does not suffice; OptionError

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
        requested = spec.n_layers if gpu_layers is None else gpu_layers
        self.gpu_layers = requested if on_gpu else 0
        self.head = on_gpu and (not spec.pools_last_row() if head is None else head)
        parameters = llama.llama_model_default_params()
        # llama.cpp counts from the end, and counts the output as one layer more.
        parameters.n_gpu_layers = self.gpu_layers + 1 if self.gpu_layers else 0
        # Exactly one GPU, or none: by default llama.cpp would spread a model over all GPUs, and would allocate GPU
        # memory for a model that runs on the CPU.
        only = (ctypes.c_void_p * 2)(handle_of(self.device) if on_gpu else None, None)
        parameters.devices = ctypes.cast(only, ctypes.c_void_p)
        on_host = _Overrides(_HEAD) if on_gpu and not self.head else None
        if on_host is not None:
            parameters.tensor_buft_overrides = on_host.pointer
        parameters.use_extra_bufts = repack
        set_mmap(parameters, mmap)
        binding.last_errors()
        with lifetime.native_call():
            self._handle: int | None = llama.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._handle:
            raise self._load_error(path, binding.last_errors())
        self._vocabulary = llama.llama_model_get_vocab(self._handle)
        self._free = lifetime.free_with(self, llama.llama_model_free, self._handle)
        self.special_tokens = self._read_special_tokens()

    def _load_error(self, path: str | os.PathLike[str], reason: str) -> QgError:
        if not any(word in reason for word in _NO_MEMORY):
            reason = reason or "it gives no reason"
            return ModelFileError(f"llama.cpp cannot load {path}: {reason}. Give the GGUF of a text-embedding model.")
        if self.device.is_gpu:
            part, advice = f"{self.gpu_layers} layers of {path}", "Put fewer layers on it, or use device=cpu."
        else:
            part, advice = str(path), "Use a smaller model, or end other programs."
        return DeviceMemoryError(f"{self.device} has too little free memory for {part}: {reason}. {advice}")

    def close(self) -> None:
        """Free the weights. Contexts over them must be closed before."""
        self._handle = None
        self._free()

    @property
    def handle(self) -> int:
        """llama.cpp's pointer to the model.

        raises  NativeError: the model is closed
        """
        if self._handle is None:
            raise NativeError("The model is closed. Open it again: Embedder(...)")
        return self._handle

    def tokenize(self, text: str) -> Ids:
        """Return the ids of a text's own tokens, without special tokens; text that spells a control token is text.

        raises  UnicodeEncodeError: the text has a lone surrogate
        """
        return self._tokenize(text.encode("utf-8"), special=False)

    def _tokenize(self, utf8: bytes, *, special: bool) -> Ids:
        llama, _ = binding.llama(), self.handle
        room = len(utf8) + 8  # llama.cpp makes no more tokens than bytes, special tokens apart
        while True:
            ids = np.empty(room, np.int32)
            pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
            with lifetime.native_call():
                n_tokens = llama.llama_tokenize(self._vocabulary, utf8, len(utf8), pointer, room, special, False)
            if n_tokens >= 0:
                own: Ids = ids[:n_tokens].copy()
                return own
            if -n_tokens <= room:
                raise NativeError(f"llama.cpp cannot tokenise a text of {len(utf8):,} bytes.", n_tokens)
            room = -n_tokens

    def _read_special_tokens(self) -> SpecialTokens:
        """Return the tokens that the vocabulary adds to a text, with the end token that the header may lack."""
        llama = binding.llama()
        added = self._tokenize(b"", special=True).tolist()
        n_prefix = 1 if added and llama.llama_vocab_get_add_bos(self._vocabulary) else 0
        prefix_ids, suffix_ids = added[:n_prefix], added[n_prefix:]
        start = self.spec.start_token_id
        if start is not None and prefix_ids != [start]:
            prefix_ids = [start]
        end = self.spec.end_token_id
        # Where llama.cpp lacks the start token, its end token is a guess too.
        if self.spec.end_token_is_chosen or start is not None:
            suffix_ids = []
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
    """A llama_model_tensor_buft_override[] for weights that stay in the host's memory. It must outlive the load."""

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
            raise OptionError(f"{name}={value!r}; True or False is needed.")
