"""The commands `qgguf pull`, `list` and `rm`: models on this machine."""

import sys
from pathlib import Path
from typing import Any

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.streams import has_stdin, report
from qgguf.cli.text_width import width
from qgguf.units import readable


@click.command()
@click.argument("name")
@verbose_option
def pull(name: str) -> None:
    """Download a model, or verify one that is here.

    NAME is qwen3-embedding-0.6b, -4b or -8b (with :QUANT for another file of it), owner/repo:QUANT or
    owner/repo/file.gguf. An interrupted download resumes where it stopped. Each file is verified against its published
    SHA-256. The environment variables HF_HOME (or HF_HUB_CACHE), HF_ENDPOINT and HF_TOKEN set the folder, the hub's
    address and your access token.
    """
    from qgguf import hub
    from qgguf.cli.progress import bar

    if Path(name).is_file():
        raise click.UsageError(f"{name} is a file on this machine. Use it: qgguf embed -m {name}")
    with bar(f"Fetching {name}") as show:
        path = hub.pull(name, on_progress=show)
    report(f"{name} is ready ({readable(path.stat().st_size)}, checksum verified): {path}")


@click.command("list", short_help="List the models on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: name, path, size_bytes, source.")
@verbose_option
def list_command(as_json: bool) -> None:
    """List the models on this machine: in the Hugging Face cache, in ./models and in the current folder."""
    from qgguf import hub

    models = hub.list_models()
    if as_json:
        import json

        rows = [
            {"name": model.name, "path": str(model.path), "size_bytes": model.size_bytes, "source": model.source}
            for model in models
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not models:
        click.echo(
            "No model is here. Fetch one: qgguf pull qwen3-embedding-0.6b, or make one: qgguf convert CHECKPOINT"
        )
        return
    rows_of_text = [("NAME", "SIZE", "TYPE", "DIMS"), *(_row(model) for model in models)]
    columns = [max(width(row[column]) for row in rows_of_text) for column in range(4)]
    for name, size, kind, dims in rows_of_text:
        padding = " " * (columns[0] - width(name))
        click.echo(f"{name}{padding}  {size:>{columns[1]}}  {kind:<{columns[2]}}  {dims:>{columns[3]}}".rstrip())


@click.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask for confirmation.")
@verbose_option
def rm(name: str, yes: bool) -> None:
    """Delete a model that `qgguf list` shows.

    A model of the Hugging Face cache is deleted at once, since it can be downloaded again. For a file in a folder the
    command asks first.
    """
    from qgguf import hub

    model = next((model for model in hub.list_models() if model.name == name), None)
    if model and model.source == "folder" and not yes:
        question = f"{model.path} ({readable(model.size_bytes)}) cannot be downloaded again. Delete it?"
        if not has_stdin() or not sys.stdin.isatty():
            raise click.UsageError(f"{question} There is no terminal to ask on; to confirm, add --yes.")
        if not click.confirm(question):
            click.echo("Nothing was deleted.")
            return
    removed = hub.remove(name)
    report(f"Deleted {removed.name} ({readable(removed.size_bytes)}).")


def _row(model: Any) -> tuple[str, str, str, str]:
    from qgguf.errors import ModelFileError
    from qgguf.model.from_gguf import read_spec

    try:
        spec = read_spec(model.path)
    except (ModelFileError, OSError):
        return model.name, readable(model.size_bytes), "not an embedding model", ""
    if spec.pooling is None:
        return model.name, readable(model.size_bytes), f"{spec.quantization} (no pooling)", str(spec.dims)
    return model.name, readable(model.size_bytes), spec.quantization, str(spec.dims)
