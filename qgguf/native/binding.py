"""Loads llama-cpp-python once and sends llama.cpp's log to Python logging. The only file that imports it."""

import collections
import ctypes
import logging
import sys
import threading
from functools import cache
from pathlib import Path
from typing import Any

from qgguf.errors import NativeError

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

    raises  NativeError where the binding is missing or does not load
    """
    try:
        import llama_cpp.llama_cpp as module
    except (ImportError, OSError, RuntimeError) as error:
        raise NativeError(
            f"llama-cpp-python does not load ({error}). Reinstall: pip install --force-reinstall llama-cpp-python"
        ) from error
    callback = module.llama_log_callback(_on_log)
    _keep_alive.append(callback)
    module.llama_log_set(callback, ctypes.c_void_p(0))
    module.llama_backend_init()
    return module


@cache
def ggml() -> Any:
    """libggml-base as a ctypes library: quantisation, tensors, gguf."""
    library = _library("ggml-base")
    if library is None:
        raise NativeError(f"No ggml-base library beside {llama().__file__}. Install llama-cpp-python again.")
    return library


@cache
def ggml_cpu() -> Any | None:
    """libggml-cpu: the processor's own fast paths. None where the build has one library per kind of processor."""
    return _library("ggml-cpu")


def _library(name: str) -> Any | None:
    folder = Path(llama().__file__).parent / "lib"
    files = [f"{name}.dll", f"lib{name}.dll", f"lib{name}.dylib", f"lib{name}.so"]
    found = next((folder / file for file in files if (folder / file).exists()), None)
    return None if found is None else ctypes.CDLL(str(found))


def last_complaint() -> str:
    """llama.cpp's latest errors, for a message; they are forgotten once read."""
    said = "; ".join(_complaints)
    _complaints.clear()
    return said
