"""The command `qgguf similarity`."""

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import device_option, find_model, memory_options, model_option, spec_options
from qgguf.cli.text_input import read_texts
from qgguf.cli.text_width import shorten, width
from qgguf.settings import device_setting, ram_setting, threads_setting, vram_setting

# Columns for a text in the table.
TEXT_COLUMNS = 40


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT TEXT...")
@model_option
@click.option("--prompt-name", metavar="NAME", help="A prompt of the model, such as query. `qgguf inspect` lists them.")
@click.option("--dim", type=click.IntRange(min=1), metavar="N", help="Keep the first N numbers (Matryoshka).")
@spec_options
@device_option
@memory_options
@verbose_option
def similarity(
    texts: tuple[str, ...],
    model: str | None,
    prompt_name: str | None,
    dim: int | None,
    pooling: str | None,
    attention: str | None,
    end_token: str | None,
    device: str | None,
    vram: int | None,
    ram: int | None,
    kv_type: str | None,
) -> None:
    """Show the cosine of each pair of texts, from -1 to 1.

    \b
    qgguf similarity "a cat sleeps" "the kitten naps" "stocks fell"
    """
    if len(texts) < 2:
        raise click.UsageError("One text cannot be compared. Give two or more.")
    device, threads = device_setting(device), threads_setting(None)
    vram, ram = vram_setting(vram), ram_setting(ram)
    lines = read_texts(texts, None)
    path = find_model(model)
    from qgguf.embedder import Embedder

    with Embedder(
        path,
        device=device,
        threads=threads,
        vram=vram,
        ram=ram,
        kv_type=kv_type,
        pooling=pooling,
        attention=attention,
        end_token=end_token,
    ) as embedder:
        vectors = embedder.encode(lines, prompt_name=prompt_name, truncate_dim=dim)
        scores = embedder.similarity(vectors, vectors).tolist()
    for line in table(lines, scores):
        click.echo(line)


def table(texts: list[str], scores: list[list[float]]) -> list[str]:
    """Return the lines of a table, with the texts as rows and their numbers as columns.

    >>> table(["a", "한"], [[1, 0.5], [0.5, 1]])
    ['           1      2', '1  a   1.000  0.500', '2  한  0.500  1.000']
    """
    labels = [shorten(text, TEXT_COLUMNS) for text in texts]
    digits = len(str(len(texts)))
    columns = max(width(label) for label in labels)
    head = " " * (digits + 2 + columns) + "".join(f"{number:>7}" for number in range(1, len(texts) + 1))
    lines = [head]
    for number, (label, row) in enumerate(zip(labels, scores, strict=True), 1):
        padding = " " * (columns - width(label))
        lines.append(f"{number:>{digits}}  {label}{padding}" + "".join(f"{score:7.3f}" for score in row))
    return lines
