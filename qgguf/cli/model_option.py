"""The option -m and what it opens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

DEVICES = ("auto", "cpu", "cuda")


def model_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option -m."""
    return click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A GGUF file, qwen3-embedding-0.6b (-4b, -8b), owner/repo:QUANT or owner/repo/file.gguf. "
        "Without it: $QGGUF_MODEL, else the one model there is.",
    )(command)


def find_model(name: str | None) -> Path:
    """The file that -m means, downloaded with a progress bar if need be."""
    import os

    from qgguf import hub
    from qgguf.cli.progress import bar

    name = name or os.environ.get("QGGUF_MODEL")
    if not name:
        return hub.default_model()
    with bar(f"Fetching {name}") as show:
        return hub.resolve(name, on_progress=show)
