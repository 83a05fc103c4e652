"""The command `qgguf plan`."""

import json
from typing import TYPE_CHECKING, Any

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import as_bytes, kv_type_option, spec_options
from qgguf.option_values import LEAST_MAX_TOKENS
from qgguf.units import readable

if TYPE_CHECKING:
    from qgguf.gguf_format.reader import Header
    from qgguf.memory.planner import Plan
    from qgguf.model.spec import ModelSpec, SpecChoices

BAR_COLUMNS = 60
# Letter in the bar -> how the names of its parts begin.
_LETTERS = {"L": "layers", "O": "output", "E": "token embedding", "K": "KV cache", "C": "compute buffer",
            "W": "kernels", "D": "driver", "P": "program"}  # fmt: skip


@click.command(short_help="Show what memory a model needs on the GPU and the host, and what fits a budget.")
@click.argument("model")
@click.option(
    "--vram",
    metavar="BYTES",
    callback=as_bytes,
    help="GPU memory for everything: 3GB, 3GiB, 3000MB. Default: $QGGUF_VRAM, else no GPU is used.",
)
@click.option(
    "--ram",
    metavar="BYTES",
    callback=as_bytes,
    help="The host's memory: 3GB, 3GiB, 3000MB. Default: $QGGUF_RAM, else no limit.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(LEAST_MAX_TOKENS),
    help="Longest text. Default: the model's own limit, or what fits.",
)
@kv_type_option
@spec_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@verbose_option
def plan(
    model: str,
    vram: int | None,
    ram: int | None,
    max_tokens: int | None,
    kv_type: str | None,
    pooling: str | None,
    attention: str | None,
    end_token: str | None,
    as_json: bool,
) -> None:
    """Show what memory a model needs on the GPU and on the host, and the best settings that fit a budget.

    Only the file's header is read. A model on the hub is not downloaded: the header is some MB of its file.
    No GPU is needed; figures for one are computed and have not been measured on a GPU yet.

    \b
    qgguf plan qwen3-embedding-4b --vram 3GB
    qgguf plan qwen3-embedding-4b --vram 3GB --max-tokens 32768
    qgguf plan model.gguf --ram 2GB
    """
    from qgguf.hardware.cores import usable_cores
    from qgguf.hardware.cpu import types_to_repack
    from qgguf.memory import planner
    from qgguf.model.from_gguf import sizes_of
    from qgguf.model.spec import SpecChoices
    from qgguf.settings import ram_setting, threads_setting, vram_setting

    vram, ram = vram_setting(vram), ram_setting(ram)
    threads, repacked = threads_setting(None) or usable_cores(), types_to_repack()
    header, spec, source = _read(model, SpecChoices.of(pooling, attention, end_token))
    sizes = sizes_of(header, spec)
    request = planner.PlanRequest(vram, ram, max_tokens, kv_type, threads, repacked)
    chosen = planner.plan(sizes, request)
    larger, smaller = planner.larger_plan(sizes, request, chosen), planner.smaller_plan(sizes, request, chosen)
    if as_json:
        answer = {
            "model": model,
            "name": spec.name,
            "architecture": spec.architecture,
            "quantization": spec.quantization,
            "budget": {"vram_bytes": vram, "ram_bytes": ram},
            **_as_dict(chosen),
            "larger": larger and _summary(larger),
            "smaller": smaller and _summary(smaller),
        }
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    click.echo(f"{spec.name}, {spec.quantization}, {spec.n_layers} layers, {source}\n")
    for memory, label, budget in (("GPU", "GPU", vram), ("CPU", "host", ram)):
        _show_memory(chosen, memory, label, budget)
    _show_settings(chosen)
    for other in (smaller, larger):
        if other is not None:
            click.echo(_other_plan_line(other, chosen))


def _read(model: str, choices: "SpecChoices") -> "tuple[Header, ModelSpec, str]":
    """Return a model's header and spec, and a phrase on where its file is."""
    from pathlib import Path

    from qgguf import hub
    from qgguf.errors import ModelFileError
    from qgguf.gguf_format.reader import read_header
    from qgguf.model.from_gguf import spec_of

    file = hub.locate(model)
    if isinstance(file, Path):
        header, path, source = read_header(file), file, str(file)
    else:
        header, path = hub.read_remote_header(file), Path(file.name)
        source = f"not on this machine: {readable(header.size_bytes)} to download"
    spec = spec_of(header, path, choices)
    if spec.pooling is None or not spec.pooling.makes_vectors:
        raise ModelFileError(
            f"{model} declares no pooling that makes vectors. Give an embedding model's GGUF, or name the pooling: "
            "--pooling last, mean or cls."
        )
    return header, spec, source


def _show_memory(chosen: "Plan", memory: str, label: str, budget: int | None) -> None:
    parts = [part for part in chosen.parts if part.memory == memory]
    if not parts:
        return
    total = sum(part.size_bytes for part in parts)
    click.echo(f"{label}: {readable(total)}" + (f" of {readable(budget)}" if budget is not None else ""))
    click.echo(bar([(part.name, part.size_bytes) for part in parts], max(budget or 0, total)))
    for part in parts:
        note = "  pages of the file" if part.mapped else ""
        click.echo(f"  {_letter(part.name)} {part.name:<26}{readable(part.size_bytes):>10}{note}")
    click.echo()


def bar(parts: list[tuple[str, int]], whole: int) -> str:
    """Return a bar in which each part has as many letters as its share of the whole; dots are free memory.

    >>> bar([("layers (GPU)", 500), ("KV cache (GPU)", 250), ("output norm", 1)], 1000)
    '[LLLLLLLLLLLLLLLLLLLLLLLLLLLLLLKKKKKKKKKKKKKKK...............]'
    """
    line, done = "", 0
    for name, size in parts:
        done += size
        line = line.ljust(round(BAR_COLUMNS * done / whole), _letter(name))
    return f"[{line.ljust(BAR_COLUMNS, '.')}]"


def _letter(name: str) -> str:
    return next((letter for letter, beginning in _LETTERS.items() if name.startswith(beginning)), "?")


def _show_settings(chosen: "Plan") -> None:
    from qgguf.memory.planner import COMPUTE_BUFFER_NOTE

    settings = chosen.settings
    rows = [
        ("layers on the GPU", f"{settings.n_gpu_layers} of {chosen.n_layers}"),
        ("longest text", f"{settings.max_tokens:,} tokens"),
        ("KV cache", settings.kv_type if any(part.name.startswith("KV cache") for part in chosen.parts) else "none"),
        (
            "at once",
            f"{settings.micro_batch:,} tokens, of a batch of {settings.batch_tokens:,} and {chosen.max_texts} texts",
        ),
        ("costs", "\n".join(chosen.costs) or "nothing"),
    ]
    if not chosen.exact_compute_buffer:
        rows.append(("compute buffer", COMPUTE_BUFFER_NOTE))
    for name, value in rows:
        for number, line in enumerate(value.split("\n")):
            click.echo(f"{name if number == 0 else '':<20}{line}")


def _other_plan_line(other: "Plan", chosen: "Plan") -> str:
    """Return a line such as "with 3.02GB: all 36 layers on the GPU, 4,096 tokens, 512 at once, KV cache f16"."""
    from qgguf.units import in_gigabytes

    settings, n_layers = other.settings, other.n_layers
    if settings.n_gpu_layers:
        needed = other.vram_bytes
        count = f"all {n_layers}" if settings.n_gpu_layers == n_layers else f"{settings.n_gpu_layers} of {n_layers}"
        layers = f"{count} layers on {'the' if chosen.n_gpu_layers else 'a'} GPU"
    else:
        needed = other.required_ram_bytes
        layers = "on the CPU" if other.fits_ram else "on the CPU, weights read from the disk again and again"
    rest = f"{settings.max_tokens:,} tokens, {settings.micro_batch:,} at once, KV cache {settings.kv_type}"
    return f"with {in_gigabytes(needed)}: {layers}, {rest}"


def _as_dict(chosen: "Plan") -> dict[str, Any]:
    return _summary(chosen) | {
        "parts": {
            part.name: {"bytes": part.size_bytes, "memory": part.memory, "mapped": part.mapped} for part in chosen.parts
        },
        "costs": list(chosen.costs),
        "exact_compute_buffer": chosen.exact_compute_buffer,
    }


def _summary(plan: "Plan") -> dict[str, Any]:
    settings = plan.settings
    return {
        "gpu_layers": settings.n_gpu_layers,
        "n_layers": plan.n_layers,
        "max_tokens": settings.max_tokens,
        "kv_type": settings.kv_type,
        "micro_batch": settings.micro_batch,
        "batch_tokens": settings.batch_tokens,
        "cells": settings.cells,
        "max_texts": plan.max_texts,
        "repack": settings.repack,
        "use_mmap": plan.use_mmap,
        "fits_ram": plan.fits_ram,
        "vram_bytes": plan.vram_bytes,
        "ram_bytes": plan.ram_bytes,
        "unmapped_ram_bytes": plan.unmapped_ram_bytes,
    }
