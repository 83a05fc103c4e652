"""The GPUs of this machine, their drivers and compilers, found without llama.cpp."""

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
"""First characters of the PCI classes of display controllers."""

TIMEOUT_SECONDS = 10
"""A faulty driver can make nvidia-smi hang."""


@dataclass(frozen=True, slots=True)
class Graphics:
    """Cards, drivers and compilers of this machine.

    vendors        makers of the display controllers on the PCI bus: "NVIDIA", "AMD", "Intel"
    nvidia_cards   names, as NVIDIA's driver reports them; empty without the driver
    nvidia_driver  its version; "" without the driver
    driver_cuda    the newest CUDA that the driver runs; None without the driver
    nvcc           version of the CUDA compiler; None if it is not on PATH
    vulkan         the Vulkan loader is installed
    glslc          the compiler of Vulkan's shaders is on PATH
    rocm           AMD's ROCm is installed
    metal          the machine is a Mac with a GPU that llama.cpp uses
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
    """Look for cards, drivers and compilers. A program that is missing or fails is no error."""
    cards, driver, cuda = _nvidia()
    return Graphics(
        vendors=_vendors(),
        nvidia_cards=cards,
        nvidia_driver=driver,
        driver_cuda=cuda,
        nvcc=_version(r"release (\d+)\.(\d+)", _output_of("nvcc", "--version")),
        vulkan=ctypes.util.find_library("vulkan" if os.name != "nt" else "vulkan-1") is not None,
        glslc=shutil.which("glslc") is not None,
        rocm=shutil.which("hipcc") is not None or Path("/opt/rocm").is_dir(),
        metal=sys.platform == "darwin" and platform.machine() == "arm64",
    )


def backends_for(graphics: Graphics) -> tuple[str, ...]:
    """Return llama.cpp's backends that could use these cards, the fastest first.

    >>> backends_for(Graphics(vendors=("NVIDIA",), nvidia_driver="550.54"))
    ('CUDA', 'Vulkan')
    >>> backends_for(Graphics(vendors=("Intel",)))
    ('Vulkan',)
    >>> backends_for(Graphics())
    ()
    """
    backends = []
    if graphics.nvidia_driver or "NVIDIA" in graphics.vendors:
        backends.append("CUDA")
    if graphics.rocm and "AMD" in graphics.vendors:
        backends.append("ROCm")
    if graphics.metal:
        backends.append("Metal")
    if graphics.vendors or graphics.nvidia_driver:
        backends.append("Vulkan")
    return tuple(backends)


def _nvidia() -> tuple[tuple[str, ...], str, tuple[int, int] | None]:
    lines = _output_of("nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader").splitlines()
    cards = [row for row in (line.split(",") for line in lines) if len(row) == 2 and re.match(r"\d+\.\d+", row[0])]
    if not cards:
        return (), "", None
    cuda = _version(r"CUDA Version:\s*(\d+)\.(\d+)", _output_of("nvidia-smi"))
    return tuple(name.strip() for _, name in cards), cards[0][0].strip(), cuda


def _vendors() -> tuple[str, ...]:
    names = []
    try:
        for device in sorted(_PCI.iterdir()):
            if (device / "class").read_text().startswith(_DISPLAY):
                names.append(_VENDORS.get((device / "vendor").read_text().strip(), ""))
    except OSError:
        pass
    return tuple(dict.fromkeys(name for name in names if name))


def _output_of(*command: str) -> str:
    """Run a program and return what it prints; "" if it is missing, fails or does not end."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _version(pattern: str, text: str) -> tuple[int, int] | None:
    match = re.search(pattern, text)
    return (int(match[1]), int(match[2])) if match else None
