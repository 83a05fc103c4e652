"""The command `qgguf embed`."""

import os
import sys

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import device_option, find_model, memory_options, model_option, spec_options, threads_option
from qgguf.cli.text_input import read_texts
from qgguf.cli.vector_output import FORMATS, choose_format, output, refuse_inputs, write_vectors
from qgguf.option_values import LEAST_MAX_TOKENS, PRECISIONS, TRUNCATIONS
from qgguf.settings import device_setting, ram_setting, threads_setting, vram_setting


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@model_option
@click.option(
    "-i",
    "--input",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A file of texts, one per line; - for stdin.",
)
@click.option("-o", "--output", "out", type=click.Path(dir_okay=False), help="The file to write. Default: stdout.")
@click.option(
    "-f",
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Default: the ending of the output file's name, else json.",
)
@click.option("--prompt-name", metavar="NAME", help="A prompt of the model, such as query. `qgguf inspect` lists them.")
@click.option("--instruction", metavar="SENTENCE", help="The task in your own words, for models that take one.")
@click.option("--dim", type=click.IntRange(min=1), metavar="N", help="Keep the first N numbers (Matryoshka).")
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default="float32",
    show_default=True,
    help="int8: a quarter of the bytes. binary, ubinary: one bit per number.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(LEAST_MAX_TOKENS),
    metavar="N",
    help="Longest text in tokens. Default: the model's own limit.",
)
@click.option(
    "--truncate",
    type=click.Choice(TRUNCATIONS),
    default="end",
    show_default=True,
    help="end: cut a text over the limit, with a warning. error: refuse it.",
)
@spec_options
@threads_option
@device_option
@memory_options
@verbose_option
def embed(
    texts: tuple[str, ...],
    model: str | None,
    file: str | None,
    out: str | None,
    form: str | None,
    prompt_name: str | None,
    instruction: str | None,
    dim: int | None,
    precision: str,
    max_tokens: int | None,
    truncate: str,
    pooling: str | None,
    attention: str | None,
    end_token: str | None,
    threads: int | None,
    device: str | None,
    vram: int | None,
    ram: int | None,
    kv_type: str | None,
) -> None:
    """Turn texts into vectors.

    The texts are the arguments, the lines of a file (-i), or the lines of stdin.

    \b
    qgguf embed "one text" "another"
    qgguf embed -i documents.txt -o documents.npy
    cat queries.txt | qgguf embed --prompt-name query -f jsonl | head -1

    \b
    json    {"model", "dims", "precision", "embeddings": [[...], ...], "n_tokens": [...], "truncated": [...]}
    jsonl   {"index", "embedding": [...], "n_tokens", "truncated"}, one line per text
    npy     a numpy array of shape (texts, dims)
    csv     one row of numbers per text
    base64  little-endian bytes of a vector, one line per text
    """
    if prompt_name is not None and instruction is not None:
        raise click.UsageError("--prompt-name and --instruction exclude each other.")
    device, threads = device_setting(device), threads_setting(threads)
    vram, ram = vram_setting(vram), ram_setting(ram)
    form = choose_format(form, out)
    lines = read_texts(texts, file)
    path = find_model(model)
    refuse_inputs(out, {"the file of texts (-i)": file, "the model": path})
    from qgguf.embedder import Embedder

    with output(out) as write:
        with Embedder(
            path,
            max_tokens=max_tokens,
            truncate=truncate,
            device=device,
            threads=threads,
            vram=vram,
            ram=ram,
            kv_type=kv_type,
            pooling=pooling,
            attention=attention,
            end_token=end_token,
        ) as embedder:
            embeddings = embedder.embed(
                lines,
                prompt_name=prompt_name,
                instruction=instruction,
                truncate_dim=dim,
                precision=precision,
                show_progress_bar=sys.stderr.isatty(),
            )
        # A name that is not the locale's text holds lone surrogates; its bytes are UTF-8 almost always.
        name = os.fsencode(path.stem).decode("utf-8", "replace")
        write_vectors(form, write, embeddings, name, precision)
