"""The option -m and what it opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qgguf.cli.budget import as_bytes
from qgguf.memory.planner import KV_TYPES
from qgguf.settings import DEVICES, MOST_THREADS, model_setting


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option -m."""
    return click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A GGUF file, qwen3-embedding-0.6b (-4b, -8b), owner/repo:QUANT or owner/repo/file.gguf. "
        "Without it: $QGGUF_MODEL, else the one model there is.",
    )(command)


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --device."""
    return click.option(
        "--device",
        type=click.Choice(DEVICES),
        help="auto: a GPU if there is one, else the CPU; gpu and cuda demand one. Default: $QGGUF_DEVICE, else auto.",
    )(command)


def memory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --vram, --ram and --kv-type."""
    vram = click.option(
        "--vram",
        metavar="BYTES",
        callback=as_bytes,
        help="The GPU's memory for all of it: 3GB, 3GiB, 3000MB. Default: $QGGUF_VRAM, else what is free.",
    )
    ram = click.option(
        "--ram",
        metavar="BYTES",
        callback=as_bytes,
        help="The host's memory. Default: $QGGUF_RAM, else what the machine or its container has.",
    )
    return vram(ram(kv_type_option(command)))


def kv_type_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --kv-type."""
    return click.option(
        "--kv-type",
        type=click.Choice(list(KV_TYPES)),
        help="Precision of the KV cache. Default: f16, or what the memory asks for.",
    )(command)


def threads_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option --threads."""
    return click.option(
        "--threads",
        type=click.IntRange(1, MOST_THREADS),
        metavar="N",
        help="CPU threads. Default: $QGGUF_THREADS, else one per core that may be used.",
    )(command)


def find_model(name: str | None) -> Path:
    """The file that -m means, downloaded with a progress bar if need be."""
    from qgguf import hub
    from qgguf.cli.progress import bar

    name = model_setting(name)
    if not name:
        return hub.default_model()
    with bar(f"Fetching {name}") as show:
        return hub.resolve(name, on_progress=show)
