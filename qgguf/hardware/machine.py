"""What machine this is, for figures to be read with."""

import os
import platform
from dataclasses import dataclass

from qgguf.hardware.cpu import read_processor
from qgguf.hardware.ram import machine_memory


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
    """The machine that this process runs on, whatever its container allows."""
    memory = machine_memory()
    return Machine(
        cpu=read_processor().name,
        cores=os.cpu_count() or 1,
        memory_bytes=None if memory is None else memory.limit_bytes,
        system=f"{platform.system()} {platform.release()}",
    )
