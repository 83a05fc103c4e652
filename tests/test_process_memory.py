"""The memory of this process, on three systems."""

import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from qgguf.hardware.process_memory import own_resident_bytes, peak_resident_bytes, resident_bytes

STATUS = "Name:\tpython\nVmHWM:\t  300000 kB\nVmRSS:\t  200000 kB\nRssAnon:\t  100000 kB\n"


def as_windows(monkeypatch: pytest.MonkeyPatch, **figures: int) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    # A module that is None cannot be imported.
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(psutil.Process, "memory_info", lambda _process: SimpleNamespace(**figures))


def test_the_peak_includes_the_present():
    """The figures of this very process: the peak is at least what it holds now."""
    block = b"\1" * 32_000_000
    now, peak = resident_bytes(), peak_resident_bytes()
    assert now is not None and peak is not None
    assert len(block) < now <= peak + 1_000_000, "VmRSS is counted in batches per thread"


def test_linux_reports_kilobytes(tmp_path: Path):
    """The three figures are those of /proc/self/status, in bytes."""
    (tmp_path / "status").write_text(STATUS)
    figures = [read(tmp_path / "status") for read in (peak_resident_bytes, resident_bytes, own_resident_bytes)]
    assert figures == [307_200_000, 204_800_000, 102_400_000]


def test_windows_reports_the_peak_working_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows has no /proc and no resource module."""
    as_windows(monkeypatch, rss=200, peak_wset=300)
    absent = tmp_path / "absent"
    assert (peak_resident_bytes(absent), resident_bytes(absent), own_resident_bytes(absent)) == (300, 200, None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
@pytest.mark.parametrize(("platform", "expected"), [("darwin", 5000), ("freebsd14", 5_120_000)])
def test_getrusage_counts_in_the_systems_unit(
    platform: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """macOS reports ru_maxrss in bytes, the others in kilobytes."""
    import resource

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _who: SimpleNamespace(ru_maxrss=5000))
    assert peak_resident_bytes(tmp_path / "absent") == expected


@pytest.mark.parametrize("text", ["VmHWM:\nVmRSS:\n", "VmHWM: many kB\nVmRSS: kB\n", ""])
def test_a_file_that_cannot_be_read_is_ignored(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system's other figures are used."""
    as_windows(monkeypatch, rss=200, peak_wset=300)
    (tmp_path / "status").write_text(text)
    assert (peak_resident_bytes(tmp_path / "status"), resident_bytes(tmp_path / "status")) == (300, 200)


def test_a_system_that_reports_nothing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Then the figures are None."""

    def refuse(_process: psutil.Process) -> None:
        raise psutil.AccessDenied

    as_windows(monkeypatch)
    assert peak_resident_bytes(tmp_path / "absent") is None
    monkeypatch.setattr(psutil.Process, "memory_info", refuse)
    assert peak_resident_bytes(tmp_path / "absent") is resident_bytes(tmp_path / "absent") is None
