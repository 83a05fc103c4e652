"""The environment variables that qgguf reads, and how an argument overrides them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from qgguf.errors import OptionError
from qgguf.option_values import whole_number
from qgguf.units import parse_bytes

DEVICES = ("auto", "cpu", "gpu", "cuda")
"""auto: a GPU if there is one, else the CPU. gpu and cuda require one; cuda requires NVIDIA's backend."""

MOST_THREADS = 512
"""The largest number of threads that llama.cpp's arrays hold."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable.

    name     as in the environment
    meaning  what it sets
    default  what applies while it is unset
    secret   whether its value must not be shown
    """

    name: str
    meaning: str
    default: str
    secret: bool = False


VARIABLES = (
    Variable("QGGUF_MODEL", "the model of a command that names none", "the one model on this machine"),
    Variable("QGGUF_DEVICE", "where models run: auto, cpu, gpu or cuda", "auto"),
    Variable("QGGUF_THREADS", f"CPU threads, 1 to {MOST_THREADS}", "one per core that the process may use"),
    Variable("QGGUF_VRAM", "GPU memory for a model, such as 3GB", "what is free"),
    Variable("QGGUF_RAM", "RAM for a model, such as 2GB", "the machine's or its container's"),
    Variable("HF_HOME", "the folder of the Hugging Face cache", "~/.cache/huggingface"),
    Variable("HF_HUB_CACHE", "the folder of the cached models", "$HF_HOME/hub"),
    Variable("HF_ENDPOINT", "the hub's address", "https://huggingface.co"),
    Variable("HF_TOKEN", "the token for private and gated models", "the one that was saved at login", secret=True),
    Variable("HF_HUB_OFFLINE", "1: never use the network", "0"),
    Variable("CUDA_VISIBLE_DEVICES", "the NVIDIA GPUs that llama.cpp sees", "all"),
    Variable("LLAMA_CPP_LIB_PATH", "the folder of llama.cpp's libraries", "llama-cpp-python's own"),
    Variable("OMP_NUM_THREADS", "threads of OpenMP; qgguf passes its own number", "one per CPU"),
    Variable("OMP_WAIT_POLICY", "passive: idle threads sleep, which helps on a machine with other work", "active"),
)
"""Every variable that changes what qgguf does: its own first, then those of the libraries below it."""


def model_setting(argument: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of the model to use: the argument, else $QGGUF_MODEL, else None (the one model here)."""
    return argument or environment.get("QGGUF_MODEL") or None


def device_setting(argument: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the device to use: the argument, else $QGGUF_DEVICE, else "auto".

    raises  OptionError naming the variable or the argument
    """
    value = argument if argument is not None else environment.get("QGGUF_DEVICE") or "auto"
    if not isinstance(value, str) or value not in DEVICES:
        source = f"device={argument!r}" if argument is not None else f"QGGUF_DEVICE={value!r}"
        raise OptionError(f"{source} is not a device. Use {', '.join(DEVICES[:-1])} or {DEVICES[-1]}.")
    return value


def threads_setting(argument: int | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of CPU threads to use: the argument, else $QGGUF_THREADS, else None (`usable_cores()` decides).

    raises  OptionError naming the variable or the argument
    """
    if argument is not None:
        threads = whole_number(argument)
        if threads is None or not 1 <= threads <= MOST_THREADS:
            raise OptionError(f"threads={argument!r}; a whole number from 1 to {MOST_THREADS} is needed.")
        return threads
    value = environment.get("QGGUF_THREADS", "").strip()
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 9 and 1 <= int(value) <= MOST_THREADS):
        raise OptionError(f"QGGUF_THREADS={value!r}; a whole number from 1 to {MOST_THREADS} is needed. Or unset it.")
    return int(value)


def vram_setting(argument: int | str | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the GPU memory to use, in bytes: the argument ("3GB" or a number), else $QGGUF_VRAM, else None.

    raises  OptionError naming the variable or the argument
    """
    return _memory_setting("vram", argument, "QGGUF_VRAM", environment)


def ram_setting(argument: int | str | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the RAM to use, in bytes: the argument ("2GB" or a number), else $QGGUF_RAM, else None.

    raises  OptionError naming the variable or the argument
    """
    return _memory_setting("ram", argument, "QGGUF_RAM", environment)


def _memory_setting(name: str, argument: int | str | None, variable: str, environment: Mapping[str, str]) -> int | None:
    if argument is not None:
        if whole_number(argument) is None and not isinstance(argument, str):
            raise OptionError(f'{name}={argument!r}; a number of bytes, or a str like "3GB", is needed.')
        return _parse(name, str(argument))
    value = environment.get(variable, "").strip()
    return _parse(variable, value) if value else None


def _parse(source: str, text: str) -> int:
    try:
        return parse_bytes(text)
    except OptionError as error:
        raise OptionError(f"{source}: {error}") from None
