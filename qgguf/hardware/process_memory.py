"""How much memory this process has taken."""

from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int | None:
    """Bytes in memory now, mapped files among them; None where the system does not say (it is not Linux)."""
    return _read("VmRSS")


def own_resident_bytes() -> int | None:
    """Bytes in memory now without mapped files; None where the system does not say."""
    return _read("RssAnon")


def peak_resident_bytes() -> int | None:
    """Peak resident memory of this process, in bytes (VmHWM); None where the system does not say."""
    return _read("VmHWM")


def _read(name: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
