"""The devices that llama.cpp can compute on, and the choice of one for a model."""

import ctypes
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from qgguf.errors import DeviceError, OptionError
from qgguf.native import binding
from qgguf.native.builds import compile_line
from qgguf.settings import DEVICES

# ggml_backend_dev_type; the "meta" device, which joins others, is left out.
_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}

# Name in ggml's registry -> usual name, as in BUILDS.
_BACKENDS = {"MTL": "Metal"}

# Name of a backend's library, such as libggml-vulkan.so -> usual name.
_LIBRARIES = {"cuda": "CUDA", "vulkan": "Vulkan", "hip": "ROCm", "metal": "Metal", "sycl": "SYCL"}


@dataclass(frozen=True, slots=True)
class Device:
    """A device as llama.cpp describes it.

    name         llama.cpp's name: "CPU", "CUDA0", "Vulkan1"
    description  model: "NVIDIA GeForce RTX 3060"
    kind         "cpu", "gpu", "igpu" (a GPU that shares the host's memory) or "accel" (an accelerator of the CPU)
    backend      "CPU", "CUDA", "Vulkan", "Metal", "ROCm", ...
    free_bytes   memory that other programs leave
    total_bytes  its memory; 0 where the device does not report it
    """

    name: str
    description: str
    kind: str
    backend: str
    free_bytes: int
    total_bytes: int

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, with separate memory or the host's."""
        return self.kind in ("gpu", "igpu")

    def __str__(self) -> str:
        memory = f", {self.free_bytes / 1e9:.1f} of {self.total_bytes / 1e9:.1f} GB free" if self.total_bytes else ""
        return f"{self.name} ({self.description}, {self.backend}{memory})"


def list_devices() -> list[Device]:
    """Return all devices, with the memory that is free now.

    raises  NativeError: llama-cpp-python does not load
    """
    registry = _registry()
    devices = []
    for index in range(registry.ggml_backend_dev_count()):
        handle = registry.ggml_backend_dev_get(index)
        kind = _KINDS.get(registry.ggml_backend_dev_type(handle))
        if kind is None:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        registry.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        backend = _text(registry.ggml_backend_reg_name(registry.ggml_backend_dev_backend_reg(handle)))
        devices.append(
            Device(
                name=_text(registry.ggml_backend_dev_name(handle)),
                description=_text(registry.ggml_backend_dev_description(handle)),
                kind=kind,
                backend=_BACKENDS.get(backend, backend),
                free_bytes=free.value,
                total_bytes=total.value,
            )
        )
    return devices


def list_backends() -> list[str]:
    """Return the names of all compiled backends, with a device on this machine or not.

    raises  NativeError: llama-cpp-python does not load
    """
    registry = _registry()
    names = [
        _text(registry.ggml_backend_reg_name(registry.ggml_backend_reg_get(index)))
        for index in range(registry.ggml_backend_reg_count())
    ]
    registered = [_BACKENDS.get(name, name) for name in names]
    # One that finds no driver at all does not register itself.
    compiled = [name for library, name in _LIBRARIES.items() if library in binding.backend_libraries()]
    return registered + [name for name in compiled if name not in registered]


def handle_of(device: Device) -> int:
    """Return llama.cpp's pointer to a device.

    raises  DeviceError: the device is no longer there
    """
    handle: int | None = _registry().ggml_backend_dev_by_name(device.name.encode())
    if not handle:
        raise DeviceError(f"{device} is gone. `qgguf doctor` lists the devices; device=cpu needs no GPU.")
    return handle


def choose_device(
    asked: str, devices: Sequence[Device], backends: Sequence[str], system: str = sys.platform
) -> tuple[Device, str]:
    """Choose the device for a model.

    Among GPUs, those with separate memory come before those that share the host's, then the one with most free
    memory is taken.

    asked     "auto", "cpu", "gpu" or "cuda"
    devices   as from `list_devices`
    backends  as from `list_backends`
    system    sys.platform, for the command in an error message
    returns   the device, and the reason as text for the log
    raises    OptionError: another value of `asked`; DeviceError: no such device

    >>> card = Device("Vulkan0", "Arc A770", "gpu", "Vulkan", 15_000_000_000, 16_000_000_000)
    >>> host = Device("CPU", "a CPU", "cpu", "CPU", 0, 0)
    >>> choose_device("auto", [card, host], ["Vulkan", "CPU"])[0].name
    'Vulkan0'
    """
    if asked not in DEVICES:
        raise OptionError(f"device={asked!r} is not a device. Use {', '.join(DEVICES[:-1])} or {DEVICES[-1]}.")
    cpus = [device for device in devices if device.kind == "cpu"]
    if not cpus:
        raise DeviceError("This llama-cpp-python has no CPU backend. Install it again: " + compile_line("CPU", system))
    if asked == "cpu":
        return cpus[0], "as asked"
    gpus = [device for device in devices if device.is_gpu and (asked != "cuda" or device.backend == "CUDA")]
    if gpus:
        best = max(gpus, key=lambda device: (device.kind == "gpu", device.free_bytes))
        if asked != "auto":
            return best, "as asked"
        return best, "the GPU with most free memory" if len(gpus) > 1 else "the GPU of this machine"
    missing = _missing_gpu(asked, devices, backends)
    if asked == "auto":
        return cpus[0], missing
    if any(backend in backends for backend in (("CUDA",) if asked == "cuda" else _gpu_backends(backends))):
        advice = "Check the driver (`qgguf doctor`), or use device=cpu."
    else:
        advice = f"Use device=cpu, or compile it for the GPU: {compile_line(_usual_backend(asked, system), system)}"
    raise DeviceError(f"device={asked} is not available: {missing}. {advice}")


def _missing_gpu(asked: str, devices: Sequence[Device], backends: Sequence[str]) -> str:
    compiled = [name for name in _gpu_backends(backends) if asked != "cuda" or name == "CUDA"]
    if compiled:
        return f"this llama-cpp-python has {' and '.join(compiled)}, which finds no GPU here"
    if asked == "cuda":
        others = ", ".join(device.name for device in devices if device.is_gpu)
        return "this llama-cpp-python was built without CUDA" + (f" (device=gpu would use {others})" if others else "")
    return "this llama-cpp-python was built without a GPU backend"


def _gpu_backends(backends: Sequence[str]) -> list[str]:
    """Leave out RPC, which is for other machines, and what accelerates the CPU."""
    return [name for name in backends if name not in ("CPU", "BLAS", "RPC", "ZenDNN", "zDNN", "HTP")]


def _usual_backend(asked: str, system: str) -> str:
    return "CUDA" if asked == "cuda" or system != "darwin" else "Metal"


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


@cache
def _registry() -> Any:
    """Return the functions for devices, with their types.

    Those for one device are in libggml-base, which on Windows is not searched through libggml.
    """
    registry, base = binding.ggml_devices(), binding.ggml()
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    functions: tuple[tuple[str, list[Any], Any], ...] = (
        ("ggml_backend_reg_count", [], size),
        ("ggml_backend_reg_get", [size], pointer),
        ("ggml_backend_dev_count", [], size),
        ("ggml_backend_dev_get", [size], pointer),
        ("ggml_backend_dev_by_name", [text], pointer),
        ("ggml_backend_reg_name", [pointer], text),
        ("ggml_backend_dev_name", [pointer], text),
        ("ggml_backend_dev_description", [pointer], text),
        ("ggml_backend_dev_type", [pointer], ctypes.c_int),
        ("ggml_backend_dev_memory", [pointer, ctypes.POINTER(size), ctypes.POINTER(size)], None),
        ("ggml_backend_dev_backend_reg", [pointer], pointer),
    )
    typed = SimpleNamespace()
    for name, argtypes, restype in functions:
        function = getattr(registry if hasattr(registry, name) else base, name)
        function.argtypes, function.restype = argtypes, restype
        setattr(typed, name, function)
    return typed
