"""Choose the device that a model runs on, and a plan for the memory of this machine."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qgguf.errors import BudgetError
from qgguf.hardware.ram import HostMemory
from qgguf.memory.planner import DRIVER_PARTS, ModelSizes, Plan, PlanRequest, plan, smaller_plan
from qgguf.native.devices import Device, choose_device
from qgguf.units import in_gigabytes

log = logging.getLogger("qgguf")

LEFT_FREE = 0.05
"""Share of a GPU's memory that is left to other programs where the user names no budget."""

_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Resources:
    """The devices and the memory of this machine.

    devices   `list_devices()`
    backends  `list_backends()`
    host      `host_memory()`
    repacked  types that get a second layout on this CPU
    """

    devices: Sequence[Device]
    backends: Sequence[str]
    host: HostMemory | None
    repacked: frozenset[str]


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, and the plan of the model that runs on it.

    device  gets the layers on the GPU, if it is one; the CPU computes the others
    plan    settings and bytes
    why     the reason for the device, as the log shows it
    """

    device: Device
    plan: Plan
    why: str


def choose_placement(sizes: ModelSizes, device: str, request: PlanRequest, resources: Resources) -> Placement:
    """Choose the device and settings for a model, and log them in one line.

    device   "auto", "cpu", "gpu" or "cuda"
    request  None as `vram` means what is free on the GPU, None as `ram` what the machine or its container has;
             `repacked` comes from the resources
    raises   OptionError, DeviceError: as `choose_device`; BudgetError: nothing fits
    """
    chosen, why = choose_device(device, resources.devices, resources.backends)
    if chosen.is_gpu:
        try:
            return _logged(Placement(chosen, _fit(sizes, request, resources, _vram(chosen, request)), why))
        except BudgetError as error:
            if device != "auto":
                raise BudgetError(f"{chosen}: {error}") from None
            log.warning("Not on %s: %s", chosen, error)
            why = "the GPU has too little room"
    return choose_cpu_placement(sizes, request, resources, why)


def choose_cpu_placement(sizes: ModelSizes, request: PlanRequest, resources: Resources, why: str) -> Placement:
    """Choose the settings for the CPU alone, and log them with the reason."""
    cpu, _ = choose_device("cpu", resources.devices, resources.backends)
    return _logged(Placement(cpu, _fit(sizes, request, resources, None), why))


def next_smaller(sizes: ModelSizes, request: PlanRequest, resources: Resources, here: Placement) -> Placement | None:
    """Return a placement on the same device that needs less of it; None where there is none."""
    smaller = smaller_plan(sizes, replace(request, repacked=resources.repacked), here.plan)
    return None if smaller is None else replace(here, plan=smaller)


def needed_bytes(placement: Placement) -> int:
    """Return the bytes that the plan needs of the GPU's memory, or of the host's where it runs on the CPU."""
    plan = placement.plan
    return plan.vram_bytes if placement.device.is_gpu else plan.required_ram_bytes


def compare_memory(placement: Placement, devices: Sequence[Device]) -> None:
    """Compare the planned with the actual use of the GPU's memory, and log the difference.

    devices  `list_devices()` after the model was loaded; that of the placement is as before it
    """
    before, parts = placement.device, placement.plan.parts
    after = next((device for device in devices if device.name == before.name), before)
    if after.free_bytes == before.free_bytes:  # some backends know the total only
        return
    taken, planned = before.free_bytes - after.free_bytes, placement.plan.vram_bytes
    buffers = sum(part.size_bytes for part in parts if part.memory == "GPU" and part.name not in DRIVER_PARTS)
    less = in_gigabytes(max(taken, 0))
    sentence = f"{before.name} has {less} less free than before; {in_gigabytes(planned)} were planned."
    if taken > planned:
        log.warning("%s Other programs may take memory too.", sentence)
    elif taken < buffers // 2:
        log.warning("%s The layers may not be on it: see `qgguf doctor`.", sentence)
    else:
        log.info("%s", sentence)


def _vram(device: Device, request: PlanRequest) -> int:
    """Return the bytes of a GPU's memory that may be used: no more than others leave of it."""
    if not device.total_bytes:  # it does not report its memory
        return _NO_LIMIT if request.vram is None else request.vram
    if request.vram is None:
        return max(0, device.free_bytes - int(LEFT_FREE * device.total_bytes))
    if request.vram > device.free_bytes:
        log.warning(
            "vram is %s, but other programs leave %s of %s.",
            in_gigabytes(request.vram), in_gigabytes(device.free_bytes), in_gigabytes(device.total_bytes),
        )  # fmt: skip
    return min(request.vram, device.free_bytes)


def _fit(sizes: ModelSizes, request: PlanRequest, resources: Resources, vram: int | None) -> Plan:
    ram = request.ram
    if ram is None and resources.host is not None:
        # A container ends a program that takes more than its limit; a machine begins to swap.
        ram = resources.host.limit_bytes
    return plan(sizes, replace(request, vram=vram, ram=ram, repacked=resources.repacked))


def _logged(placement: Placement) -> Placement:
    chosen = placement.plan
    settings = chosen.settings
    layers = f"{settings.n_gpu_layers} of {chosen.n_layers} layers, " if settings.n_gpu_layers else ""
    log.info(
        "Running on %s: %s. Plan: %s%s tokens, KV cache %s, %s of GPU memory, %s of the host's.",
        placement.device, placement.why, layers, f"{settings.max_tokens:,}", settings.kv_type,
        in_gigabytes(chosen.vram_bytes), in_gigabytes(chosen.ram_bytes),
    )  # fmt: skip
    for cost in chosen.costs:
        log.warning("To fit the memory: %s.", cost)
    return placement
