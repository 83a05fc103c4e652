"""How much memory this process may use: what the machine has, and what its control groups leave."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from qgguf import cgroups

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Memory of the machine and of the group that the process is in.

    total_bytes      the machine's; 0 where the system does not say
    available_bytes  what can be used without swapping, machine and group considered; 0 where the system does not say
    limit_bytes      the tightest group's limit; None for no limit
    """

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None


def read_host_memory(meminfo: Path = _MEMINFO, root: Path = cgroups.ROOT, own: Path = cgroups.OWN) -> HostMemory:
    """What there is now.

    meminfo    Linux's /proc/meminfo
    root, own  as in `cgroups.own_groups`
    """
    total, available = _linux(meminfo) or _elsewhere()
    limit = None
    for group in cgroups.own_groups("memory", root, own):
        granted = _number(group / "memory.max") or _number(group / "memory.limit_in_bytes")
        # "No limit" of version 1 is a number near 2^63.
        if granted is None or (total and granted >= total):
            continue
        left = max(0, granted - _held(group))
        limit = min(limit or granted, granted)
        available = min(available or left, left)
    return HostMemory(total, available, limit)


def _linux(meminfo: Path) -> tuple[int, int] | None:
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        total, available = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return None
    return total, available


def _elsewhere() -> tuple[int, int]:
    """macOS and the BSDs say the total only; it stands for what is available, as in llama.cpp."""
    if sys.platform == "win32":
        return _windows()
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    except (OSError, ValueError):
        total = 0
    return max(0, total), max(0, total)


def _windows() -> tuple[int, int]:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_uint32), ("load", ctypes.c_uint32)] + [
            (name, ctypes.c_uint64)
            for name in ("total", "available", "total_page", "available_page", "total_v", "available_v", "extended")
        ]

    status = Status(length=ctypes.sizeof(Status))
    kernel = getattr(ctypes, "windll").kernel32  # noqa: B009  (no such attribute for a type checker elsewhere)
    return (status.total, status.available) if kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else (0, 0)


def _held(group: Path) -> int:
    """Bytes of a group that the kernel cannot take back: all that it uses but its old file pages."""
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    try:
        said = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return used - int(said.get("total_inactive_file", said.get("inactive_file", 0)))
    except (OSError, ValueError):
        return used


def _number(path: Path) -> int | None:
    """The number in a file; None where there is no file, or the word max."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
