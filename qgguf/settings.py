"""What the environment says where an argument says nothing: QGGUF_DEVICE, QGGUF_THREADS and QGGUF_VRAM."""

import os
from collections.abc import Mapping

from qgguf.errors import OptionError
from qgguf.units import parse_bytes

DEVICES = ("auto", "cpu", "gpu", "cuda")
"""auto: the GPU where there is one, else the CPU. gpu and cuda demand one, cuda of NVIDIA's backend."""

MOST_THREADS = 512
"""llama.cpp has no room for more."""


def device_setting(asked: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The device to use: the argument, else $QGGUF_DEVICE, else "auto".

    raises  OptionError naming the variable or the argument
    """
    said = asked if asked is not None else environment.get("QGGUF_DEVICE") or "auto"
    if said not in DEVICES:
        where = f"device={asked!r}" if asked is not None else f"QGGUF_DEVICE={said!r}"
        raise OptionError(f"{where}; there are {', '.join(DEVICES[:-1])} and {DEVICES[-1]}.")
    return said


def threads_setting(asked: int | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """The CPU threads to use: the argument, else $QGGUF_THREADS, else None (as many as help: qgguf.hardware.cores).

    raises  OptionError naming the variable or the argument
    """
    if asked is not None:
        if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= MOST_THREADS:
            raise OptionError(f"threads={asked!r}; a whole number from 1 to {MOST_THREADS} is needed.")
        return asked
    said = environment.get("QGGUF_THREADS", "").strip()
    if not said:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 9 and 1 <= int(said) <= MOST_THREADS):
        raise OptionError(f"QGGUF_THREADS={said!r}; a whole number from 1 to {MOST_THREADS} is needed. Or unset it.")
    return int(said)


def vram_setting(asked: int | str | None, environment: Mapping[str, str] = os.environ) -> int | None:
    """The GPU memory to use, in bytes: the argument ("3GB" or a number), else $QGGUF_VRAM, else None (what is free).

    raises  OptionError naming the variable or the argument
    """
    if asked is not None:
        return bytes_setting("vram", asked)
    said = environment.get("QGGUF_VRAM", "").strip()
    if not said:
        return None
    try:
        return parse_bytes(said)
    except OptionError as error:
        raise OptionError(f"QGGUF_VRAM: {error}") from None


def bytes_setting(name: str, asked: int | str) -> int:
    """A budget as an argument gives it: "3GB", or a number of bytes.

    raises  OptionError naming the argument
    """
    if isinstance(asked, bool) or not isinstance(asked, int | str):
        raise OptionError(f'{name}={asked!r}; a number of bytes, or a str like "3GB", is needed.')
    try:
        return parse_bytes(str(asked))
    except OptionError as error:
        raise OptionError(f"{name}: {error}") from None
