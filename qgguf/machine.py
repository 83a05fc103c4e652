"""What machine this is, for figures to be read with."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Machine:
    """cpu           its name
    cores         processors that the system counts
    memory_bytes  None where the system does not say
    system        its name and release
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    system: str


def this_machine() -> Machine:
    """The machine that this process runs on."""
    memory = _value(_MEMINFO, "MemTotal")
    return Machine(
        cpu=_value(_CPUINFO, "model name") or platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_bytes=int(memory.split()[0]) * 1024 if memory else None,
        system=f"{platform.system()} {platform.release()}",
    )


def _value(path: Path, name: str) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
