"""How many threads this process may keep busy: affinity, container quota, physical cores."""

import os
from dataclasses import dataclass
from pathlib import Path

from qgguf.hardware import cgroups

_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Cores:
    """The three limits to the threads that help.

    allowed   CPUs that the process may run on
    physical  distinct cores among them; None where the system does not say
    quota     CPUs that its control groups grant it; None for no limit
    """

    allowed: int
    physical: int | None
    quota: float | None

    @property
    def usable(self) -> int:
        """Threads that help: the smallest limit, a quota rounded down; at least 1.

        Two threads on one physical core share its arithmetic units, and a thread over the quota is stopped by the
        kernel while the others wait for it: both make a matrix product slower.
        """
        limits = [self.allowed]
        if self.physical is not None:
            limits.append(self.physical)
        if self.quota is not None:
            limits.append(int(self.quota))
        return max(1, min(limits))

    @property
    def reason(self) -> str:
        """The limits in words.

        >>> Cores(allowed=8, physical=4, quota=2.5).reason
        '8 CPUs allowed, 4 physical cores, container quota of 2.5'
        """
        physical = "physical cores unknown" if self.physical is None else f"{self.physical} physical cores"
        quota = "no container quota" if self.quota is None else f"container quota of {self.quota:g}"
        return f"{self.allowed} CPUs allowed, {physical}, {quota}"


def usable_cores() -> int:
    """Threads that help on this machine: see `Cores.usable`."""
    return read_cores().usable


def read_cores() -> Cores:
    """What limits this process now."""
    allowed = _affinity()
    return Cores(
        allowed=len(allowed) or os.cpu_count() or 1,
        physical=_physical(allowed),
        quota=cgroup_quota(cgroups.ROOT, cgroups.OWN),
    )


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set()


def _physical(allowed: set[int]) -> int | None:
    """Distinct physical cores among the allowed CPUs; None where the system does not say."""
    siblings = set()
    for cpu in allowed:
        try:
            siblings.add((_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip())
        except OSError:
            return None
    return len(siblings) or None


def cgroup_quota(root: Path, own: Path) -> float | None:
    """CPUs granted by cgroup v2 or v1, the tightest of the group and its parents; None where there is no quota.

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
