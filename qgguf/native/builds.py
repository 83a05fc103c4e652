"""The builds of llama-cpp-python, one per backend of llama.cpp, and the command that installs each."""

from dataclasses import dataclass

BINDING_VERSION = "0.3.36"
"""The release that the native door is written for; pyproject.toml asks for the same."""

WHEELS = "https://abetlen.github.io/llama-cpp-python/whl"
"""The binding's own index of ready-made wheels, named in its README."""

# CUDA versions that the index has wheels for; those for 13 need a card of compute capability 7.5 (RTX 20) or newer.
_CUDA_WHEELS = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))

_PIP = "pip install --force-reinstall --no-deps"


@dataclass(frozen=True, slots=True)
class Build:
    """A build of the binding.

    backend   llama.cpp's word for it
    flag      what the compiler is told
    needs     what must be there to compile it
    wheels    folder of the index with ready-made wheels, by system ("linux", "win32", "darwin"); CUDA's go by version
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
    """The command that compiles the binding on this machine.

    backend  a key of BUILDS
    system   sys.platform

    >>> compile_line("Vulkan")[:68]
    'CMAKE_ARGS="-DGGML_VULKAN=on" pip install --force-reinstall --no-dep'
    """
    # Without --no-cache-dir pip takes the wheel that it made of the same sources earlier, for another backend.
    pip = f"{_PIP} --no-cache-dir --no-binary llama-cpp-python llama-cpp-python=={BINDING_VERSION}"
    flag = BUILDS[backend].flag
    if not flag:
        return pip
    return f'$env:CMAKE_ARGS = "{flag}"; {pip}' if system == "win32" else f'CMAKE_ARGS="{flag}" {pip}'


def wheel_line(backend: str, system: str = "linux", cuda: tuple[int, int] | None = None) -> str | None:
    """The command that installs a ready-made wheel, or None where the index has none.

    backend  a key of BUILDS
    system   sys.platform
    cuda     the newest CUDA that the NVIDIA driver runs

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
