"""All checks of an installation: binding, devices, processor, threads, memory, models, and a trial of one model."""

import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qgguf import hub
from qgguf._version import __version__
from qgguf.doctor.model_files import ModelState, examine_model
from qgguf.doctor.probe import run_probe
from qgguf.errors import QgError
from qgguf.hardware.cores import Cores, read_cores
from qgguf.hardware.cpu import compiled_features, missing_instructions, read_processor, unused_instructions
from qgguf.hardware.gpu import Graphics, backends_for, read_graphics
from qgguf.hardware.ram import HostMemory, host_memory
from qgguf.hub.catalogue import CATALOGUE
from qgguf.native.builds import compile_line, wheel_line
from qgguf.native.strategy import LEAST_COSINE
from qgguf.settings import VARIABLES, device_setting, model_setting, ram_setting, threads_setting, vram_setting
from qgguf.types import Progress
from qgguf.units import readable

Value = TypeVar("Value")

LEAST_COSINE_GPU = 0.99
"""Cosine to the CPU's vectors that a GPU must reach. Lower, because the CPU's kernels quantise activations."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A result of a check that the user should know.

    topic     the part of the report that it belongs to
    wrong     True: something does not work; False: it works and could be better
    message   one line
    remedies  commands, the best first
    """

    topic: str
    wrong: bool
    message: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The results of all checks; its fields are those of `qgguf doctor --json`.

    qgguf, python, system   versions
    binding        version, llama_cpp, backends, compiled (features in its system info); or error
    devices        fields of `qgguf.native.devices.Device`
    device         name of the device that a model gets; "" for none
    device_reason  why that device
    graphics       cards, drivers and compilers
    processor      name, instruction sets that the build does not use (unused) or that it needs in vain (lacking)
    threads        usable, the three limits, QGGUF_THREADS
    memory         RAM available to this process; None if unknown
    settings       environment variables that are set
    models         each model file on this machine
    trial          of one model: cosines to llama.cpp's own path; or skipped: why; or error
    findings       what is wrong, and what could be better
    """

    qgguf: str
    python: str
    system: str
    binding: dict[str, Any]
    devices: list[dict[str, Any]]
    device: str
    device_reason: str
    graphics: Graphics
    processor: dict[str, Any]
    threads: dict[str, Any]
    memory: HostMemory | None
    settings: dict[str, str]
    models: list[ModelState]
    trial: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not any(finding.wrong for finding in self.findings)


def examine(
    model: str | None = None,
    *,
    checksums: bool = False,
    show: Callable[[str], AbstractContextManager[Progress | None]] = lambda _what: nullcontext(),
) -> Report:
    """Check this installation. Nothing is downloaded, and what is wrong becomes a finding, not an exception.

    model      the model to try, a name or path as for Embedder; None: $QGGUF_MODEL, else the only one on this machine
    checksums  whether to read every model file whole
    show       makes a progress bar from a title
    """
    findings: list[Finding] = []
    device = _setting_or_default(device_setting, "QGGUF_DEVICE", "auto", findings)
    threads = _setting_or_default(threads_setting, "QGGUF_THREADS", None, findings)
    vram = _setting_or_default(vram_setting, "QGGUF_VRAM", None, findings)
    ram = _setting_or_default(ram_setting, "QGGUF_RAM", None, findings)
    memory, cores, graphics, processor = host_memory(), read_cores(), read_graphics(), read_processor()
    loaded = run_probe("binding", {"device": device})
    compiled = compiled_features(loaded.get("system_info", ""))
    processor_fields = {
        "name": processor.name,
        "lacking": missing_instructions(compiled, processor.flags),
        "unused": unused_instructions(compiled, processor.flags) if compiled else (),
    }
    if "error" in loaded:
        binding = {"error": loaded["error"]}
        findings.append(_broken_binding(loaded))
    else:
        binding = {key: loaded[key] for key in ("version", "llama_cpp", "backends")} | {"compiled": compiled}
        findings += _build_findings(processor_fields["unused"])
        findings += device_findings(loaded, graphics, os.environ)
    if threads is not None and threads > cores.usable:
        message = f"QGGUF_THREADS={threads} is more than the {cores.usable} that help here ({cores.reason})."
        findings.append(Finding("threads", False, message, ("unset QGGUF_THREADS",)))
    path, reason = _model_to_try(model, findings)
    models = _models(path, checksums, show, findings)
    return Report(
        qgguf=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        binding=binding,
        devices=loaded.get("devices", []),
        device=loaded.get("device", ""),
        device_reason=loaded.get("reason", ""),
        graphics=graphics,
        processor=processor_fields,
        threads=_threads(cores, threads),
        memory=memory,
        settings={
            variable.name: os.environ[variable.name]
            for variable in VARIABLES
            if variable.name in os.environ and not variable.secret
        },
        models=models,
        trial={"skipped": reason}
        if path is None
        else _trial(path, {"device": device, "threads": threads, "vram": vram, "ram": ram}, memory, binding, findings),
        findings=findings,
    )


def _setting_or_default(
    setting: Callable[[None], Value], variable: str, default: Value, findings: list[Finding]
) -> Value:
    """Return the environment's setting. A wrong one becomes a finding, and the default is returned."""
    try:
        return setting(None)
    except QgError as error:
        findings.append(Finding("settings", True, str(error), (f"unset {variable}",)))
        return default


def _threads(cores: Cores, asked: int | None) -> dict[str, Any]:
    return {
        "usable": cores.usable,
        "allowed": cores.allowed,
        "physical": cores.physical,
        "quota": cores.quota,
        "asked": asked,
        "reason": cores.reason,
    }


def _broken_binding(loaded: dict[str, Any]) -> Finding:
    lines = [compile_line("CPU", sys.platform)]
    message = f"llama-cpp-python does not work: {loaded.get('cause', loaded['error'])}"
    if loaded.get("signal") == "SIGILL":
        message += ". It was compiled for another processor; compile it on this one."
    else:
        lines += [line for line in [wheel_line("CPU", sys.platform)] if line]
    return Finding("binding", True, message, tuple(lines))


def _build_findings(unused: Sequence[str]) -> list[Finding]:
    if not unused:
        return []
    message = (
        f"The processor has {', '.join(unused)}, which this build of llama.cpp does not use. A build compiled here may "
        "be faster."
    )
    return [Finding("processor", False, message, (compile_line("CPU", sys.platform),))]


def device_findings(
    loaded: dict[str, Any], graphics: Graphics, environment: Mapping[str, str], system: str = sys.platform
) -> list[Finding]:
    """Return the findings about GPUs: one that is not used, and why; a required one that is missing.

    loaded       what the binding reports: devices, backends, device, reason
    environment  os.environ
    system       sys.platform
    """
    findings = []
    if not loaded["device"]:
        findings.append(Finding("devices", True, loaded["reason"], ()))
    if any(device["kind"] in ("gpu", "igpu") for device in loaded["devices"]):
        return findings
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if "CUDA" in loaded["backends"] and graphics.nvidia_cards:
        if hidden in ("", "-1"):
            message = f"CUDA_VISIBLE_DEVICES={hidden!r} hides {_names(graphics)} from llama.cpp."
            return [*findings, Finding("devices", False, message, ("unset CUDA_VISIBLE_DEVICES",))]
        message = (
            f"The driver ({graphics.nvidia_driver}, CUDA {_dotted(graphics.driver_cuda)}) sees {_names(graphics)}, but "
            "llama.cpp does not: the build is for a newer CUDA, or for another card."
        )
        return [*findings, Finding("devices", True, message, _install_lines("CUDA", graphics, system))]
    if "NVIDIA" in graphics.vendors and not graphics.nvidia_driver:
        message = "There is an NVIDIA card without a working driver (nvidia-smi fails). Install the driver first."
        return [*findings, Finding("devices", False, message, _install_lines("CUDA", graphics, system))]
    missing = [backend for backend in backends_for(graphics) if backend not in loaded["backends"]]
    if missing:
        message = (
            f"llama.cpp runs on the CPU, although there is {_names(graphics)}. A build with {' or '.join(missing)} "
            "uses it."
        )
        lines = tuple(line for backend in missing for line in _install_lines(backend, graphics, system))
        findings.append(Finding("devices", False, message, lines))
    return findings


def _install_lines(backend: str, graphics: Graphics, system: str) -> tuple[str, ...]:
    # The ready-made wheel comes first: it needs no compiler.
    lines = (wheel_line(backend, system, graphics.driver_cuda), compile_line(backend, system))
    return tuple(line for line in lines if line)


def _names(graphics: Graphics) -> str:
    if graphics.metal and not graphics.nvidia_cards:
        return "this Mac's GPU"
    return ", ".join(graphics.nvidia_cards) or f"a GPU by {' and '.join(graphics.vendors)}"


def _dotted(version: tuple[int, int] | None) -> str:
    return "{}.{}".format(*version) if version else "unknown"


def _model_to_try(name: str | None, findings: list[Finding]) -> tuple[Path | None, str]:
    """Return the file for the trial, or None and the reason."""
    asked = model_setting(name)
    try:
        return (hub.resolve(asked, download=False) if asked else hub.default_model()), ""
    except (QgError, OSError) as error:
        if asked:
            findings.append(Finding("trial", True, str(error)))
        return None, str(error)


def _models(
    named: Path | None,
    checksums: bool,
    show: Callable[[str], AbstractContextManager[Progress | None]],
    findings: list[Finding],
) -> list[ModelState]:
    """Check every model on this machine, and the named one if it is elsewhere."""
    try:
        models = hub.list_models()
    except (QgError, OSError) as error:
        findings.append(Finding("models", True, str(error)))
        return []
    if named is not None and not any(named.resolve() == model.path.resolve() for model in models):
        models.append(hub.LocalModel(str(named), named, named.stat().st_size, "folder"))
    states = []
    for model in models:
        with show(f"Checking {model.name}") as on_progress:
            state = examine_model(model, checksums=checksums, on_progress=on_progress)
        states.append(state)
        remedy = (f"qgguf pull {model.name}",) if model.source == "hub" else ()
        findings += [Finding("models", True, f"{model.name}: {fault}", remedy) for fault in state.wrong]
    if not states:
        smallest = next(iter(CATALOGUE))
        findings.append(
            Finding("models", False, "There is no model on this machine. Fetch one:", (f"qgguf pull {smallest}",))
        )
    return states


def _trial(
    path: Path,
    settings: dict[str, str | int | None],
    memory: HostMemory | None,
    binding: dict[str, Any],
    findings: list[Finding],
) -> dict[str, Any]:
    if "error" in binding:
        return {"skipped": "llama-cpp-python must work first"}
    size_bytes = path.stat().st_size
    if memory is not None and size_bytes > memory.free_bytes:
        reason = f"{path} has {readable(size_bytes)}, but only {readable(memory.free_bytes)} of memory are free"
        findings.append(Finding("trial", False, f"No trial: {reason}."))
        return {"skipped": reason}
    trial = run_probe("embed", {"path": str(path), **settings})
    findings += trial_findings(trial, path)
    return {"path": str(path), **trial}


def trial_findings(trial: dict[str, Any], path: Path) -> list[Finding]:
    """Return the finding about a trial that failed, or whose vectors are too far from llama.cpp's own.

    trial  the result of the task "embed": device and cosines, or error
    """
    if "error" in trial:
        return [Finding("trial", True, f"{path}: {trial['error']}")]
    least = LEAST_COSINE if trial["device"] == "cpu" else LEAST_COSINE_GPU
    worst = min(trial["cosines"])
    # Not `worst < least`: every comparison with NaN is false.
    if worst >= least:
        return []
    message = f"{path}: vectors differ from llama.cpp's own path (cosine {worst:.4f}, at least {least} is needed)."
    return [Finding("trial", True, message, ("QGGUF_DEVICE=cpu qgguf doctor",) if trial["device"] != "cpu" else ())]
