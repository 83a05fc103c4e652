"""How much of the host's memory this process may use: what the system has, what is free, what the container allows."""

import os
from dataclasses import dataclass
from pathlib import Path

from qgguf.hardware import cgroups

_MEMINFO = Path("/proc/meminfo")
# cgroup v1 writes a number near 2^63 where nothing limits.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class HostMemory:
    """RAM available to this process.

    limit_bytes  the most it may ever have: the machine's, or its container's where that is less
    free_bytes   what it can take now without others being pushed out; pages of files count as free
    container    the limit is the container's
    """

    limit_bytes: int
    free_bytes: int
    container: bool


def host_memory(root: Path = cgroups.ROOT, own: Path = cgroups.OWN, meminfo: Path = _MEMINFO) -> HostMemory | None:
    """What this process may use; None where the system does not say (Windows).

    root, own  as in `cgroups.own_groups`
    meminfo    /proc/meminfo
    """
    machine = machine_memory(meminfo)
    group = cgroup_memory(root, own)
    if machine is None or group is None:
        return machine
    limit, used = group
    if limit >= machine.limit_bytes:
        return machine
    return HostMemory(limit, max(0, min(machine.free_bytes, limit - used)), True)


def machine_memory(meminfo: Path = _MEMINFO) -> HostMemory | None:
    """What the machine has, whatever the process's container allows; None where the system does not say."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return _by_sysconf()
    kilobytes = {name: words.split()[0] for name, _, words in (line.partition(":") for line in lines) if words.split()}
    try:
        total = 1024 * int(kilobytes["MemTotal"])
        free = 1024 * int(kilobytes.get("MemAvailable", kilobytes.get("MemFree", "0")))
    except (KeyError, ValueError):
        return _by_sysconf()
    return HostMemory(total, free, False)


def cgroup_memory(root: Path, own: Path) -> tuple[int, int] | None:
    """(limit, used) in bytes of the group or parent with the least left, cgroup v2 or v1; None where none is limited.

    root, own  as in `cgroups.own_groups`

    Pages of files that nobody has used lately are not counted as used: the kernel drops them first.
    """
    found = [pair for group in cgroups.own_groups("memory", root, own) if (pair := _limit_of(group)) is not None]
    return min(found, key=lambda pair: pair[0] - pair[1], default=None)


def _limit_of(group: Path) -> tuple[int, int] | None:
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        limit = _number(group / limit_name)
        if limit is not None and limit < _NO_LIMIT:
            used = (_number(group / used_name) or 0) - _inactive_file_bytes(group / "memory.stat")
            return limit, max(0, used)
    return None


def _inactive_file_bytes(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    values = dict(line.split(" ", 1) for line in lines if " " in line)
    # v1 counts a group without its children under the shorter name.
    value = values.get("total_inactive_file", values.get("inactive_file", "0"))
    return int(value) if value.isdecimal() else 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _by_sysconf() -> HostMemory | None:
    """macOS says how much there is, and not simply how much is free: all of it is taken for free."""
    if not hasattr(os, "sysconf"):
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return None
    return HostMemory(total, total, False) if total > 0 else None
