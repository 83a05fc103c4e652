"""The number of threads that speed up this process: CPU affinity, container quota, physical cores."""

import os
from dataclasses import dataclass
from pathlib import Path

from qgguf.hardware import cgroups

_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Cores:
    """The three limits on the number of useful threads.

    allowed   CPUs that the process may run on
    physical  distinct cores among them (of the whole machine where only the system's total is known); None if unknown
    quota     CPUs that the process's control groups grant it; None for no limit
    """

    allowed: int
    physical: int | None
    quota: float | None

    @property
    def usable(self) -> int:
        """The number of useful threads: the smallest limit, with a quota rounded down; at least 1.

        Two threads on one physical core share its arithmetic units, and the kernel stops a thread that exceeds the
        quota while the others wait for it: both make a matrix product slower.
        """
        limits = [self.allowed]
        if self.physical is not None:
            limits.append(self.physical)
        if self.quota is not None:
            limits.append(int(self.quota))
        return max(1, min(limits))

    @property
    def reason(self) -> str:
        """The limits as a phrase.

        >>> Cores(allowed=8, physical=4, quota=2.5).reason
        '8 CPUs allowed, 4 physical cores, container quota of 2.5'
        """
        physical = "physical cores unknown" if self.physical is None else f"{self.physical} physical cores"
        quota = "no container quota" if self.quota is None else f"container quota of {self.quota:g}"
        return f"{self.allowed} CPUs allowed, {physical}, {quota}"


def usable_cores() -> int:
    """Return the number of threads that speed up this process: see `Cores.usable`."""
    return read_cores().usable


def read_cores(cpus: Path = _CPUS) -> Cores:
    """Read the limits of this process.

    cpus  Linux's folder of CPUs
    """
    allowed = _affinity()
    return Cores(
        allowed=len(allowed) or os.cpu_count() or 1,
        physical=_physical(allowed, cpus),
        quota=cgroup_quota(cgroups.ROOT, cgroups.OWN),
    )


def _affinity() -> set[int]:
    """Return the CPUs that the process may run on; empty if the system does not report them."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    # Imported here: Linux, where psutil is hardly ever needed, does not pay for it.
    import psutil

    # Windows has an affinity, macOS has none.
    if hasattr(psutil.Process, "cpu_affinity"):
        try:
            return set(psutil.Process().cpu_affinity())
        except (psutil.Error, OSError):
            pass
    return set()


def _physical(allowed: set[int], cpus: Path) -> int | None:
    """Return the number of distinct physical cores among the allowed CPUs, else those of the machine."""
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            return _physical_of_machine()
    return len(siblings) or _physical_of_machine()


def _physical_of_machine() -> int | None:
    import psutil

    try:
        return psutil.cpu_count(logical=False) or None
    except (psutil.Error, OSError, ValueError):
        return None


def cgroup_quota(root: Path, own: Path) -> float | None:
    """Return the CPUs that cgroup v2 or v1 grants: the tightest quota of the group and its parents; None without one.

    root, own  as in `cgroups.own_groups`
    """
    quotas = [_quota_of(group) for group in cgroups.own_groups("cpu", root, own)]
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
