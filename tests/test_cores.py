"""How many threads this process may use: affinity, quota and physical cores."""

import os
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.hardware.cores import Cores, cgroup_quota, read_cores, usable_cores
from tests.support.processes import run_code


def test_usable_cores_is_within_the_machine():
    """At least one, never more than the system has."""
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins no process to cores")
def test_affinity_is_obeyed():
    """A process pinned to one core uses one thread."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def version_2(tmp_path: Path, own: str, quotas: dict[str, str]) -> float | None:
    """The quota of a process in the group `own` under cgroup v2."""
    (tmp_path / "own").write_text(f"0::{own}\n")
    for folder, text in quotas.items():
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / folder / "cpu.max").write_text(text)
    return cgroup_quota(tmp_path / "cgroup", tmp_path / "own")


def test_a_version_2_quota_is_read(tmp_path: Path):
    """150 % of a core is 1.5."""
    assert version_2(tmp_path, "/pod", {"pod": "150000 100000\n"}) == 1.5


def test_the_tightest_parent_counts(tmp_path: Path):
    """A group inside a tighter one has the tighter quota."""
    assert version_2(tmp_path, "/pod/box", {"pod": "50000 100000\n", "pod/box": "400000 100000\n"}) == 0.5


def test_a_container_that_sees_only_its_own_group_is_read_at_the_mount(tmp_path: Path):
    """The host's path does not exist there; the quota is in the mount itself."""
    assert version_2(tmp_path, "/host/path", {".": "200000 100000\n"}) == 2


def test_no_quota_is_none(tmp_path: Path):
    """The word max is no limit."""
    assert version_2(tmp_path, "/pod", {"pod": "max 100000\n"}) is None


@pytest.mark.parametrize(("quota", "expected"), [("250000", 2.5), ("-1", None)])
def test_a_version_1_quota_is_read(tmp_path: Path, quota: str, expected: float | None):
    """The quota is cpu.cfs_quota_us over cpu.cfs_period_us."""
    (tmp_path / "own").write_text("4:cpu,cpuacct:/pod\n3:memory:/pod\n")
    group = tmp_path / "cgroup" / "cpu,cpuacct" / "pod"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text(quota)
    (group / "cpu.cfs_period_us").write_text("100000")

    assert cgroup_quota(tmp_path / "cgroup", tmp_path / "own") == expected


def test_a_system_without_cgroups_has_no_quota(tmp_path: Path):
    """macOS and Windows have no such file."""
    assert cgroup_quota(tmp_path, tmp_path / "own") is None


@given(st.integers(1, 512), st.none() | st.integers(1, 512), st.none() | st.floats(0.01, 1024))
def test_the_smallest_limit_counts(allowed: int, physical: int | None, quota: float | None):
    """Never over any limit, but at least one thread: half a core is one thread. The reason names all three."""
    cores = Cores(allowed, physical, quota)
    limits = [allowed, physical or allowed, allowed if quota is None else quota]
    assert 1 <= cores.usable <= max(1, min(limits))
    assert cores.usable == max(1, int(min(limits)))
    assert f"{allowed} CPUs allowed" in cores.reason
    assert (f"{physical} physical cores" if physical else "physical cores unknown") in cores.reason
    assert ("no container quota" if quota is None else f"quota of {quota:g}") in cores.reason


def test_this_process_has_the_systems_limits():
    """The limits read are those of the system, and the physical cores are known."""
    cores = read_cores()
    assert cores.usable == usable_cores()
    if hasattr(os, "sched_getaffinity"):
        assert cores.allowed == len(os.sched_getaffinity(0))


# Other systems, by what psutil reports on them


def test_windows_obeys_its_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows has an affinity, but none in Python's os; its physical cores are the machine's."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", lambda _process: [0, 1, 2, 3, 4, 5], raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 4)
    cores = read_cores(tmp_path)
    assert (cores.allowed, cores.physical) == (6, 4)


@pytest.mark.parametrize("error", [psutil.AccessDenied, OSError])
def test_an_affinity_that_cannot_be_read_is_no_limit(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Then every CPU of the system is allowed."""

    def refuse(_process: psutil.Process) -> None:
        raise error

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    monkeypatch.setattr(psutil.Process, "cpu_affinity", refuse, raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 10 if logical else 5)
    assert read_cores(tmp_path).allowed == 10


@pytest.mark.parametrize(("reported", "physical"), [(4, 4), (None, None), (0, None)])
def test_macos_knows_its_physical_cores(
    reported: int | None, physical: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """macOS has no affinity: every CPU is allowed, and two threads of one core count once."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(psutil.Process, "cpu_affinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else reported)
    cores = read_cores(tmp_path)
    assert (cores.allowed, cores.physical) == (8, physical)


@pytest.mark.skipif(not os.path.exists("/sys/devices/system/cpu/cpu0/topology"), reason="Linux's files are needed")
def test_linux_does_not_load_psutil(tmp_path: Path):
    """Its own files report everything; opening a model does not pay for the import."""
    code = (
        "import sys; from qgguf.hardware import cores, machine, process_memory, ram\n"
        "cores.read_cores(); machine.this_machine(); ram.host_memory(); process_memory.peak_resident_bytes()\n"
        "print('psutil' in sys.modules)"
    )
    done = run_code(code, home=tmp_path)
    assert (done.stdout, done.stderr) == ("False\n", "")
