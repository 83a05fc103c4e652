"""The builds of llama-cpp-python, one per backend of llama.cpp, and the command that installs each."""

from dataclasses import dataclass

TESTED_VERSIONS = ("0.3.34", "0.3.35", "0.3.36")
"""Releases of llama-cpp-python that pass the test suite, oldest first; pyproject.toml requires this range."""

BINDING_VERSION = TESTED_VERSIONS[-1]
"""The release that the commands below install."""

WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"
"""llama-cpp-python's own index of ready-made wheels, from its README."""

# CUDA versions that the index has wheels for. Those for CUDA 13 need compute capability 7.5 (RTX 20) or newer.
_CUDA_WHEELS = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))

_PIP = "pip install --force-reinstall --no-deps"


@dataclass(frozen=True, slots=True)
class Build:
    """A build of llama-cpp-python.

    backend   llama.cpp's name for the backend
    flag      option of CMake that compiles it; "" for none
    needs     what must be installed to compile it
    wheels    folder of the index with ready-made wheels, by sys.platform; CUDA's folders are named by version
    """

    backend: str
    flag: str
    needs: str
    wheels: dict[str, str]


BUILDS = {
    build.backend: build
    for build in (
        Build("CPU", "", "a C++ compiler", {"linux": "cpu", "win32": "cpu", "darwin": "cpu"}),
        Build("CUDA", "-DGGML_CUDA=on", "NVIDIA's CUDA toolkit (nvcc)", {}),
        Build("Vulkan", "-DGGML_VULKAN=on", "the Vulkan SDK (glslc)", {"linux": "vulkan", "win32": "vulkan"}),
        Build("ROCm", "-DGGML_HIP=on", "AMD's ROCm (hipcc)", {"linux": "rocm72", "win32": "hip-radeon"}),
        Build("Metal", "-DGGML_METAL=on", "Xcode's command line tools", {"darwin": "metal"}),
    )
}


def compile_line(backend: str, system: str = "linux") -> str:
    """Return the command that compiles llama-cpp-python on this machine.

    backend  a key of BUILDS
    system   sys.platform

    >>> compile_line("Vulkan")[:68]
    'CMAKE_ARGS="-DGGML_VULKAN=on" pip install --force-reinstall --no-dep'
    """
    # --no-cache-dir: pip would reuse a wheel that it compiled from the same sources for another backend.
    pip = f"{_PIP} --no-cache-dir --no-binary llama-cpp-python llama-cpp-python=={BINDING_VERSION}"
    flag = BUILDS[backend].flag
    if not flag:
        return pip
    return f'$env:CMAKE_ARGS = "{flag}"; {pip}' if system == "win32" else f'CMAKE_ARGS="{flag}" {pip}'


def wheel_line(backend: str, system: str = "linux", cuda: tuple[int, int] | None = None) -> str | None:
    """Return the command that installs a ready-made wheel; None where the index has none.

    backend  a key of BUILDS
    system   sys.platform
    cuda     the newest CUDA version that the NVIDIA driver supports

    >>> wheel_line("CUDA", cuda=(12, 8))[-52:]
    'https://abetlen.github.io/llama-cpp-python/whl/cu125'
    >>> wheel_line("CUDA", cuda=(11, 4)) is None
    True
    """
    if backend == "CUDA":
        known = [version for version in _CUDA_WHEELS if cuda is not None and version <= cuda and system != "darwin"]
        folder = "cu{}{}".format(*max(known)) if known else None
    else:
        folder = BUILDS[backend].wheels.get(system)
    if folder is None:
        return None
    # --only-binary: fail if the index lacks this release; pip would otherwise silently compile a CPU build.
    return (
        f"{_PIP} --only-binary llama-cpp-python llama-cpp-python=={BINDING_VERSION} --extra-index-url {WHEELS}/{folder}"
    )
