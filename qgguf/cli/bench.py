"""qgguf bench."""

import json
from typing import TYPE_CHECKING

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import device_option, find_model, memory_options, threads_option
from qgguf.cli.text_input import read_texts
from qgguf.units import readable

if TYPE_CHECKING:
    from qgguf.evaluation.speed import Figures, Rate

STRATEGIES = ("last_rows", "two_calls", "plain")


@click.command(short_help="Measure how fast a model is on this machine.")
@click.argument("model")
@click.option(
    "--texts",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Documents of your own, a line each (- for stdin). Default: made-up ones of many languages.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    metavar="S",
    help="To spend; a large model takes longer.",
)
@threads_option
@click.option("--strategy", type=click.Choice(STRATEGIES), help="How llama.cpp is driven. Default: the fastest.")
@device_option
@memory_options
@verbose_option
def bench(
    model: str,
    file: str | None,
    as_json: bool,
    seconds: float,
    threads: int | None,
    strategy: str | None,
    device: str | None,
    vram: int | None,
    ram: int | None,
    kv_type: str | None,
) -> None:
    """Measure how fast a model is on this machine.

    Documents are texts of 10 to 150 tokens, queries short questions behind the model's query prompt. The raw rate is
    what llama.cpp's own kernels do: 512 tokens in one pass and no vector, as llama-bench measures it.
    """
    from qgguf.cli.progress import bar

    texts = None if file is None else read_texts((), file)
    if texts is not None and not texts:
        raise click.UsageError(f"{file} has no texts.")
    path = find_model(model)
    from qgguf.evaluation.speed import measure

    with bar("Measuring", "step") as show:
        figures = measure(
            path,
            texts=texts,
            seconds=seconds,
            device=device,
            threads=threads,
            vram=vram,
            ram=ram,
            kv_type=kv_type,
            strategy=strategy,
            on_progress=show,
        )
    if as_json:
        click.echo(json.dumps(figures.as_dict(), ensure_ascii=False))
        return
    for name, value in _rows(figures):
        click.echo(f"{name:<14}{value}")


def _rows(figures: "Figures") -> list[tuple[str, str]]:
    model, machine, versions = figures.model, figures.machine, figures.versions
    packages = ", ".join(f"{name} {value}" for name, value in versions.items())
    one = figures.one_query
    peak = "not known on this system" if figures.peak_bytes is None else readable(figures.peak_bytes)
    prompt = "with the query prompt" if figures.query_prompt else "no prompt"
    return [
        ("model", f"{model['name']}, {model['quantization']}, {readable(model['size_bytes'])}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.system}"),
        ("versions", packages),
        ("runs with", f"{figures.threads} threads, {figures.device}, strategy {figures.strategy}"),
        ("opened in", f"{figures.open_seconds:.2f} s"),
        ("documents", _rate(figures.documents)),
        ("queries", f"{_rate(figures.queries)}, {prompt}"),
        (
            "one query",
            f"{one.median * 1000:,.1f} ms median, {one.p95 * 1000:,.1f} ms p95   {len(one.seconds)} calls",
        ),
        ("raw rate", f"{figures.raw.tokens_per_second:9,.0f} tok/s"),
        ("reached", f"{figures.raw_share:9.0%} of the raw rate, by documents"),
        ("peak memory", peak),
    ]


def _rate(rate: "Rate") -> str:
    each = rate.each_tokens_per_second
    n_texts, n_tokens = sum(rate.n_texts), sum(rate.n_tokens)
    return (
        f"{rate.tokens_per_second:9,.0f} tok/s {rate.texts_per_second:9,.1f} texts/s   "
        f"{len(each)} rounds of {min(each):,.0f} to {max(each):,.0f} tok/s; {n_texts:,} texts, {n_tokens:,} tokens"
    )
