"""Loads llama-cpp-python once and sends llama.cpp's log to Python's logging. The only module that imports it."""

import collections
import ctypes
import logging
import os
import re
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from qgguf.errors import NativeError
from qgguf.hardware.cpu import compiled_features, missing_instructions, read_processor
from qgguf.native.builds import TESTED_VERSIONS, compile_line
from qgguf.native.tensors import TensorAccess

# NullHandler: without it an application that has not configured logging would get llama.cpp's warnings on stderr, from
# logging's handler of last resort. An application that has gets them by propagation.
_llama_log = logging.getLogger("qgguf.llama")
_llama_log.addHandler(logging.NullHandler())

# ggml_log_level -> logging level. llama.cpp's INFO is a page per model load, and its WARN rarely concerns embeddings:
# each is logged one level lower.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
_CONTINUED = 5

_errors: collections.deque[str] = collections.deque(maxlen=8)
_line = threading.local()
# C code holds no reference to a callback: without this list Python would free it while llama.cpp uses it.
_keep_alive: list[Any] = []


def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    """Join the parts that llama.cpp logs into lines, for each thread separately."""
    if sys.is_finalizing():
        return
    if level != _CONTINUED:
        _line.level = _LEVELS.get(level, logging.DEBUG)
    started = getattr(_line, "text", "") + text.decode("utf-8", "replace")
    *lines, _line.text = started.split("\n")
    level = getattr(_line, "level", logging.DEBUG)
    for line in lines:
        if line.strip():
            if level >= logging.ERROR:
                _errors.append(line.strip())
            _llama_log.log(level, "%s", line)


@cache
def llama() -> Any:
    """Return the module `llama_cpp.llama_cpp`, with its backends loaded and its log redirected.

    raises  NativeError: llama-cpp-python is missing, does not load, is not one of TESTED_VERSIONS, lays its tensors out
            differently, or was compiled for another processor
    """
    try:
        import llama_cpp.llama_cpp as module

        callback = module.llama_log_callback(_on_log)
        _check_version(module)
        _keep_alive.append(callback)
        module.llama_log_set(callback, ctypes.c_void_p(0))
        module.llama_backend_init()
        _load_backends(module)
        TensorAccess(_library_with(module, "ggml-base", "ggml_get_name"))  # raises where the layout differs
        system_info = module.llama_print_system_info().decode()
    except NativeError:
        raise
    except Exception as error:  # importing a broken package can raise anything
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise NativeError(
            f"llama-cpp-python does not load ({reason}). Install a release that this qgguf supports: "
            f"{compile_line('CPU', sys.platform)}"
        ) from error
    missing = missing_instructions(compiled_features(system_info), read_processor().flags)
    if missing:
        raise NativeError(
            f"This llama-cpp-python was compiled for a processor with {', '.join(missing)}, which this one lacks: it "
            f"would end the program. Compile it on this machine: {compile_line('CPU', sys.platform)}"
        )
    return module


def version() -> str:
    """Return the release of llama-cpp-python; "unknown" where the package does not state it."""
    return _version_of(llama())


def llama_cpp_version() -> str:
    """Return the version of llama.cpp itself; "unknown" for a release that has no function for it."""
    function = getattr(llama(), "llama_version", None)
    return "unknown" if function is None else str(function().decode())


def _version_of(module: Any) -> str:
    package = sys.modules.get(module.__name__.partition(".")[0])
    return str(getattr(package, "__version__", "unknown"))


def _check_version(module: Any) -> None:
    """Refuse a release that is not tested: with structures of another layout, wrong memory is read and written.

    raises  NativeError naming both versions
    """
    installed = _version_of(module)
    # The version of a wheel may have a local part: "0.3.36+cu124".
    if installed.partition("+")[0] not in TESTED_VERSIONS:
        *others, newest = TESTED_VERSIONS
        raise NativeError(
            f"llama-cpp-python {installed} is installed; this qgguf needs {', '.join(others)} or {newest}, because the "
            f"native structures differ between releases. Install it: {compile_line('CPU', sys.platform)}"
        )


def _load_backends(module: Any) -> None:
    """Load the backends of a build that has each in a separate library.

    By default llama.cpp would search the folder of the Python interpreter and the current folder.
    """
    library = _library_with(module, "ggml", "ggml_backend_reg_count")
    library.ggml_backend_reg_count.restype = ctypes.c_size_t
    if not library.ggml_backend_reg_count():
        library.ggml_backend_load_all_from_path(os.fsencode(_library_folder(Path(module.__file__).parent)))


@cache
def ggml() -> Any:
    """Return libggml-base as a ctypes library: quantisation, tensors, GGUF.

    raises  NativeError
    """
    return _library_with(llama(), "ggml-base", "ggml_get_name")


@cache
def tensors() -> TensorAccess:
    """Return ggml's functions on single tensors.

    raises  NativeError
    """
    return TensorAccess(ggml())


@cache
def ggml_devices() -> Any:
    """Return libggml as a ctypes library: the registry of backends and their devices.

    raises  NativeError
    """
    return _library_with(llama(), "ggml", "ggml_backend_reg_count")


@cache
def ggml_cpu() -> Any | None:
    """Return libggml-cpu, with the fast paths for this processor; None for a build with one library per processor."""
    try:
        return _library_with(llama(), "ggml-cpu", "ggml_backend_cpu_init")
    except NativeError:
        return None


@cache
def backend_libraries() -> frozenset[str]:
    """Return the names of the backends that have a library, such as "vulkan" for libggml-vulkan.so."""
    folder = _library_folder(Path(llama().__file__).parent)
    names = (re.fullmatch(r"(?:lib)?ggml-(\w+)\.(?:so|dylib|dll)", file.name) for file in folder.iterdir())
    return frozenset(name[1] for name in names if name)


def last_errors() -> str:
    """Return llama.cpp's latest errors, for a message, and clear them."""
    joined = "; ".join(_errors)
    _errors.clear()
    return joined


def _library_with(module: Any, name: str, function: str) -> Any:
    """Return the library of this name, which has this function, as llama.cpp itself has loaded it.

    raises  NativeError: there is none
    """
    library: Any
    if os.name == "nt":
        # One library of a name is loaded once.
        folder = _library_folder(Path(module.__file__).parent)
        file = next((folder / f for f in (f"{name}.dll", f"lib{name}.dll") if (folder / f).exists()), None)
        library = file and ctypes.CDLL(str(file))
    else:
        # Through libllama, whose functions and those of all libraries it needs are found. By its path, a second copy
        # would be loaded: wheels have no links, so libggml.so and the libggml.so.0 that libllama needs are two files.
        # Each would have a registry of backends, and initialise the GPU.
        library = ctypes.CDLL(module._lib._name, handle=module._lib._handle)
    if not hasattr(library, function):
        raise NativeError(
            f"There is no {name} library beside {module.__file__}. Install llama-cpp-python again: "
            f"{compile_line('CPU', sys.platform)}"
        )
    return library


def _library_folder(package: Path) -> Path:
    """Return the folder that llama-cpp-python loads its libraries from."""
    configured = os.environ.get("LLAMA_CPP_LIB_PATH")
    return package / "lib" if configured is None else Path(configured)
