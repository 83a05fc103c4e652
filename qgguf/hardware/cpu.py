"""What the processor can do, and whether that is what llama.cpp was compiled for."""

import platform
from dataclasses import dataclass
from pathlib import Path

from qgguf.memory.planner import worth_repacking

_CPUINFO = Path("/proc/cpuinfo")

# llama.cpp's words (llama_print_system_info) -> Linux's (/proc/cpuinfo). Instructions only: OPENMP, REPACK and the like
# are ways of llama.cpp's own.
_INSTRUCTIONS = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX_VNNI": "avx_vnni",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "NEON": "asimd",
    "FP16_VA": "asimdhp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "DOTPROD": "asimddp",
    "SME": "sme",
    "SME2": "sme2",
}


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor, in Linux's words.

    name   for people
    flags  instruction sets; empty where the system does not say
    """

    name: str
    flags: frozenset[str]


def read_processor(cpuinfo: Path = _CPUINFO) -> Processor:
    """The processor of this machine; its first core speaks for all."""
    said: dict[str, str] = {}
    try:
        # A server's file repeats this for hundreds of cores.
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, colon, value = line.partition(":")
                if not colon and said:
                    break
                said.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = said.get("model name") or platform.processor() or platform.machine() or "unknown"
    return Processor(name, frozenset((said.get("flags") or said.get("Features") or "").split()))


def types_to_repack() -> frozenset[str]:
    """Types of weights that are to have a second layout on this machine: see `qgguf.memory.worth_repacking`."""
    return worth_repacking(platform.machine(), read_processor().flags)


def compiled_in(system_info: str) -> tuple[str, ...]:
    """Return the features that llama.cpp's system info reports as on.

    >>> compiled_in("CPU : AVX = 1 | AVX2 = 0 | REPACK = 1 | ")
    ('AVX', 'REPACK')
    """
    words = []
    for part in system_info.replace(" : ", " | ").split("|"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals and value not in ("", "0"):
            words.append(name)
    return tuple(words)


def lacking(compiled: tuple[str, ...], flags: frozenset[str]) -> tuple[str, ...]:
    """Instructions that the build uses and the processor does not have: they would end the process (SIGILL).

    >>> lacking(("AVX2", "AVX512", "REPACK"), frozenset(["avx2"]))
    ('AVX512',)
    """
    if not flags:
        return ()
    return tuple(word for word in compiled if word in _INSTRUCTIONS and _INSTRUCTIONS[word] not in flags)


def unused(compiled: tuple[str, ...], flags: frozenset[str]) -> tuple[str, ...]:
    """Instructions that the processor has and the build leaves unused: it could be faster.

    >>> unused(("AVX2",), frozenset(["avx2", "avx512f", "aes"]))
    ('AVX512',)
    """
    return tuple(word for word, flag in _INSTRUCTIONS.items() if flag in flags and word not in compiled)
