"""Loads llama-cpp-python once and sends llama.cpp's log to Python logging. The only file that imports it."""

import collections
import ctypes
import logging
import os
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from qgguf.errors import NativeError
from qgguf.hardware.cpu import compiled_features, missing_instructions, read_processor
from qgguf.native.builds import BINDING_VERSION, compile_line
from qgguf.native.tensors import TensorAccess

# NullHandler: an application that set up no logging must not find llama.cpp's warnings on its stderr
# (logging's last-resort handler would put them there); one that did gets them by propagation.
_llama_log = logging.getLogger("qgguf.llama")
_llama_log.addHandler(logging.NullHandler())

# ggml_log_level -> logging level. llama.cpp's INFO is a page per model load, its WARN mostly of no concern to who
# embeds texts: each goes one step down.
_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.INFO, 4: logging.ERROR}
_CONTINUED = 5

_complaints: collections.deque[str] = collections.deque(maxlen=8)
_line = threading.local()
# ctypes keeps no reference for C: without this list the callback would be freed under llama.cpp.
_keep_alive: list[Any] = []


def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    """Collect llama.cpp's pieces into lines; one thread's pieces never mix with another's."""
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
                _complaints.append(line.strip())
            _llama_log.log(level, "%s", line)


@cache
def llama() -> Any:
    """The module `llama_cpp.llama_cpp`, its backends started, its log ours.

    raises  NativeError where the binding is missing, does not load, is a release that this qgguf was not tested with,
            or was compiled for another processor
    """
    try:
        import llama_cpp.llama_cpp as module

        callback = module.llama_log_callback(_on_log)
        _check_version(module)
        _keep_alive.append(callback)
        module.llama_log_set(callback, ctypes.c_void_p(0))
        module.llama_backend_init()
        _load_backends(Path(module.__file__).parent)
        base = _find(_folder(Path(module.__file__).parent), "ggml-base")
        if base is not None:
            TensorAccess(base)  # refuses another layout before anything is computed
        system_info = module.llama_print_system_info().decode()
    except NativeError:
        raise
    except Exception as error:  # a broken package can raise anything at all
        seen = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise NativeError(
            f"llama-cpp-python does not load ({seen}). "
            f"Install {BINDING_VERSION}, which this qgguf is written for: {compile_line('CPU', sys.platform)}"
        ) from error
    absent = missing_instructions(compiled_features(system_info), read_processor().flags)
    if absent:
        raise NativeError(
            f"This llama-cpp-python was compiled for a processor with {', '.join(absent)}, which this one has not: it "
            f"would end the program. Compile it here: {compile_line('CPU', sys.platform)}"
        )
    return module


def version() -> str:
    """The release of llama-cpp-python that is loaded; "unknown" where it does not say."""
    return _version_of(llama())


def _version_of(module: Any) -> str:
    package = sys.modules.get(module.__name__.partition(".")[0])
    return str(getattr(package, "__version__", "unknown"))


def _check_version(module: Any) -> None:
    """Refuse a release whose structures may differ: reading them by the wrong layout reads and writes wrong memory.

    raises  NativeError naming both versions
    """
    found = _version_of(module)
    # The number of a wheel may carry where it was built: "0.3.36+cu124".
    if found.partition("+")[0] != BINDING_VERSION:
        raise NativeError(
            f"llama-cpp-python {found} is here, {BINDING_VERSION} is needed: the structures of each release differ. "
            f"Install it: {compile_line('CPU', sys.platform)}"
        )


def _load_backends(package: Path) -> None:
    """Load the backends of a build that has them as libraries of their own; others have them from the start.

    llama.cpp itself would look beside the Python interpreter and in the current folder.
    """
    folder = _folder(package)
    library = _find(folder, "ggml")
    if library is not None:
        library.ggml_backend_reg_count.restype = ctypes.c_size_t
        if not library.ggml_backend_reg_count():
            library.ggml_backend_load_all_from_path(os.fsencode(folder))


@cache
def ggml() -> Any:
    """libggml-base as a ctypes library: quantisation, tensors, gguf."""
    library = _library("ggml-base")
    if library is None:
        raise NativeError(f"No ggml-base library beside {llama().__file__}. Install llama-cpp-python again.")
    return library


@cache
def tensors() -> TensorAccess:
    """ggml's functions on single tensors."""
    return TensorAccess(ggml())


@cache
def ggml_devices() -> Any:
    """libggml as a ctypes library: the registry of backends and their devices."""
    library = _library("ggml")
    if library is None:
        raise NativeError(f"No ggml library beside {llama().__file__}. Install llama-cpp-python again.")
    return library


@cache
def ggml_cpu() -> Any | None:
    """libggml-cpu: the processor's own fast paths. None where the build has one library per kind of processor."""
    return _library("ggml-cpu")


def _library(name: str) -> Any | None:
    return _find(_folder(Path(llama().__file__).parent), name)


def _folder(package: Path) -> Path:
    """Where the binding loads its libraries from."""
    elsewhere = os.environ.get("LLAMA_CPP_LIB_PATH")
    return package / "lib" if elsewhere is None else Path(elsewhere)


def _find(folder: Path, name: str) -> Any | None:
    files = [f"{name}.dll", f"lib{name}.dll", f"lib{name}.dylib", f"lib{name}.so"]
    found = next((folder / file for file in files if (folder / file).exists()), None)
    return None if found is None else ctypes.CDLL(str(found))


def last_complaint() -> str:
    """llama.cpp's latest errors, for a message; they are forgotten once read."""
    said = "; ".join(_complaints)
    _complaints.clear()
    return said
