"""A description of this machine, for measurements to be published with."""

import os
import platform
from dataclasses import dataclass

from qgguf.hardware.cpu import read_processor
from qgguf.hardware.ram import machine_memory


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine.

    cpu           the processor's name
    cores         number of logical CPUs
    memory_bytes  None if unknown
    system        the operating system's name and release
    """

    cpu: str
    cores: int
    memory_bytes: int | None
    system: str


def this_machine() -> Machine:
    """Return the machine that this process runs on, whatever its container allows."""
    memory = machine_memory()
    return Machine(
        cpu=read_processor().name,
        cores=os.cpu_count() or 1,
        memory_bytes=None if memory is None else memory.limit_bytes,
        system=f"{platform.system()} {platform.release()}",
    )
