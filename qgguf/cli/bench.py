"""The command `qgguf bench`."""

import json
from typing import TYPE_CHECKING

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import device_option, find_model, memory_options, spec_options, threads_option
from qgguf.cli.text_input import read_texts
from qgguf.native.strategy import STRATEGY_NAMES
from qgguf.units import readable

if TYPE_CHECKING:
    from qgguf.evaluation.speed import Measurement, Throughput


@click.command(short_help="Measure how fast a model is on this machine.")
@click.argument("model")
@click.option(
    "--texts",
    "file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Your own documents, one per line (- for stdin). Default: generated texts in many languages.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    show_default=True,
    metavar="S",
    help="Seconds to spend; a large model takes longer.",
)
@spec_options
@threads_option
@click.option("--strategy", type=click.Choice(STRATEGY_NAMES), help="How llama.cpp is driven. Default: the fastest.")
@device_option
@memory_options
@verbose_option
def bench(
    model: str,
    file: str | None,
    as_json: bool,
    seconds: float,
    pooling: str | None,
    attention: str | None,
    end_token: str | None,
    threads: int | None,
    strategy: str | None,
    device: str | None,
    vram: int | None,
    ram: int | None,
    kv_type: str | None,
) -> None:
    """Measure how fast a model is on this machine. Run it on an idle machine.

    Documents are texts of 10 to 150 tokens; queries are short questions with the model's query prompt. The raw rate is
    that of llama.cpp's own prompt processing, without embeddings, for 512 tokens at once, as llama-bench measures it
    (pp512). More than 100 % of it is possible.
    """
    from qgguf.cli.progress import bar

    texts = None if file is None else read_texts((), file)
    if texts is not None and not texts:
        raise click.UsageError(f"{file} has no texts.")
    path = find_model(model)
    from qgguf.evaluation.speed import measure

    with bar("Measuring", "step") as show:
        measurement = measure(
            path,
            texts=texts,
            seconds=seconds,
            device=device,
            threads=threads,
            vram=vram,
            ram=ram,
            kv_type=kv_type,
            strategy=strategy,
            pooling=pooling,
            attention=attention,
            end_token=end_token,
            on_progress=show,
        )
    if as_json:
        click.echo(json.dumps(measurement.as_dict(), ensure_ascii=False))
        return
    for name, value in _rows(measurement):
        click.echo(f"{name:<14}{value}")


def _rows(measurement: "Measurement") -> list[tuple[str, str]]:
    model, machine, versions = measurement.model, measurement.machine, measurement.versions
    packages = ", ".join(f"{name} {value}" for name, value in versions.items())
    one_query, n_calls = measurement.one_query, len(measurement.one_query.seconds)
    peak = "unknown on this system" if measurement.peak_bytes is None else readable(measurement.peak_bytes)
    prompt = "with the query prompt" if measurement.query_prompt else "no prompt"
    return [
        ("model", f"{model['name']}, {model['quantization']}, {readable(model['size_bytes'])}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.system}"),
        ("versions", packages),
        ("runs with", f"{measurement.threads} threads, {measurement.device}, strategy {measurement.strategy}"),
        ("opened in", f"{measurement.open_seconds:.2f} s"),
        ("documents", _throughput(measurement.documents)),
        ("queries", f"{_throughput(measurement.queries)}, {prompt}"),
        (
            "one query",
            f"{one_query.median * 1000:,.1f} ms median, {one_query.p95 * 1000:,.1f} ms p95   {n_calls} calls",
        ),
        ("raw rate", f"{measurement.raw.tokens_per_second:9,.0f} tok/s"),
        ("reached", f"{measurement.raw_share:9.0%} of the raw rate, with documents"),
        ("peak memory", peak),
    ]


def _throughput(throughput: "Throughput") -> str:
    each = throughput.each_tokens_per_second
    n_texts, n_tokens = sum(throughput.n_texts), sum(throughput.n_tokens)
    return (
        f"{throughput.tokens_per_second:9,.0f} tok/s {throughput.texts_per_second:9,.1f} texts/s   "
        f"{len(each)} rounds of {min(each):,.0f} to {max(each):,.0f} tok/s; {n_texts:,} texts, {n_tokens:,} tokens"
    )
