"""The RAM available to this process: the machine's, what is free of it, and what the container allows."""

from dataclasses import dataclass
from pathlib import Path

from qgguf.hardware import cgroups

_MEMINFO = Path("/proc/meminfo")
# cgroup v1 writes a number near 2^63 for no limit.
_NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class HostMemory:
    """RAM available to this process.

    limit_bytes  the most that it may ever have: the machine's RAM, or its container's limit if that is less
    free_bytes   what it can take now without swapping; the system's cache of files counts as free
    container    whether the limit is the container's
    """

    limit_bytes: int
    free_bytes: int
    container: bool


def host_memory(root: Path = cgroups.ROOT, own: Path = cgroups.OWN, meminfo: Path = _MEMINFO) -> HostMemory | None:
    """Return what this process may use; None if the system does not report it.

    root, own  as in `cgroups.own_groups`
    meminfo    Linux's /proc/meminfo
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
    """Return the machine's RAM, whatever the process's container allows; None if the system does not report it.

    Sources: /proc/meminfo on Linux, psutil elsewhere (and where that file has no MemAvailable).
    """
    try:
        lines = meminfo.read_text().splitlines()
        kilobytes = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines) if rest.split()}
        total, free = int(kilobytes["MemTotal"]), int(kilobytes["MemAvailable"])
    except (OSError, KeyError, ValueError):
        return _memory_by_psutil()
    return HostMemory(1024 * total, 1024 * free, False)


def _memory_by_psutil() -> HostMemory | None:
    # Imported here: Linux, where psutil is hardly ever needed, does not pay for it.
    import psutil

    try:
        memory = psutil.virtual_memory()
    except (psutil.Error, OSError, ValueError, KeyError, RuntimeError):
        return None
    return HostMemory(int(memory.total), int(memory.available), False) if memory.total > 0 else None


def cgroup_memory(root: Path, own: Path) -> tuple[int, int] | None:
    """Return (limit, used) in bytes of the group or parent with the least left, cgroup v2 or v1; None without a limit.

    root, own  as in `cgroups.own_groups`

    File pages that have not been used lately do not count as used: the kernel drops them first.
    """
    limits = [pair for group in cgroups.own_groups("memory", root, own) if (pair := _limit_of(group)) is not None]
    return min(limits, key=lambda pair: pair[0] - pair[1], default=None)


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
    # In v1 the shorter name leaves out the group's children.
    value = values.get("total_inactive_file", values.get("inactive_file", "0"))
    return int(value) if value.isdecimal() else 0


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
