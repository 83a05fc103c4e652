"""The command `qgguf inspect`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.options import spec_options
from qgguf.units import readable

if TYPE_CHECKING:
    from qgguf.model.spec import ModelSpec


@click.command(short_help="Show a model's properties and what was corrected in its header.")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@spec_options
@verbose_option
def inspect(model: str, as_json: bool, pooling: str | None, attention: str | None, end_token: str | None) -> None:
    """Show a model's architecture, size, dims, pooling, end token and prompts, and what was corrected in its header.

    Only the file's header is read. Nothing is downloaded. --pooling, --attention and --end-token replace what the file
    declares.
    """
    from qgguf import hub
    from qgguf.gguf_format.reader import read_header
    from qgguf.model.from_gguf import spec_of
    from qgguf.model.spec import SpecChoices

    path = hub.resolve(model, download=False)
    spec = spec_of(read_header(path), path, SpecChoices.of(pooling, attention, end_token))
    if as_json:
        click.echo(json.dumps(_as_dict(spec, path), indent=2, ensure_ascii=False))
        return
    for name, value in _rows(spec, path):
        for number, line in enumerate(value.split("\n")):
            click.echo(f"{name if number == 0 else '':<14}{line}".rstrip())


def _as_dict(spec: "ModelSpec", path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    values = asdict(spec)
    values["pooling"] = spec.pooling.name.lower() if spec.pooling is not None else None
    return {"path": str(path), **values}


def _rows(spec: "ModelSpec", path: Path) -> list[tuple[str, str]]:
    from qgguf.memory.planner import COMPUTE_BUFFER_NOTE

    attention = "causal" if spec.causal else "bidirectional"
    rows = [
        ("model", spec.name),
        ("file", f"{path} ({readable(spec.size_bytes)})"),
        ("architecture", f"{spec.architecture}, {spec.n_layers} layers, attention {attention}"),
        ("weights", f"{spec.n_params / 1e6:,.1f} million, {spec.quantization}"),
        ("dims", _dims(spec)),
        ("tokens", _tokens(spec)),
        ("pooling", spec.pooling.name.lower() if spec.pooling is not None else "not declared"),
        ("end token", f"{spec.end_token} ({spec.end_token_id})" if spec.end_token_id is not None else "none"),
        ("prompts", _prompts(spec)),
    ]
    if not spec.exact_compute_buffer:
        rows.append(("memory plan", f"compute buffer: {COMPUTE_BUFFER_NOTE}"))
    if spec.instruction_template:
        rows.append(("instruction", _quoted(spec.instruction_template)))
    if spec.source_repo:
        rows.append(("made from", f"{spec.source_repo} {spec.source_revision}".rstrip()))
    if spec.warnings:
        rows.append(("warning", "\n".join(spec.warnings)))
    rows.append(("corrected", "\n".join(spec.corrections) or "nothing"))
    return rows


def _dims(spec: "ModelSpec") -> str:
    if spec.mrl_dims is None:
        return f"{spec.dims}, not trained to be cut shorter"
    return f"{spec.dims}, can be cut to {spec.mrl_dims[0]}-{spec.mrl_dims[1]} (--dim)"


def _tokens(spec: "ModelSpec") -> str:
    limit = f", {spec.max_tokens} by the checkpoint's own limit" if spec.max_tokens else ""
    return f"{spec.context_length} in a text{limit}; vocabulary of {spec.vocab_size}"


def _prompts(spec: "ModelSpec") -> str:
    if not spec.prompts:
        return "none"
    columns = max(len(name) for name in spec.prompts)
    lines = []
    for name, text in spec.prompts.items():
        default = " (default)" if name == spec.default_prompt_name else ""
        lines.append(f"{name:<{columns}}  {_quoted(text)}{default}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
