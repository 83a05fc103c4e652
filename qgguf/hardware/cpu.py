"""The processor's instruction sets, compared with those that llama.cpp was compiled for."""

import platform
from dataclasses import dataclass
from pathlib import Path

from qgguf.memory.planner import worth_repacking

_CPUINFO = Path("/proc/cpuinfo")

# llama.cpp's name (llama_print_system_info) -> Linux's name (/proc/cpuinfo). Instruction sets only: OPENMP, REPACK and
# the like are features of llama.cpp itself.
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
    """A processor.

    name   as the system shows it
    flags  instruction sets by their names in Linux; empty on systems that do not report them
    """

    name: str
    flags: frozenset[str]


def read_processor(cpuinfo: Path = _CPUINFO) -> Processor:
    """Read the processor of this machine from the lines of its first core.

    cpuinfo  Linux's /proc/cpuinfo
    """
    fields: dict[str, str] = {}
    try:
        # On a server this file repeats the lines for hundreds of cores.
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, colon, value = line.partition(":")
                if not colon and fields:
                    break
                fields.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    return Processor(name, frozenset((fields.get("flags") or fields.get("Features") or "").split()))


def types_to_repack() -> frozenset[str]:
    """Return the weight types that get a second layout on this machine: see `qgguf.memory.planner.worth_repacking`."""
    return worth_repacking(platform.machine(), read_processor().flags)


def compiled_features(system_info: str) -> tuple[str, ...]:
    """Return the features that llama.cpp's system info reports as on.

    >>> compiled_features("CPU : AVX = 1 | AVX2 = 0 | REPACK = 1 | ")
    ('AVX', 'REPACK')
    """
    features = []
    for part in system_info.replace(" : ", " | ").split("|"):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if equals and value not in ("", "0"):
            features.append(name)
    return tuple(features)


def missing_instructions(compiled: tuple[str, ...], flags: frozenset[str]) -> tuple[str, ...]:
    """Return the instruction sets that the build uses and the processor lacks: they would end the process (SIGILL).

    >>> missing_instructions(("AVX2", "AVX512", "REPACK"), frozenset(["avx2"]))
    ('AVX512',)
    """
    if not flags:
        return ()
    return tuple(name for name in compiled if name in _INSTRUCTIONS and _INSTRUCTIONS[name] not in flags)


def unused_instructions(compiled: tuple[str, ...], flags: frozenset[str]) -> tuple[str, ...]:
    """Return the instruction sets that the processor has and the build does not use: another build may be faster.

    >>> unused_instructions(("AVX2",), frozenset(["avx2", "avx512f", "aes"]))
    ('AVX512',)
    """
    return tuple(name for name, flag in _INSTRUCTIONS.items() if flag in flags and name not in compiled)
