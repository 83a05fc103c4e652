"""Compare the planned bytes with those that llama.cpp reports when it loads, on a CPU and without real weights.

    python scripts/check_memory.py [--shape 0.6b 4b 8b minilm bge-large] [--quant Q4_K_M ...] [--folder DIR]

Makes a file with the tensor table of each shape and no weights (tests/support/empty_model.py), loads it and reads
llama.cpp's log: weights and their repacked copy from a real load (8b in Q8_0 takes 8 GB of memory for a moment), KV
cache, compute buffer and output rows from contexts of many settings. Prints each part in MiB, planned and reported, the
worst deviation, and one line of JSON. Exit code 1 where a figure is more than 5 % off.
"""

import argparse
import json
import logging
import os
import platform
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for use from a checkout

from qgguf.gguf_format.reader import read_header
from qgguf.memory.planner import KV_TYPES, ModelSizes, Settings, cells_of, kv_bytes, output_bytes, parts_of, repacked_on
from qgguf.model.from_gguf import sizes_of, spec_of
from qgguf.native import binding
from qgguf.native.context import KV_TYPE_IDS
from qgguf.native.model import set_mmap
from tests.support.empty_model import SHAPES, make_empty_model

TOLERANCE = 0.05
MIB = 1 << 20
_WEIGHTS = re.compile(r"(\S+) model buffer size = *([\d.]+)")
# A load that allocates nothing reports its cache in the second form only.
_KV = re.compile(r"llama_kv_cache: size = *([\d.]+) MiB")
_COMPUTE_BUFFER = re.compile(r"compute buffer size = *([\d.]+)")
_OUTPUTS = re.compile(r"output buffer size = *([\d.]+)")
# llama.cpp prints two decimals.
_ROUNDING = 0.005


@dataclass(frozen=True, slots=True)
class Row:
    """One part of memory, in MiB."""

    model: str
    settings: str
    part: str
    planned: float
    reported: float

    @property
    def deviation(self) -> float:
        """The relative deviation, less what llama.cpp's rounding to two decimals may hide."""
        return max(0.0, abs(self.planned - self.reported) - _ROUNDING) / max(self.reported, _ROUNDING)


class Log(logging.Handler):
    """The lines that llama.cpp logs while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Store a line."""
        self.text += record.getMessage() + "\n"

    def __enter__(self) -> "Log":
        logger = logging.getLogger("qgguf.llama")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("qgguf.llama").removeHandler(self)

    def number(self, pattern: re.Pattern[str]) -> float:
        """Return the last number that a pattern finds; 0 where it finds none."""
        numbers = pattern.findall(self.text)
        return float(numbers[-1]) if numbers else 0.0


def load(path: Path, *, repack: bool = True, no_alloc: bool = False) -> tuple[Any, Log]:
    """Load a model in llama.cpp; without mmap, so that each buffer has the size of its contents."""
    llama = binding.llama()
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers, parameters.use_extra_bufts, parameters.no_alloc = 0, repack, no_alloc
    set_mmap(parameters, False)
    with Log() as log:
        handle = llama.llama_model_load_from_file(os.fsencode(path), parameters)
    if not handle:
        raise SystemExit(f"llama.cpp cannot load {path}: {binding.last_errors()}")
    return handle, log


def check_model(path: Path, name: str, many: bool = True) -> Iterator[Row]:
    """Yield every part of a model's memory, planned and reported.

    many  for many settings of contexts, else for a few
    """
    header = read_header(path)
    sizes = sizes_of(header, spec_of(header, path))
    llama = binding.llama()
    for repack in (True, False):
        handle, log = load(path, repack=repack)
        llama.llama_model_free(handle)
        yield from _weights(sizes, name, repack, log)
    handle, _ = load(path, no_alloc=True)
    try:
        for settings in _settings(sizes, many):
            yield from _context(handle, sizes, name, settings)
    finally:
        llama.llama_model_free(handle)


def _weights(sizes: ModelSizes, name: str, repack: bool, log: Log) -> Iterator[Row]:
    settings = replace(next(_settings(sizes, False)), repack=repack)
    parts = {part.name: part.size_bytes for part in parts_of(sizes, settings, repacked=repacked_on(platform.machine()))}
    buffers = {name: float(size) for name, size in _WEIGHTS.findall(log.text)}
    reported = buffers.pop("CPU_REPACK", 0.0)
    label = f"repack={'on' if repack else 'off'}"
    yield Row(name, label, "repacked", parts.get("layers repacked (CPU)", 0) / MIB, reported)
    others = sum(parts.get(part, 0) for part in ("token embedding", "layers (CPU)", "output matrix", "output norm"))
    yield Row(name, label, "weights", others / MIB, sum(buffers.values()))


def _settings(sizes: ModelSizes, many: bool) -> Iterator[Settings]:
    if not sizes.last_rows:
        for cells in (256, 512, 1024) if many else (256,):
            for sequences in (64, 256) if many else (256,):
                yield Settings(0, "f16", min(cells, sizes.context_length), cells, cells, cells, sequences)
        return
    for cells in (2048, 4096, 8192, 32768) if many else (2048,):
        for micro_batch in (128, 256, 512, 2048) if many else (512,):
            for sequences in (16, 65, 256) if many else (65,):
                for kv_type in KV_TYPES:
                    yield Settings(0, kv_type, cells, cells, cells, micro_batch, sequences)


def _context(handle: Any, sizes: ModelSizes, name: str, settings: Settings) -> Iterator[Row]:
    """Make a context as native/context.py does, and yield its parts."""
    llama = binding.llama()
    parameters = llama.llama_context_default_params()
    parameters.n_ctx = cells_of(sizes, settings) or settings.cells
    parameters.n_batch = parameters.n_ubatch = settings.micro_batch
    parameters.n_seq_max, parameters.kv_unified = settings.n_sequences, True
    parameters.type_k = parameters.type_v = KV_TYPE_IDS[settings.kv_type]
    parameters.embeddings = not sizes.last_rows
    parameters.n_outputs_max = settings.n_sequences if sizes.last_rows else 0
    parameters.offload_kqv = parameters.op_offload = False
    with Log() as log:
        context = llama.llama_init_from_model(handle, parameters)
    if not context:
        raise SystemExit(f"llama.cpp makes no context for {settings}: {binding.last_errors()}")
    llama.llama_free(context)
    parts = {part.name: part.size_bytes / MIB for part in parts_of(sizes, settings)}
    label = f"{settings.cells} cells, {settings.micro_batch} at once, {settings.n_sequences} texts, {settings.kv_type}"
    if sizes.decoder:
        cache = kv_bytes(sizes, settings.kv_type, cells_of(sizes, settings), sizes.n_layers)
        yield Row(name, label, "KV cache", cache / MIB, log.number(_KV))
    # Only where the full micro-batch is the larger graph: a load that allocates nothing reports no other.
    if settings.micro_batch >= settings.n_sequences:
        yield Row(name, label, "compute buffer", parts["compute buffer (CPU)"], log.number(_COMPUTE_BUFFER))
    # One row for each sequence; where llama.cpp pools, the buffer grows with the first batch.
    yield Row(name, label, "outputs", output_bytes(sizes, settings.n_sequences) / MIB, log.number(_OUTPUTS))


def main() -> None:
    """Check the shapes and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--quant", nargs="+", default=["Q4_K_M", "Q8_0"])
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        for shape in given.shape:
            for quant in given.quant:
                path = make_empty_model((given.folder or Path(temporary)) / f"empty-{shape}-{quant}.gguf", shape, quant)
                rows += check_model(path, f"{shape} {quant}")
                path.unlink()
    print(f"{'model':<17}{'settings':<46}{'part':<15}{'planned':>10}{'reported':>10}{'off by':>9}")
    for row in rows:
        off = f"{100 * row.deviation:.2f} %"
        print(f"{row.model:<17}{row.settings:<46}{row.part:<15}{row.planned:>10.2f}{row.reported:>10.2f}{off:>9}")
    worst = max(rows, key=lambda row: row.deviation)
    print(f"\n{len(rows)} figures, worst {100 * worst.deviation:.2f} % ({worst.model}, {worst.settings}, {worst.part})")
    by_part = {
        part: max(row.deviation for row in rows if row.part == part) for part in dict.fromkeys(row.part for row in rows)
    }
    print(json.dumps({"figures": len(rows), "worst": worst.deviation, "worst_by_part": by_part}))
    sys.exit(worst.deviation > TOLERANCE)


if __name__ == "__main__":
    main()
