"""How many threads this process may keep busy: affinity, container quota, physical cores."""

import logging
import os
from pathlib import Path

log = logging.getLogger("qgguf")

_CPUS = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """Threads that help: the smallest of affinity, cgroup quota rounded down and physical cores; at least 1.

    Two threads on one physical core share its arithmetic units, and a thread over the quota is stopped by the kernel
    while the others wait for it: both make a matrix product slower.
    """
    allowed = _affinity()
    limits = [len(allowed) or os.cpu_count() or 1]
    physical = _physical(allowed)
    if physical:
        limits.append(physical)
    quota = cgroup_quota(_CGROUPS, _OWN_CGROUP)
    if quota is not None:
        limits.append(int(quota))
    return max(1, min(limits))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set()


def _physical(allowed: set[int]) -> int:
    """Distinct physical cores among the allowed ones; 0 where the system does not say."""
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            return 0
    return len(siblings)


def cgroup_quota(root: Path, own: Path) -> float | None:
    """CPUs granted by cgroup v2 or v1, the tightest of the group and its parents; None where there is no quota.

    root  where cgroups are mounted
    own   the process's /proc/self/cgroup
    """
    quotas = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = ([*line.split(":", 2), "", ""])[:3]
        if controllers == "":
            base = root
        elif "cpu" in controllers.split(","):
            base = next((folder for folder in (root / controllers, root / "cpu") if folder.is_dir()), root / "cpu")
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        # In a container the path may be the host's while the mount shows only our own group: the root is read too.
        for depth in range(len(parts), -1, -1):
            quotas.append(_quota_of(base.joinpath(*parts[:depth])))
    known = [quota for quota in quotas if quota is not None]
    return min(known) if known else None


def _quota_of(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
