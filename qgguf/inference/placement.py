"""Where a model runs here, and with which settings: a plan for this machine's devices and memory."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qgguf.errors import BudgetError
from qgguf.hardware.ram import HostMemory
from qgguf.memory.planner import ModelSizes, Plan, plan, smaller_plan
from qgguf.native.devices import Device, choose_device
from qgguf.units import in_gigabytes

log = logging.getLogger("qgguf")

LEFT_FREE = 0.05
"""Share of a GPU's memory that is left to others where nobody named a budget."""

_NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asks for.

    device      "auto", "cpu", "gpu" or "cuda"
    vram        bytes of the GPU's memory; None: what is free
    ram         bytes of the host's memory; None: what the machine or its container has
    max_tokens  longest text; None: the model's own limit
    kv_type     "f16", "q8_0" or "q4_0"; None: chosen
    threads     CPU threads
    """

    device: str = "auto"
    vram: int | None = None
    ram: int | None = None
    max_tokens: int | None = None
    kv_type: str | None = None
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Resources:
    """What there is.

    devices   `list_devices()`
    backends  `list_backends()`
    host      `host_memory()`
    repacked  types that are to have a second layout on this CPU
    """

    devices: Sequence[Device]
    backends: Sequence[str]
    host: HostMemory | None
    repacked: frozenset[str]


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and what runs on it.

    device  where the layers go; the rest of them, if any, to the CPU
    plan    settings and bytes
    why     the device's choice in words
    """

    device: Device
    plan: Plan
    why: str


def place(sizes: ModelSizes, wanted: Wanted, resources: Resources) -> Placement:
    """The device and settings for a model; told in one log line.

    raises  OptionError, DeviceError: as `choose_device`; BudgetError: nothing fits, both numbers named
    """
    device, why = choose_device(wanted.device, resources.devices, resources.backends)
    if device.is_gpu:
        try:
            return _told(Placement(device, _fit(sizes, wanted, resources, _vram(device, wanted)), why))
        except BudgetError as error:
            if wanted.device != "auto":
                raise BudgetError(f"{device}: {error}") from None
            log.warning("Not on %s: %s", device, error)
            why = "the GPU has too little room"
    return place_on_cpu(sizes, wanted, resources, why)


def place_on_cpu(sizes: ModelSizes, wanted: Wanted, resources: Resources, why: str) -> Placement:
    """The same without a GPU."""
    device, _ = choose_device("cpu", resources.devices, resources.backends)
    return _told(Placement(device, _fit(sizes, wanted, resources, None), why))


def next_smaller(sizes: ModelSizes, wanted: Wanted, resources: Resources, here: Placement) -> Placement | None:
    """A placement on the same device that needs less of it; None where there is none."""
    found = smaller_plan(
        sizes,
        here.plan,
        max_tokens=wanted.max_tokens,
        kv_type=wanted.kv_type,
        threads=wanted.threads,
        repacked=resources.repacked,
    )
    return None if found is None else replace(here, plan=found)


def needed(placement: Placement) -> int:
    """Bytes that the plan takes of what it runs on: the GPU's memory, else the host's."""
    found = placement.plan
    if placement.device.is_gpu:
        return found.vram_bytes
    return found.ram_bytes if found.fits_ram else found.unmapped_ram_bytes


def _vram(device: Device, wanted: Wanted) -> int:
    """Bytes of a GPU's memory that may be taken: no more than others leave of it."""
    if not device.total_bytes:  # it does not say
        return _NO_LIMIT if wanted.vram is None else wanted.vram
    if wanted.vram is None:
        return max(0, device.free_bytes - int(LEFT_FREE * device.total_bytes))
    if wanted.vram > device.free_bytes:
        log.warning(
            "%s asked for, but others leave %s of %s.",
            in_gigabytes(wanted.vram), in_gigabytes(device.free_bytes), in_gigabytes(device.total_bytes),
        )  # fmt: skip
    return min(wanted.vram, device.free_bytes)


def _fit(sizes: ModelSizes, wanted: Wanted, resources: Resources, vram: int | None) -> Plan:
    ram = wanted.ram
    if ram is None and resources.host is not None:
        # A container ends a program that takes more than its limit; a machine begins to swap.
        ram = resources.host.limit_bytes
    return plan(
        sizes,
        vram=vram,
        ram=ram,
        max_tokens=wanted.max_tokens,
        kv_type=wanted.kv_type,
        threads=wanted.threads,
        repacked=resources.repacked,
    )


def _told(placement: Placement) -> Placement:
    found = placement.plan
    settings = found.settings
    layers = f"{settings.n_gpu_layers} of {found.n_layers} layers, " if settings.n_gpu_layers else ""
    log.info(
        "Running on %s: %s. Plan: %s%s tokens, KV cache %s, %s of GPU memory, %s of the host's.",
        placement.device, placement.why, layers, f"{settings.max_tokens:,}", settings.kv_type,
        in_gigabytes(found.vram_bytes), in_gigabytes(found.ram_bytes),
    )  # fmt: skip
    for cost in found.costs:
        log.warning("To fit the memory: %s.", cost)
    return placement
