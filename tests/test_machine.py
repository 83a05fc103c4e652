"""The facts about this machine that are read: processor and GPUs; and the builds of llama.cpp that fit them."""

import os
import re
import sys
from pathlib import Path

import pytest

from qgguf.hardware import gpu
from qgguf.hardware.cpu import compiled_features, missing_instructions, read_processor, unused_instructions
from qgguf.hardware.gpu import Graphics, read_graphics
from qgguf.hardware.machine import this_machine
from qgguf.hardware.ram import host_memory, machine_memory
from qgguf.native import binding
from qgguf.native.builds import BINDING_VERSION, BUILDS, TESTED_VERSIONS, compile_line, wheel_line

REPOSITORY = Path(__file__).resolve().parent.parent

# Processor


def test_this_processor_has_what_the_build_uses():
    """Otherwise no test would run; so the names of both sides are understood."""
    compiled = compiled_features(binding.llama().llama_print_system_info().decode())
    processor = read_processor()
    assert processor.name and missing_instructions(compiled, processor.flags) == ()
    if processor.flags:
        assert not set(unused_instructions(compiled, processor.flags)) & set(compiled)


def test_cpuinfo_is_read_for_the_first_core(tmp_path: Path):
    """x86 lists flags, ARM lists Features; without the file there are none."""
    (tmp_path / "x86").write_text(
        "processor\t: 0\nmodel name\t: Xeon é\nflags\t\t: pni avx2\n\nprocessor\t: 1\nflags\t\t: none\n"
    )
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd i8mm\n")
    x86, arm = read_processor(tmp_path / "x86"), read_processor(tmp_path / "arm")
    assert (x86.name, x86.flags) == ("Xeon é", {"pni", "avx2"})
    assert missing_instructions(("SSE3", "AVX2", "AVX512", "OPENMP"), x86.flags) == ("AVX512",)
    assert unused_instructions(("NEON",), arm.flags) == ("MATMUL_INT8",)
    assert read_processor(tmp_path / "none").flags == frozenset()
    assert missing_instructions(("AVX512",), frozenset()) == (), "unknown flags are not missing flags"


def test_this_machine_is_described_without_its_container():
    """Its name and memory are those of the other readers, whatever the container allows."""
    machine, memory = this_machine(), host_memory()
    assert machine.cpu == read_processor().name and machine.cores >= 1 and machine.system
    if memory is not None:
        assert machine.memory_bytes == machine_memory().limit_bytes >= memory.limit_bytes


# Graphics

SMI = """#!/bin/sh
case "$1" in
  --query*) printf '550.54.15, NVIDIA GeForce RTX 3060\\n550.54.15, Quadro P400\\n' ;;
  *) echo '| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |' ;;
esac
"""


def with_programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **programs: str) -> Graphics:
    for name, text in programs.items():
        path = folder / name.replace("_", "-")
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/bin{os.pathsep}/usr/bin")
    return read_graphics()


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
def test_driver_reports_cards_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The cards, the driver, the CUDA that it runs, and the compiler's version are read."""
    nvcc = "#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.93'\n"
    graphics = with_programs(tmp_path, monkeypatch, nvidia_smi=SMI, nvcc=nvcc)
    assert graphics.nvidia_cards == ("NVIDIA GeForce RTX 3060", "Quadro P400")
    assert (graphics.nvidia_driver, graphics.driver_cuda, graphics.nvcc) == ("550.54.15", (12, 4), (12, 8))


@pytest.mark.skipif(os.name == "nt", reason="the programs are shell scripts")
@pytest.mark.parametrize(
    "program",
    [
        "#!/bin/sh\nexit 9\n",
        "#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'\n",
        "#!/bin/sh\nprintf '\\377\\376'\n",
        "no program at all",
        "#!/bin/sh\nexec sleep 60\n",
    ],
)
def test_faulty_driver_counts_as_none(program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A failure, nonsense on stdout or a program that hangs does no harm."""
    monkeypatch.setattr(gpu, "TIMEOUT_SECONDS", 0.5)
    graphics = with_programs(tmp_path, monkeypatch, nvidia_smi=program)
    assert (graphics.nvidia_cards, graphics.nvidia_driver, graphics.driver_cuda) == ((), "", None)


# Builds


def test_supported_releases_are_the_same_everywhere():
    """pyproject.toml requires the range of the tested releases; docs/install.md and the commands name the newest."""
    oldest, newest = TESTED_VERSIONS[0], TESTED_VERSIONS[-1]
    assert f'"llama-cpp-python>={oldest},<={newest}"' in (REPOSITORY / "pyproject.toml").read_text("utf-8")
    numbers = [tuple(map(int, version.split("."))) for version in TESTED_VERSIONS]
    assert numbers == [(*numbers[0][:2], numbers[0][2] + index) for index in range(len(numbers))], "no gaps"
    named = set(re.findall(r"llama-cpp-python==([\d.]+\d)", (REPOSITORY / "docs" / "install.md").read_text("utf-8")))
    assert named == {BINDING_VERSION}


@pytest.mark.parametrize("system", ["linux", "win32", "darwin"])
@pytest.mark.parametrize("backend", BUILDS)
def test_every_build_has_a_command(backend: str, system: str):
    """Each can be compiled, without pip's cache of an earlier build; a wheel's command installs only the wheel."""
    line = compile_line(backend, system)
    assert f"llama-cpp-python=={BINDING_VERSION}" in line and "--no-cache-dir" in line and BUILDS[backend].flag in line
    wheel = wheel_line(backend, system, (12, 4))
    assert wheel is None or "--only-binary" in wheel
    assert (wheel is None) == ((backend, system) in {("CUDA", "darwin"), ("Vulkan", "darwin"), ("ROCm", "darwin"),
                                                     ("Metal", "linux"), ("Metal", "win32")})  # fmt: skip


@pytest.mark.parametrize(
    ("driver", "folder"),
    [
        ((11, 8), "cu118"),
        ((12, 0), "cu118"),
        ((12, 4), "cu124"),
        ((12, 9), "cu125"),
        ((13, 1), "cu130"),
        ((14, 0), "cu132"),
    ],
)
def test_wheel_is_the_newest_that_the_driver_runs(driver: tuple[int, int], folder: str):
    """A wheel for a newer CUDA than the driver's would not find the GPU."""
    line = wheel_line("CUDA", "linux", driver)
    assert line is not None and line.endswith(f"/{folder}")


def test_no_cuda_wheel_without_a_driver():
    """Nor for a driver that is older than every wheel."""
    assert wheel_line("CUDA", sys.platform, None) is wheel_line("CUDA", "linux", (10, 2)) is None
