"""How much memory this process may use, read from made-up system files and from psutil's figures."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from qgguf.hardware.ram import HostMemory, cgroup_memory, host_memory, machine_memory

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"


def system(tmp_path: Path, own: str = "0::/pod\n", meminfo: str = MEMINFO, **groups: str) -> dict[str, Path]:
    """Files as the kernel shows them; "pod__memory_max" is the file memory.max of the group pod."""
    (tmp_path / "own").write_text(own)
    (tmp_path / "meminfo").write_text(meminfo)
    for name, text in groups.items():
        *folders, file = name.split("__")
        group = tmp_path.joinpath("cgroup", *folders)
        group.mkdir(parents=True, exist_ok=True)
        (group / file.replace("_", ".", 1)).write_text(text)
    return {"root": tmp_path / "cgroup", "own": tmp_path / "own", "meminfo": tmp_path / "meminfo"}


def test_this_machine_has_memory():
    """On the systems that we support the figures are known, and what is free is within what there is."""
    memory = host_memory()
    assert memory is not None and 0 < memory.free_bytes <= memory.limit_bytes


def test_without_a_container_limit_the_machine_counts(tmp_path: Path):
    """The word max is no limit; memory that the kernel can reclaim counts as free."""
    files = system(tmp_path, pod__memory_max="max\n")
    assert host_memory(**files) == HostMemory(16_384_000_000, 9_216_000_000, False)


def test_a_version_2_limit_counts(tmp_path: Path):
    """Free is the limit less the use; file pages that were not used lately are not in use."""
    files = system(
        tmp_path,
        pod__memory_max="4000000000\n",
        pod__memory_current="1500000000\n",
        pod__memory_stat="anon 900000000\ninactive_file 500000000\nactive_file 1\n",
    )
    assert host_memory(**files) == HostMemory(4_000_000_000, 3_000_000_000, True)


def test_the_parent_with_the_least_left_counts(tmp_path: Path):
    """A wide group inside a narrow one has what the narrow one leaves."""
    files = system(
        tmp_path,
        "0::/pod/box\n",
        pod__memory_max="3000000000",
        pod__memory_current="2000000000",
        pod__box__memory_max="8000000000",
        pod__box__memory_current="100",
    )
    assert host_memory(**files) == HostMemory(3_000_000_000, 1_000_000_000, True)


def test_a_container_that_sees_only_its_own_group_is_read_at_the_mount(tmp_path: Path):
    """The host's path does not exist there; the limit is in the mount itself."""
    files = system(tmp_path, "0::/host/path\n", memory_max="2000000000", memory_current="0")
    assert host_memory(**files) == HostMemory(2_000_000_000, 2_000_000_000, True)


@pytest.mark.parametrize(
    ("limit", "expected"), [("2000000000", (2_000_000_000, 500_000_000)), (str(2**63 - 4096), None)]
)
def test_a_version_1_limit_is_read(tmp_path: Path, limit: str, expected: tuple[int, int] | None):
    """The file is memory.limit_in_bytes; without a limit the kernel writes a number near 2^63."""
    (tmp_path / "own").write_text("4:memory:/pod\n3:cpu,cpuacct:/pod\n")
    group = tmp_path / "cgroup" / "memory" / "pod"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(limit)
    (group / "memory.usage_in_bytes").write_text("700000000")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200000000\n")
    assert cgroup_memory(tmp_path / "cgroup", tmp_path / "own") == expected


def test_a_limit_above_the_machines_memory_is_ignored(tmp_path: Path):
    """A container does not have more than its machine."""
    files = system(tmp_path, pod__memory_max="64000000000", pod__memory_current="0")
    assert host_memory(**files) == HostMemory(16_384_000_000, 9_216_000_000, False)


def test_a_full_container_has_nothing_free(tmp_path: Path):
    """The free memory is never negative."""
    files = system(tmp_path, pod__memory_max="1000000000", pod__memory_current="1200000000")
    assert host_memory(**files) == HostMemory(1_000_000_000, 0, True)


def test_unreadable_files_are_ignored(tmp_path: Path):
    """The answer is what psutil reports, whatever is in them."""
    files = system(tmp_path, meminfo="MemTotal: many kB\n", pod__memory_max="🤷", pod__memory_stat="x")
    memory = host_memory(**files)
    assert memory is not None and memory.limit_bytes == psutil.virtual_memory().total and not memory.container


def test_a_system_without_cgroups_has_no_limit(tmp_path: Path):
    """macOS and Windows have no such files."""
    assert cgroup_memory(tmp_path, tmp_path / "own") is None


def test_windows_and_macos_report_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without /proc the figures are psutil's, and not all of the memory is free."""
    figures = SimpleNamespace(total=8_000_000_000, available=3_000_000_000, free=100_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: figures)
    files = {name: tmp_path / "absent" for name in ("root", "own", "meminfo")}
    assert host_memory(**files) == HostMemory(8_000_000_000, 3_000_000_000, False)


@pytest.mark.parametrize("error", [OSError, RuntimeError, psutil.Error])
def test_a_system_that_reports_no_memory_is_no_error(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Then the answer is None: no limit is known."""

    def refuse() -> None:
        raise error

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert machine_memory(tmp_path / "absent") is None


@pytest.mark.skipif(not os.path.exists("/proc/meminfo"), reason="the two sources are Linux's")
def test_both_sources_agree(tmp_path: Path):
    """psutil reports the same total as /proc/meminfo, and about the same memory free."""
    ours, theirs = machine_memory(), machine_memory(tmp_path / "absent")
    assert ours is not None and theirs is not None
    assert ours.limit_bytes == theirs.limit_bytes
    assert abs(ours.free_bytes - theirs.free_bytes) < 0.2 * ours.limit_bytes
