"""The whole examination: binding, devices, processor, threads, memory, models, a trial; what is wrong, what helps."""

import os
import platform
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from qgguf import hub
from qgguf._version import __version__
from qgguf.doctor.model_files import ModelState, examine_model
from qgguf.doctor.probe import ask
from qgguf.errors import QgError
from qgguf.hardware.cores import Cores, read_cores
from qgguf.hardware.cpu import compiled_in, lacking, read_processor, unused
from qgguf.hardware.gpu import Graphics, backends_for, read_graphics
from qgguf.hardware.ram import HostMemory, host_memory
from qgguf.hub.catalogue import CATALOGUE
from qgguf.native.builds import compile_line, wheel_line
from qgguf.native.strategy import LEAST_COSINE
from qgguf.settings import VARIABLES, device_setting, ram_setting, threads_setting, vram_setting
from qgguf.types import Progress

Value = TypeVar("Value")

LEAST_COSINE_GPU = 0.99
"""A GPU against the CPU, whose kernels quantise what is multiplied too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know.

    topic     which part of the page it belongs to
    wrong     True: something does not work; False: it works, and could be better
    says      one line
    remedies  commands, the best first
    """

    topic: str
    wrong: bool
    says: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What the examination found; the fields of `qgguf doctor --json`.

    qgguf, python, system   versions
    binding       version, llama_cpp, backends, compiled (words of its system info); or error
    devices       as qgguf.native.devices.Device
    device        name of the one that a model gets; "" for none
    device_reason
    graphics      cards, drivers and compilers
    processor     name, flags that the build could use, those that it lacks
    threads       usable, the three limits, QGGUF_THREADS
    memory        of the host; None where the system does not say
    settings      environment variables that are set
    models        each file here
    trial         of one model: cosines to llama.cpp's own path; or skipped: why; or error
    findings      what is wrong, and what could be better
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
        """Nothing is wrong."""
        return not any(finding.wrong for finding in self.findings)


def examine(
    model: str | None = None,
    *,
    checksums: bool = False,
    show: Callable[[str], AbstractContextManager[Progress | None]] = lambda _what: nullcontext(),
) -> Report:
    """Examine this installation. Nothing is downloaded, and nothing here raises for what it finds.

    model      what to try: a name or path as for Embedder; None: $QGGUF_MODEL, else the only one here
    checksums  read every model file whole
    show       makes a progress bar from its title
    """
    findings: list[Finding] = []
    device = _asked(device_setting, "QGGUF_DEVICE", "auto", findings)
    threads = _asked(threads_setting, "QGGUF_THREADS", None, findings)
    vram = _asked(vram_setting, "QGGUF_VRAM", None, findings)
    ram = _asked(ram_setting, "QGGUF_RAM", None, findings)
    memory, cores, graphics, processor = host_memory(), read_cores(), read_graphics(), read_processor()
    said = ask("binding", {"device": device})
    compiled = compiled_in(said.get("system_info", ""))
    about_processor = {
        "name": processor.name,
        "lacking": lacking(compiled, processor.flags),
        "unused": unused(compiled, processor.flags) if compiled else (),
    }
    if "error" in said:
        binding = {"error": said["error"]}
        findings.append(_broken_binding(said))
    else:
        binding = {key: said[key] for key in ("version", "llama_cpp", "backends")} | {"compiled": compiled}
        findings += _about_binding(said, about_processor["unused"])
        findings += about_devices(said, device, graphics, os.environ)
    if threads is not None and threads > cores.usable:
        findings.append(
            Finding("threads", False, f"QGGUF_THREADS={threads}, but only {cores.usable} help ({cores.reason}).",
                    ("unset QGGUF_THREADS",))
        )  # fmt: skip
    path, why_not = _to_try(model, findings)
    models = _models(path, checksums, show, findings)
    return Report(
        qgguf=__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        binding=binding,
        devices=said.get("devices", []),
        device=said.get("device", ""),
        device_reason=said.get("reason", ""),
        graphics=graphics,
        processor=about_processor,
        threads=_threads(cores, threads),
        memory=memory,
        settings={
            variable.name: os.environ[variable.name]
            for variable in VARIABLES
            if variable.name in os.environ and not variable.secret
        },
        models=models,
        trial={"skipped": why_not}
        if path is None
        else _trial(path, {"device": device, "threads": threads, "vram": vram, "ram": ram}, memory, binding, findings),
        findings=findings,
    )


def _asked(setting: Callable[[None], Value], variable: str, otherwise: Value, findings: list[Finding]) -> Value:
    """What the environment says, or what is taken where that is wrong."""
    try:
        return setting(None)
    except QgError as error:
        findings.append(Finding("settings", True, str(error), (f"unset {variable}",)))
        return otherwise


def _threads(cores: Cores, asked: int | None) -> dict[str, Any]:
    return {
        "usable": cores.usable,
        "allowed": cores.allowed,
        "physical": cores.physical,
        "quota": cores.quota,
        "asked": asked,
        "reason": cores.reason,
    }


def _broken_binding(said: dict[str, Any]) -> Finding:
    lines = [compile_line("CPU", sys.platform)]
    says = f"llama-cpp-python does not work: {said.get('cause', said['error'])}"
    if said.get("signal") == "SIGILL":
        says += ". It was compiled for another processor; compile it on this one."
    else:
        lines += [line for line in [wheel_line("CPU", sys.platform)] if line]
    return Finding("binding", True, says, tuple(lines))


def _about_binding(said: dict[str, Any], idle: Sequence[str]) -> list[Finding]:
    found = []
    if idle:
        found.append(
            Finding(
                "processor",
                False,
                f"The processor has {', '.join(idle)}, which this build does not use. Compiled here it may be faster.",
                (compile_line("CPU", sys.platform),),
            )
        )
    return found


def about_devices(
    said: dict[str, Any], asked: str, graphics: Graphics, environment: Any, system: str = sys.platform
) -> list[Finding]:
    """What there is to say of GPUs.

    said         the binding's own account: devices, backends, device, reason
    asked        "auto", "cpu", "gpu" or "cuda"
    environment  os.environ
    system       sys.platform
    """
    found = []
    if not said["device"]:
        found.append(Finding("devices", True, said["reason"], ()))
    if any(device["kind"] in ("gpu", "igpu") for device in said["devices"]):
        return found
    hidden = environment.get("CUDA_VISIBLE_DEVICES")
    if "CUDA" in said["backends"] and graphics.nvidia_cards:
        if hidden in ("", "-1"):
            says = f"CUDA_VISIBLE_DEVICES={hidden!r} hides {_names(graphics)} from llama.cpp."
            return [*found, Finding("devices", False, says, ("unset CUDA_VISIBLE_DEVICES",))]
        says = (
            f"The driver ({graphics.nvidia_driver}, CUDA {_dotted(graphics.driver_cuda)}) sees {_names(graphics)}, and "
            "llama.cpp does not: the build is for a newer CUDA, or for another card."
        )
        return [*found, Finding("devices", True, says, _lines("CUDA", graphics, system))]
    if "NVIDIA" in graphics.vendors and not graphics.nvidia_driver:
        says = "An NVIDIA card is here without its driver (nvidia-smi does not answer). Install the driver first."
        found.append(Finding("devices", False, says, _lines("CUDA", graphics, system)))
        return found
    idle = [backend for backend in backends_for(graphics) if backend not in said["backends"]]
    if idle:
        cards = _names(graphics)
        says = f"llama.cpp runs on the CPU, though there is {cards}. A build with {' or '.join(idle)} uses it."
        found.append(
            Finding(
                "devices", False, says, tuple(line for backend in idle for line in _lines(backend, graphics, system))
            )
        )
    return found


def _lines(backend: str, graphics: Graphics, system: str) -> tuple[str, ...]:
    """The ready-made wheel first: it needs no compiler."""
    lines = (wheel_line(backend, system, graphics.driver_cuda), compile_line(backend, system))
    return tuple(line for line in lines if line)


def _names(graphics: Graphics) -> str:
    if graphics.metal and not graphics.nvidia_cards:
        return "this Mac's GPU"
    return ", ".join(graphics.nvidia_cards) or f"a GPU by {' and '.join(graphics.vendors)}"


def _dotted(version: tuple[int, int] | None) -> str:
    return "{}.{}".format(*version) if version else "unknown"


def _to_try(name: str | None, findings: list[Finding]) -> tuple[Path | None, str]:
    """The model for the trial, or why there is none."""
    asked = name or os.environ.get("QGGUF_MODEL")
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
    """The state of every model here, and of the one that was named from elsewhere."""
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
        findings += [Finding("models", True, f"{model.name}: {says}", remedy) for says in state.wrong]
    if not states:
        smallest = next(iter(CATALOGUE))
        findings.append(Finding("models", False, "No model is here. Fetch one:", (f"qgguf pull {smallest}",)))
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
        says = f"{path} has {size_bytes / 1e9:.2f} GB, and {memory.free_bytes / 1e9:.2f} GB of memory are free"
        findings.append(Finding("trial", False, f"{says}: not tried."))
        return {"skipped": says}
    found = ask("embed", {"path": str(path), **settings})
    findings += _about_trial(found, path)
    return {"path": str(path), **found}


def _about_trial(found: dict[str, Any], path: Path) -> list[Finding]:
    if "error" in found:
        return [Finding("trial", True, f"{path}: {found['error']}")]
    least = LEAST_COSINE if found["device"] == "cpu" else LEAST_COSINE_GPU
    worst = min(found["cosines"])
    # Not the other way round: a NaN is below nothing.
    if worst >= least:
        return []
    says = f"{path}: vectors differ from llama.cpp's own path (cosine {worst:.4f}, {least} is needed)."
    return [Finding("trial", True, says, ("QGGUF_DEVICE=cpu qgguf doctor",) if found["device"] != "cpu" else ())]
