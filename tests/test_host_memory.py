"""How much memory this process may use, read from made-up system files."""

from pathlib import Path

import pytest

from qgguf.hardware.ram import HostMemory, cgroup_memory, host_memory

MACHINE = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:    9000000 kB\n"


def system(tmp_path: Path, own: str = "0::/pod\n", meminfo: str = MACHINE, **groups: str) -> dict[str, Path]:
    """Files as the kernel shows them; "pod__memory_max" is the file memory.max of the group pod."""
    (tmp_path / "own").write_text(own)
    (tmp_path / "meminfo").write_text(meminfo)
    for name, text in groups.items():
        *folders, file = name.split("__")
        group = tmp_path.joinpath("cgroup", *folders)
        group.mkdir(parents=True, exist_ok=True)
        (group / file.replace("_", ".", 1)).write_text(text)
    return {"root": tmp_path / "cgroup", "own": tmp_path / "own", "meminfo": tmp_path / "meminfo"}


def test_this_machine_has_some():
    """What is free is within what there is."""
    memory = host_memory()
    assert memory is None or 0 < memory.free_bytes <= memory.limit_bytes


def test_without_a_limit_the_machine_counts(tmp_path: Path):
    """The word max is no limit; what can be freed counts as free."""
    files = system(tmp_path, pod__memory_max="max\n")
    assert host_memory(**files) == HostMemory(16_384_000_000, 9_216_000_000, False)


def test_a_version_2_limit_counts(tmp_path: Path):
    """Limit less use; pages of files that nobody used lately are not in use."""
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
    """The host's path is not there; the limit is in the mount itself."""
    files = system(tmp_path, "0::/host/path\n", memory_max="2000000000", memory_current="0")
    assert host_memory(**files) == HostMemory(2_000_000_000, 2_000_000_000, True)


@pytest.mark.parametrize(
    ("limit", "expected"), [("2000000000", (2_000_000_000, 500_000_000)), (str(2**63 - 4096), None)]
)
def test_a_version_1_limit_is_read(tmp_path: Path, limit: str, expected: tuple[int, int] | None):
    """memory.limit_in_bytes; without a limit the kernel writes a number near 2^63."""
    (tmp_path / "own").write_text("4:memory:/pod\n3:cpu,cpuacct:/pod\n")
    group = tmp_path / "cgroup" / "memory" / "pod"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text(limit)
    (group / "memory.usage_in_bytes").write_text("700000000")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200000000\n")
    assert cgroup_memory(tmp_path / "cgroup", tmp_path / "own") == expected


def test_more_than_the_machine_has_is_no_limit(tmp_path: Path):
    """A generous container does not make memory."""
    files = system(tmp_path, pod__memory_max="64000000000", pod__memory_current="0")
    assert host_memory(**files) == HostMemory(16_384_000_000, 9_216_000_000, False)


def test_a_full_container_has_none_left(tmp_path: Path):
    """Never less than nothing."""
    files = system(tmp_path, pod__memory_max="1000000000", pod__memory_current="1200000000")
    assert host_memory(**files) == HostMemory(1_000_000_000, 0, True)


def test_broken_files_are_as_good_as_none(tmp_path: Path):
    """Whatever is written there, the answer is a number or None."""
    files = system(tmp_path, meminfo="MemTotal: many kB\n", pod__memory_max="🤷", pod__memory_stat="x")
    memory = host_memory(**files)
    assert memory is None or memory.limit_bytes > 0


def test_a_system_without_cgroups_has_no_limit(tmp_path: Path):
    """macOS and Windows have no such files."""
    assert cgroup_memory(tmp_path, tmp_path / "own") is None
