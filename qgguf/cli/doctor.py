"""The command `qgguf doctor`."""

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

from qgguf.cli.logging_setup import verbose_option
from qgguf.cli.text_width import width
from qgguf.units import readable

if TYPE_CHECKING:
    from qgguf.doctor.checks import Report

LABEL_COLUMNS = 12
LINE_COLUMNS = 118


@click.command(short_help="Check whether this installation works, and show how to repair it.")
@click.argument("model", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--checksums", is_flag=True, help="Read each model whole and compare its SHA-256 with the published one.")
@verbose_option
@click.pass_context
def doctor(context: click.Context, model: str | None, as_json: bool, checksums: bool) -> None:
    """Check this installation: llama.cpp, devices, processor, threads, memory, models.

    A few texts are embedded with MODEL, and the vectors compared with those of llama.cpp's own path. Default:
    $QGGUF_MODEL, else the only model on this machine. Nothing is downloaded. The exit code is 1 if something is wrong;
    the lack of a GPU is not.
    """
    from qgguf.cli.progress import bar
    from qgguf.doctor.checks import examine

    report = examine(model, checksums=checksums, show=bar)
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(report) | {"ok": report.ok}, indent=2, ensure_ascii=False))
    else:
        for line in page(report):
            click.echo(line)
    context.exit(0 if report.ok else 1)


def page(report: "Report") -> list[str]:
    """Format the report: its rows, then what is wrong or could be better, each with its commands."""
    lines = []
    for label, values in _rows(report):
        column = label
        for value in values:
            for part in textwrap.wrap(value, LINE_COLUMNS - LABEL_COLUMNS, break_long_words=False) or [""]:
                lines.append(f"{column:<{LABEL_COLUMNS}}{part}")
                column = ""
    for finding in sorted(report.findings, key=lambda finding: not finding.wrong):
        lines.append("")
        start = "Wrong: " if finding.wrong else "Note: "
        lines += textwrap.wrap(start + finding.message, LINE_COLUMNS, break_long_words=False)
        # Commands are for copying: one line each, however long.
        lines += [f"    {remedy}" for remedy in finding.remedies]
    wrong = sum(finding.wrong for finding in report.findings)
    lines += ["", f"{wrong} {'thing is' if wrong == 1 else 'things are'} wrong." if wrong else "Nothing is wrong."]
    return lines


def _rows(report: "Report") -> list[tuple[str, list[str]]]:
    rows = [
        ("qgguf", [f"{report.qgguf}, Python {report.python}, {report.system}"]),
        ("binding", [_binding(report.binding)]),
        ("devices", [_device(device) for device in report.devices] or ["none: llama.cpp does not load"]),
    ]
    if report.device:
        rows.append(("runs on", [f"{report.device}: {report.device_reason}"]))
    rows += [
        ("graphics", [_graphics(report)]),
        ("processor", [_processor(report)]),
        ("threads", [_threads(report.threads)]),
        ("memory", [_memory(report)]),
    ]
    if report.settings:
        rows.append(("settings", [f"{name}={value}" for name, value in report.settings.items()]))
    rows.append(("models", _models(report) or ["none"]))
    rows.append(("trial", _trial(report.trial)))
    return rows


def _binding(binding: dict[str, Any]) -> str:
    if "error" in binding:
        return "does not work, see below"
    return f"llama-cpp-python {binding['version']} (llama.cpp {binding['llama_cpp']}), {', '.join(binding['backends'])}"


def _device(device: dict[str, Any]) -> str:
    kind = "" if device["kind"] == "cpu" else f", {device['backend']}, {device['kind']}"
    memory = f"{readable(device['free_bytes'])} of {readable(device['total_bytes'])} free"
    return f"{device['name']}  {device['description']}{kind}, {memory if device['total_bytes'] else 'memory unknown'}"


def _graphics(report: "Report") -> str:
    graphics = report.graphics
    vendors = f"card by {', '.join(graphics.vendors)}" if graphics.vendors else ""
    parts = [", ".join(graphics.nvidia_cards) or vendors]
    if graphics.nvidia_driver:
        cuda = " (CUDA {}.{})".format(*graphics.driver_cuda) if graphics.driver_cuda else ""
        parts.append(f"NVIDIA driver {graphics.nvidia_driver}{cuda}")
    if graphics.nvcc:
        parts.append("nvcc {}.{}".format(*graphics.nvcc))
    tools = {"Vulkan loader": graphics.vulkan, "glslc": graphics.glslc, "ROCm": graphics.rocm, "Metal": graphics.metal}
    parts += [name for name, present in tools.items() if present]
    return ", ".join(part for part in parts if part) or "no graphics card found"


def _processor(report: "Report") -> str:
    features = ", ".join(report.binding.get("compiled", ())) or "unknown"
    return f"{report.processor['name']}; llama.cpp uses {features}"


def _threads(threads: dict[str, Any]) -> str:
    if threads["asked"] is not None:
        return f"{threads['asked']}, set by QGGUF_THREADS; without it {threads['usable']}: {threads['reason']}"
    return f"{threads['usable']}: {threads['reason']}"


def _memory(report: "Report") -> str:
    memory = report.memory
    if memory is None:
        return "unknown"
    limit = "the container's limit" if memory.container else "no container limit"
    return f"{readable(memory.free_bytes)} of {readable(memory.limit_bytes)} free, {limit}"


def _models(report: "Report") -> list[str]:
    columns = max((width(model.name) for model in report.models), default=0)
    lines = []
    for model in report.models:
        if model.wrong:
            state = "wrong, see below"
        elif not model.embeds:
            state = "no embedding model"
        else:
            state = f"{model.quantization}, {model.dims} dims, {model.pooling} pooling, ends with {model.end_token}, "
            state += f"{len(model.prompts)} prompts" if model.prompts else "no prompts"
        if model.checksum != "not checked":
            state += f", checksum {model.checksum}"
        padding = " " * (columns - width(model.name))
        lines.append(f"{model.name}{padding}  {readable(model.size_bytes)}, {state}")
        lines += [f"  {sentence}" for sentence in model.corrections]
    return lines


def _trial(trial: dict[str, Any]) -> list[str]:
    if "skipped" in trial:
        return [f"none: {trial['skipped']}"]
    if "error" in trial:
        return [f"{trial['path']} fails, see below"]
    plain = "llama.cpp's own path"
    compared = plain if trial["strategy"] == "plain" else f"{trial['strategy']} against {plain}"
    return [
        f"{trial['path']} on the {trial['device'].upper()}: {compared}, cosines from {min(trial['cosines']):.6f} "
        f"on {len(trial['cosines'])} texts; {trial['seconds']:.1f} s, loading included"
    ]
