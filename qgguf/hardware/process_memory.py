"""The memory that this process uses."""

import importlib
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes(status: Path = _STATUS) -> int | None:
    """Return the process's bytes in RAM now, mapped files included; None if the system does not report them.

    status  Linux's file of the process's state
    """
    resident = _read(status, "VmRSS")
    if resident is not None:
        return resident
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except (psutil.Error, OSError):
        return None


def own_resident_bytes(status: Path = _STATUS) -> int | None:
    """Return the process's bytes in RAM now without mapped files (Linux's RssAnon); None on other systems."""
    return _read(status, "RssAnon")


def peak_resident_bytes(status: Path = _STATUS) -> int | None:
    """Return the process's peak bytes in RAM, mapped files included; None if the system does not report them.

    Sources: VmHWM on Linux, ru_maxrss on macOS, the peak working set on Windows.
    """
    # Linux's ru_maxrss is not read where VmHWM exists: it counts what the process was before exec, too.
    peak = _read(status, "VmHWM")
    if peak is not None:
        return peak
    try:
        resource = importlib.import_module("resource")  # not on Windows
    except ImportError:
        return _peak_working_set()
    per_unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * per_unit


def _peak_working_set() -> int | None:
    import psutil

    try:
        return int(psutil.Process().memory_info().peak_wset)
    except (psutil.Error, OSError, AttributeError):
        return None


def _read(status: Path, name: str) -> int | None:
    try:
        for line in status.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
