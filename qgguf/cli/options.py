"""Options that several commands share, and the model that -m names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from qgguf.memory.planner import KV_TYPES
from qgguf.model.spec import ATTENTIONS, POOLING_NAMES
from qgguf.settings import DEVICES, MOST_THREADS, model_setting


def as_bytes(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Convert an option's amount of memory, such as 3GB, to bytes.

    raises  click.BadParameter: not an amount
    """
    from qgguf.errors import OptionError
    from qgguf.units import parse_bytes

    try:
        return None if value is None else parse_bytes(value)
    except OptionError as error:
        raise click.BadParameter(str(error)) from error


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option -m to a command."""
    return click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A GGUF file, qwen3-embedding-0.6b (-4b, -8b), owner/repo:QUANT or owner/repo/file.gguf. "
        "Default: $QGGUF_MODEL, else the one model on this machine.",
    )(command)


def spec_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --pooling, --attention and --end-token, for what a file declares wrongly or not at all."""
    pooling = click.option(
        "--pooling",
        type=click.Choice(POOLING_NAMES),
        help="For a file that declares none or a wrong one. Default: the file's.",
    )
    attention = click.option(
        "--attention",
        type=click.Choice(ATTENTIONS),
        help="For a file that declares none or a wrong one. Default: the file's, else the usual one of its family.",
    )
    end_token = click.option(
        "--end-token",
        metavar="TOKEN",
        help="The token that ends each text, such as '</s>', for a file that declares none or a wrong one; '' for "
        "none. Default: the file's.",
    )
    return pooling(attention(end_token(command)))


def device_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --device to a command."""
    return click.option(
        "--device",
        type=click.Choice(DEVICES),
        help="auto: a GPU if there is one, else the CPU. gpu, cuda: only a GPU. Default: $QGGUF_DEVICE, else auto.",
    )(command)


def memory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options --vram, --ram and --kv-type to a command."""
    vram = click.option(
        "--vram",
        metavar="BYTES",
        callback=as_bytes,
        help="The GPU's memory for all of the model: 3GB, 3GiB, 3000MB. Default: $QGGUF_VRAM, else what is free.",
    )
    ram = click.option(
        "--ram",
        metavar="BYTES",
        callback=as_bytes,
        help="The host's memory. Default: $QGGUF_RAM, else what the machine or its container has.",
    )
    return vram(ram(kv_type_option(command)))


def kv_type_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --kv-type to a command."""
    return click.option(
        "--kv-type",
        type=click.Choice(list(KV_TYPES)),
        help="Precision of the KV cache. Default: f16, or what the memory requires.",
    )(command)


def threads_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option --threads to a command."""
    return click.option(
        "--threads",
        type=click.IntRange(1, MOST_THREADS),
        metavar="N",
        help="CPU threads. Default: $QGGUF_THREADS, else one per core that may be used.",
    )(command)


def find_model(name: str | None) -> Path:
    """Return the file of the model that -m names. Download it with a progress bar if it is not here."""
    from qgguf import hub
    from qgguf.cli.progress import bar

    name = model_setting(name)
    if not name:
        return hub.default_model()
    with bar(f"Fetching {name}") as show:
        return hub.resolve(name, on_progress=show)
