"""What there is for computing on a GPU, llama.cpp aside: cards, drivers and compilers."""

import ctypes.util
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PCI = Path("/sys/bus/pci/devices")
_VENDORS = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
_DISPLAY = "0x03"
"""PCI classes of display controllers begin so."""

PATIENCE_SECONDS = 10
"""A driver in trouble can make nvidia-smi wait for ever."""


@dataclass(frozen=True, slots=True)
class Graphics:
    """Cards, drivers and compilers of this machine.

    vendors        makers of the display controllers on the PCI bus: "NVIDIA", "AMD", "Intel"
    nvidia_cards   names, as NVIDIA's driver says them; empty without the driver
    nvidia_driver  its version; "" without it
    driver_cuda    the newest CUDA that it runs; None without it
    nvcc           version of the CUDA compiler; None where there is none on PATH
    vulkan         the Vulkan loader is here
    glslc          the compiler of Vulkan's shaders is on PATH
    rocm           AMD's ROCm is here
    metal          this is a Mac with a GPU that llama.cpp uses
    """

    vendors: tuple[str, ...] = ()
    nvidia_cards: tuple[str, ...] = ()
    nvidia_driver: str = ""
    driver_cuda: tuple[int, int] | None = None
    nvcc: tuple[int, int] | None = None
    vulkan: bool = False
    glslc: bool = False
    rocm: bool = False
    metal: bool = False


def read_graphics() -> Graphics:
    """What is on this machine; programs that are not there are no error."""
    cards, driver, cuda = _nvidia()
    return Graphics(
        vendors=_vendors(),
        nvidia_cards=cards,
        nvidia_driver=driver,
        driver_cuda=cuda,
        nvcc=_version(r"release (\d+)\.(\d+)", _said("nvcc", "--version")),
        vulkan=ctypes.util.find_library("vulkan" if os.name != "nt" else "vulkan-1") is not None,
        glslc=shutil.which("glslc") is not None,
        rocm=shutil.which("hipcc") is not None or Path("/opt/rocm").is_dir(),
        metal=sys.platform == "darwin" and platform.machine() == "arm64",
    )


def backends_for(graphics: Graphics) -> tuple[str, ...]:
    """llama.cpp's backends that could use what is here, the fastest first.

    >>> backends_for(Graphics(vendors=("NVIDIA",), nvidia_driver="550.54"))
    ('CUDA', 'Vulkan')
    >>> backends_for(Graphics(vendors=("Intel",)))
    ('Vulkan',)
    >>> backends_for(Graphics())
    ()
    """
    found = []
    if graphics.nvidia_driver or "NVIDIA" in graphics.vendors:
        found.append("CUDA")
    if graphics.rocm and "AMD" in graphics.vendors:
        found.append("ROCm")
    if graphics.metal:
        found.append("Metal")
    if graphics.vendors or graphics.nvidia_driver:
        found.append("Vulkan")
    return tuple(found)


def _nvidia() -> tuple[tuple[str, ...], str, tuple[int, int] | None]:
    rows = [row.split(",") for row in _said("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader")
            .splitlines()]  # fmt: skip
    cards = [row for row in rows if len(row) == 2 and re.match(r"\d+\.\d+", row[0])]
    if not cards:
        return (), "", None
    cuda = _version(r"CUDA Version:\s*(\d+)\.(\d+)", _said("nvidia-smi"))
    return tuple(name.strip() for _, name in cards), cards[0][0].strip(), cuda


def _vendors() -> tuple[str, ...]:
    found = []
    try:
        for device in sorted(_PCI.iterdir()):
            if (device / "class").read_text().startswith(_DISPLAY):
                found.append(_VENDORS.get((device / "vendor").read_text().strip(), ""))
    except OSError:
        pass
    return tuple(dict.fromkeys(name for name in found if name))


def _said(*command: str) -> str:
    """What a program prints; "" where it is missing, fails or does not end."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, errors="replace", timeout=PATIENCE_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version(pattern: str, text: str) -> tuple[int, int] | None:
    found = re.search(pattern, text)
    return (int(found[1]), int(found[2])) if found else None
