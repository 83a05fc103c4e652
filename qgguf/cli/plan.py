"""qgguf plan."""

import json
from typing import TYPE_CHECKING, Any

import click

from qgguf.cli.budget import as_bytes
from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import kv_type_option
from qgguf.units import readable

if TYPE_CHECKING:
    from qgguf.gguf_format.reader import Header
    from qgguf.memory.planner import Plan
    from qgguf.model.spec import ModelSpec

BAR_COLUMNS = 60
# Letter in the bar -> what the names of such parts begin with.
_LETTERS = {"L": "layers", "O": "output", "E": "token embedding", "K": "KV cache", "C": "compute buffer",
            "W": "kernels", "D": "driver", "P": "program"}  # fmt: skip


@click.command(short_help="Show what a model needs of a GPU and of the host, and what fits a budget.")
@click.argument("model")
@click.option(
    "--vram",
    metavar="BYTES",
    callback=as_bytes,
    help="The GPU's memory for all of it: 3GB, 3GiB, 3000MB. Default: $QGGUF_VRAM, else no GPU.",
)
@click.option(
    "--ram", metavar="BYTES", callback=as_bytes, help="The host's memory. Default: $QGGUF_RAM, else no limit."
)
@click.option(
    "--max-tokens", type=click.IntRange(min=4), help="Longest text. Without it: the model's own, or what fits."
)
@kv_type_option
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@verbose_option
def plan(
    model: str, vram: int | None, ram: int | None, max_tokens: int | None, kv_type: str | None, as_json: bool
) -> None:
    """Show what a model needs of a GPU's memory and of the host's, and the best settings that a budget holds.

    Only the file's header is read. A model that is not here is not downloaded: some MB of it are asked of the hub.
    No GPU is needed; figures for one are computed and have not been measured on a GPU yet.

    \b
    qgguf plan qwen3-embedding-4b --vram 3GB
    qgguf plan qwen3-embedding-4b --vram 3GB --max-tokens 32768
    qgguf plan model.gguf --ram 2GB
    """
    from qgguf.hardware.cores import usable_cores
    from qgguf.hardware.cpu import types_to_repack
    from qgguf.memory.planner import PlanRequest, larger_plan, smaller_plan
    from qgguf.memory.planner import plan as fit
    from qgguf.model.from_gguf import sizes_of
    from qgguf.settings import ram_setting, threads_setting, vram_setting

    vram, ram = vram_setting(vram), ram_setting(ram)
    threads, repacked = threads_setting(None) or usable_cores(), types_to_repack()
    header, spec, where = _read(model)
    sizes = sizes_of(header, spec)
    request = PlanRequest(vram, ram, max_tokens, kv_type, threads, repacked)
    found = fit(sizes, request)
    larger, smaller = larger_plan(sizes, request, found), smaller_plan(sizes, request, found)
    if as_json:
        click.echo(json.dumps(_as_dict(model, spec, found, vram, ram, larger, smaller), indent=2, ensure_ascii=False))
        return
    click.echo(f"{spec.name}, {spec.quantization}, {spec.n_layers} layers, {where}\n")
    for memory, label, budget in (("GPU", "GPU", vram), ("CPU", "host", ram)):
        _show_memory(found, memory, label, budget)
    _show_settings(found)
    for option in (smaller, larger):
        if option is not None:
            click.echo(_option_line(option, found))


def _read(model: str) -> "tuple[Header, ModelSpec, str]":
    """Header and spec of a model, and where they are from."""
    from pathlib import Path

    from qgguf import hub
    from qgguf.errors import ModelFileError
    from qgguf.model.from_gguf import read_header, spec_of

    place = hub.locate(model)
    if isinstance(place, Path):
        header, path, where = read_header(place), place, str(place)
    else:
        header, path = hub.read_remote_header(place), Path(place.name)
        where = f"not on this machine: {readable(header.size_bytes)} to fetch"
    spec = spec_of(header, path)
    if spec.pooling is None or not spec.pooling.makes_vectors:
        raise ModelFileError(f"{model} declares no pooling that makes vectors. Give an embedding model's GGUF.")
    return header, spec, where


def _show_memory(found: "Plan", memory: str, label: str, budget: int | None) -> None:
    parts = [part for part in found.parts if part.memory == memory]
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
    """A line of letters as long as the parts are large, in a frame as large as the whole; what is free is dots.

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


def _show_settings(found: "Plan") -> None:
    from qgguf.memory.planner import COMPUTE_BUFFER_NOTE

    settings = found.settings
    rows = [
        ("layers on the GPU", f"{settings.n_gpu_layers} of {found.n_layers}"),
        ("longest text", f"{settings.max_tokens:,} tokens"),
        ("KV cache", settings.kv_type if any(part.name.startswith("KV cache") for part in found.parts) else "none"),
        (
            "at once",
            f"{settings.micro_batch:,} tokens, of a batch of {settings.batch_tokens:,} and {found.max_texts} texts",
        ),
        ("costs", "\n".join(found.costs) or "nothing"),
    ]
    if not found.exact_compute_buffer:
        rows.append(("compute buffer", COMPUTE_BUFFER_NOTE))
    for name, value in rows:
        for number, line in enumerate(value.split("\n")):
            click.echo(f"{name if number == 0 else '':<20}{line}")


def _option_line(option: "Plan", here: "Plan") -> str:
    """With what budget comes what: "with 3.02GB: all 36 layers on the GPU, 4,096 tokens, 512 at once, KV cache f16"."""
    from qgguf.units import in_gigabytes

    settings, n_layers = option.settings, option.n_layers
    if settings.n_gpu_layers:
        needed = option.vram_bytes
        count = f"all {n_layers}" if settings.n_gpu_layers == n_layers else f"{settings.n_gpu_layers} of {n_layers}"
        where = f"{count} layers on {'the' if here.n_gpu_layers else 'a'} GPU"
    else:
        needed = option.required_ram_bytes
        where = "on the CPU" if option.fits_ram else "on the CPU, weights read from the disk again and again"
    rest = f"{settings.max_tokens:,} tokens, {settings.micro_batch:,} at once, KV cache {settings.kv_type}"
    return f"with {in_gigabytes(needed)}: {where}, {rest}"


def _as_dict(
    model: str,
    spec: "ModelSpec",
    found: "Plan",
    vram: int | None,
    ram: int | None,
    larger: "Plan | None",
    smaller: "Plan | None",
) -> dict[str, Any]:
    parts = {
        part.name: {"bytes": part.size_bytes, "memory": part.memory, "mapped": part.mapped} for part in found.parts
    }
    return {
        "model": model,
        "name": spec.name,
        "architecture": spec.architecture,
        "quantization": spec.quantization,
        "budget": {"vram_bytes": vram, "ram_bytes": ram},
        **_summary(found),
        "parts": parts,
        "costs": list(found.costs),
        "exact_compute_buffer": found.exact_compute_buffer,
        "larger": larger and _summary(larger),
        "smaller": smaller and _summary(smaller),
    }


def _summary(found: "Plan") -> dict[str, Any]:
    settings = found.settings
    return {
        "gpu_layers": settings.n_gpu_layers,
        "n_layers": found.n_layers,
        "max_tokens": settings.max_tokens,
        "kv_type": settings.kv_type,
        "micro_batch": settings.micro_batch,
        "batch_tokens": settings.batch_tokens,
        "cells": settings.cells,
        "max_texts": found.max_texts,
        "repack": settings.repack,
        "use_mmap": found.use_mmap,
        "fits_ram": found.fits_ram,
        "vram_bytes": found.vram_bytes,
        "ram_bytes": found.ram_bytes,
        "unmapped_ram_bytes": found.unmapped_ram_bytes,
    }
