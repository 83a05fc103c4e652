"""Measure speed and memory on an NVIDIA GPU, for the 4B shape in Q4_K_M within a memory budget.

    scripts/gpu                                  sets everything up on a new machine, then measures
    python scripts/bench_gpu.py [--vram 3GB] [--folder DIR] [--rounds 3] [--install]

Each measurement runs in its own process, so that the driver's figure is for that process alone:
  memory     the driver's peak for the process, its context included, while it embeds documents of 512 tokens, and one
             text of 8,000 tokens: under 3.0e9 bytes each
  speed      tokens per second against llama-cpp-python's Llama.embed with all layers on the GPU, in alternating order:
             at least 1.5 times on the documents, 3 times on short queries with their instruction, one after the other
  equality   the 0.6B shape in F16, GPU against CPU: cosine 0.999 or more for every text
The weights are random (scripts/make_random_checkpoint.py); speed and memory do not depend on their values.
Prints a table and one line of JSON. Exit code 1 where a figure misses its limit, or where there is no GPU.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for use from a checkout

from qgguf.hardware.gpu import Graphics, read_graphics  # noqa: E402
from qgguf.native.builds import compile_line, wheel_line  # noqa: E402
from qgguf.units import readable  # noqa: E402

MOST_BYTES = 3_000_000_000
LEAST_DOCUMENTS, LEAST_QUERIES, LEAST_COSINE = 1.5, 3.0, 0.999
DOCUMENT_TOKENS, LONG_TOKENS = 512, 8000
N_DOCUMENTS, N_QUERIES = 64, 100
INSTRUCTION = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
MIB = 1 << 20
WORDS = (
    "river é stone market 한국어 light wind paper 😉 number garden engine über winter salt cloud letter naïve".split()
)


@dataclass(frozen=True)
class Figure:
    """A measured figure and its floor or ceiling."""

    name: str
    value: float
    needed: float
    at_least: bool
    unit: str

    @property
    def holds(self) -> bool:
        """Whether the figure keeps to its limit."""
        return self.value >= self.needed if self.at_least else self.value < self.needed

    def line(self) -> str:
        """Return the figure's line of the table."""
        sign = ">=" if self.at_least else "< "
        verdict = "ok" if self.holds else "MISSED"
        return f"{self.name:<52}{self.value:>10.4g} {self.unit:<6}{sign} {self.needed:<8g}{verdict}"


# The measurements, each in its own process


def text_of(words: int, seed: int) -> str:
    """Return a text of so many random words."""
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(words))


def text_with(n_tokens: int, seed: int, count: Callable[[str], int]) -> str:
    """Return the longest text of a seed with at most so many tokens."""
    low, high = 1, n_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text_of(middle, seed)) <= n_tokens else (low, middle - 1)
    return text_of(low, seed)


def texts_of(path: str) -> dict[str, list[str]]:
    """Return the texts by kind, cut to length with the model's tokenizer. Uses the CPU alone."""
    from qgguf import Embedder

    with Embedder(path, device="cpu", strategy="plain") as model:

        def count(text: str) -> int:
            return int(model.count_tokens(text)[0])

        return {
            "documents": [text_with(DOCUMENT_TOKENS, seed, count) for seed in range(N_DOCUMENTS)],
            "long": [text_with(LONG_TOKENS, 1000, count)],
            "queries": [text_of(8, 2000 + seed) for seed in range(N_QUERIES)],
        }


def ours(path: str, texts: dict[str, list[str]], vram: str, work: str) -> dict[str, Any]:
    """Measure qgguf within its memory budget."""
    from qgguf import Embedder

    longest = LONG_TOKENS + 64 if work == "long" else DOCUMENT_TOKENS
    with Embedder(path, device="gpu", vram=vram, max_tokens=longest) as model:
        n_tokens = int(model.count_tokens(texts[work], prompt=INSTRUCTION if work == "queries" else None).sum())
        model.encode(["warm up"] * 2)
        started = time.perf_counter()
        if work == "queries":
            for query in texts[work]:
                model.encode(query, prompt=INSTRUCTION)
        else:
            model.encode(texts[work])
        return {"seconds": time.perf_counter() - started, "n_tokens": n_tokens, "device": model.device}


def theirs(path: str, texts: dict[str, list[str]], _vram: str, work: str) -> dict[str, Any]:
    """Measure Llama.embed with all layers on the GPU, and a context for a batch of documents."""
    from llama_cpp import LLAMA_POOLING_TYPE_LAST, Llama

    model = Llama(
        path, embedding=True, n_gpu_layers=-1, n_ctx=2048, n_batch=2048, n_ubatch=512, flash_attn=True,
        pooling_type=LLAMA_POOLING_TYPE_LAST, verbose=False,
    )  # fmt: skip
    inputs = [INSTRUCTION + text for text in texts[work]] if work == "queries" else texts[work]
    n_tokens = sum(len(model.tokenize(text.encode(), add_bos=True, special=False)) for text in inputs)
    model.embed(["warm up"] * 2)
    started = time.perf_counter()
    if work == "queries":
        for query in inputs:
            model.embed(query, normalize=True)
    else:
        model.embed(inputs, normalize=True)
    return {"seconds": time.perf_counter() - started, "n_tokens": n_tokens, "device": "gpu"}


def equality(path: str, texts: dict[str, list[str]], _vram: str, _work: str) -> dict[str, Any]:
    """Return the least cosine between the GPU's and the CPU's vectors of the same texts."""
    import numpy as np

    from qgguf import Embedder

    some = ["é", "한국어", "😉", *texts["documents"][:6], *texts["queries"][:6]]
    vectors = []
    for device in ("gpu", "cpu"):
        with Embedder(path, device=device) as model:
            assert model.device == device, f"{model.device} instead of {device}"
            vectors.append(model.encode(some))
    return {"cosine": float(np.sum(vectors[0] * vectors[1], axis=1).min())}


TASKS: dict[str, Callable[[str, dict[str, list[str]], str, str], dict[str, Any]]] = {
    "ours": ours, "theirs": theirs, "equality": equality,
}  # fmt: skip


def child(request: str) -> None:
    """Run one task in this process, and print its result as one line of JSON."""
    task = json.loads(request)
    texts = json.loads(Path(task["texts"]).read_text("utf-8"))
    print("\n" + json.dumps(TASKS[task["task"]](task["path"], texts, task["vram"], task["work"])))


# Memory, as the driver counts it


class Memory:
    """The driver's memory figures for one process and for the card.

    Inside a container the driver may not list processes; then the card's increase counts. The driver takes some 50 ms
    to answer; qgguf allocates once and holds the memory, so no peak is missed.
    """

    def __init__(self) -> None:
        self.card_before = self._card()

    @staticmethod
    def _query(*arguments: str) -> list[list[str]]:
        done = subprocess.run(
            ["nvidia-smi", *arguments, "--format=csv,noheader,nounits"], capture_output=True, text=True
        )
        return [[cell.strip() for cell in row.split(",")] for row in done.stdout.splitlines() if row.strip()]

    def _card(self) -> int:
        return sum(int(row[0]) for row in self._query("--query-gpu=memory.used")) * MIB

    def _process(self, pid: int) -> int | None:
        rows = self._query("--query-compute-apps=pid,used_gpu_memory")
        sizes = [int(row[1]) for row in rows if len(row) == 2 and row[0] == str(pid) and row[1].isdigit()]
        return sum(sizes) * MIB if sizes else None

    def watch(self, process: "subprocess.Popen[str]") -> dict[str, int]:
        """Return peak bytes once the process has ended: its own, 0 where it is not listed, and the card's increase."""
        peaks = {"process": 0, "card": 0}
        while process.poll() is None:
            peaks["process"] = max(peaks["process"], self._process(process.pid) or 0)
            peaks["card"] = max(peaks["card"], self._card() - self.card_before)
        return peaks


def run(task: str, path: Path, texts: Path, vram: str, work: str) -> dict[str, Any]:
    """Run a task in its own process; return its result with `peak_bytes` as the driver counts them."""
    request = json.dumps({"task": task, "path": str(path), "texts": str(texts), "vram": vram, "work": work})
    memory = Memory()
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", request], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read() if process.stdout else ""))
    reader.start()
    peaks = memory.watch(process)
    reader.join()
    if process.returncode:
        raise SystemExit(f"Error: {task} failed on {work}; see its output above.")
    if not max(peaks.values()):
        raise SystemExit(f"Error: the driver counts no memory for {task} on {work}: it did not run on the GPU.")
    result: dict[str, Any] = json.loads(output[0].strip().splitlines()[-1])
    return result | {
        "peak_bytes": peaks["process"] or peaks["card"],
        "counted": "process" if peaks["process"] else "card",
    }


# Preparation


def need_gpu() -> Graphics:
    """Return the driver and its cards.

    raises  SystemExit: there is no NVIDIA GPU
    """
    graphics = read_graphics()
    if not graphics.nvidia_cards:
        raise SystemExit(
            "Error: nvidia-smi shows no NVIDIA GPU here, so nothing was measured. Install NVIDIA's driver, or run this "
            "on a machine with one."
        )
    return graphics


def need_cuda(graphics: Graphics, install: bool) -> None:
    """Ensure that the binding has CUDA; install such a build if `install`.

    raises  SystemExit: there is none; names the commands that install one
    """
    if _has_cuda():
        return
    lines = [
        line
        for line in (
            # nvcc compiles for this card; the wheel needs no compiler.
            compile_line("CUDA", sys.platform) if graphics.nvcc else None,
            wheel_line("CUDA", sys.platform, graphics.driver_cuda),
            None if graphics.nvcc else compile_line("CUDA", sys.platform),
        )
        if line
    ]
    if not install:
        raise SystemExit(
            "Error: this llama-cpp-python finds no CUDA device. --install runs the first of these:\n    "
            + "\n    ".join(lines)
        )
    print(f"Installing: {lines[0]}", flush=True)
    folder = f"{Path(sys.executable).parent}{os.pathsep}"
    done = subprocess.run(lines[0], shell=True, env=os.environ | {"PATH": folder + os.environ["PATH"]})
    if done.returncode or not _has_cuda():
        raise SystemExit("Error: the CUDA build failed; see pip's output above. Nothing was measured.")


def _has_cuda() -> bool:
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from qgguf.native.devices import list_devices; "
        "sys.exit(not any(device.is_gpu and device.backend == 'CUDA' for device in list_devices()))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def model_file(folder: Path, shape: str, quant: str, layers: int | None) -> Path:
    """Return the file of a shape with random weights; make it where the folder does not have it."""
    path = folder / f"{shape}-{layers or 'all'}-{quant}.gguf"
    if path.exists():
        return path
    checkpoint = folder / f"Qwen3-Embedding-{shape.upper()}-random"
    more = ["--layers", str(layers)] if layers else []
    maker = REPOSITORY / "scripts" / "make_random_checkpoint.py"
    print(f"Making {path.name}", flush=True)
    subprocess.run([sys.executable, str(maker), shape, str(checkpoint), *more], check=True, stdout=subprocess.DEVNULL)
    from qgguf import convert_checkpoint

    convert_checkpoint(str(checkpoint), path, quant=quant)
    shutil.rmtree(checkpoint)
    return path


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[Figure], dict[str, Any]]:
    """Run all measurements; return the figures, and the details for the JSON line."""
    model = model_file(folder, options.shape, "Q4_K_M", options.layers)
    same = model_file(folder, "0.6b", "F16", options.layers)
    texts = folder / "texts.json"
    texts.write_text(json.dumps(texts_of(str(model)), ensure_ascii=False), "utf-8")

    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for work in ("documents", "queries"):
            for side in sorted(("ours", "theirs"), reverse=bool(number % 2)):
                result = run(side, model, texts, options.vram, work)
                runs.setdefault(f"{side} {work}", []).append(result)
                print(f"{side:<7}{work:<10}{result['n_tokens'] / result['seconds']:>9.0f} tok/s, "
                      f"{readable(result['peak_bytes'])} ({result['counted']})", flush=True)  # fmt: skip
    runs["ours long"] = [run("ours", model, texts, options.vram, "long")]
    cosine = run("equality", same, texts, options.vram, "")["cosine"]

    def ratio(work: str) -> float:
        pairs = zip(runs[f"theirs {work}"], runs[f"ours {work}"], strict=True)
        return statistics.median(one["seconds"] / other["seconds"] for one, other in pairs)

    def peak(work: str) -> float:
        return max(result["peak_bytes"] for result in runs[f"ours {work}"]) / 1e9

    most = MOST_BYTES / 1e9
    figures = [
        Figure(
            f"peak memory, {N_DOCUMENTS} documents of {DOCUMENT_TOKENS} tokens", peak("documents"), most, False, "GB"
        ),
        Figure(f"peak memory, one text of {LONG_TOKENS} tokens", peak("long"), most, False, "GB"),
        Figure("documents, times as fast as Llama.embed", ratio("documents"), LEAST_DOCUMENTS, True, ""),
        Figure("short queries, times as fast as Llama.embed", ratio("queries"), LEAST_QUERIES, True, ""),
        Figure("F16, GPU against CPU, least cosine", cosine, LEAST_COSINE, True, ""),
    ]
    return figures, {"runs": runs, "model": model.name, "model_bytes": model.stat().st_size}


def main() -> None:
    """Measure and print, or run one task of the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vram", default="3GB", help="memory budget; the ceiling stays 3.0e9 bytes")
    parser.add_argument("--shape", choices=("0.6b", "4b", "8b"), default="4b")
    parser.add_argument("--layers", type=int, help="fewer layers, for a quick try whose figures prove nothing")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="folder for the models, to use them again in the next run")
    parser.add_argument(
        "--install", action="store_true", help="install a CUDA build of llama-cpp-python if there is none"
    )
    parser.add_argument("--install-only", action="store_true", help="the same, and measure nothing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    if options.rounds < 1:
        parser.error("--rounds: 1 or more")
    graphics = need_gpu()
    need_cuda(graphics, options.install or options.install_only)
    if options.install_only:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures, details = measure(options, folder)
    print()
    for figure in figures:
        print(figure.line())
    about = {
        "card": graphics.nvidia_cards,
        "driver": graphics.nvidia_driver,
        "shape": options.shape,
        "layers": options.layers,
        "vram": options.vram,
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "figures": [asdict(figure) | {"holds": figure.holds} for figure in figures],
        **details,
    }
    print(json.dumps(about))
    missed = [figure.name for figure in figures if not figure.holds]
    if missed:
        raise SystemExit(f"Error: missed: {'; '.join(missed)}.")


if __name__ == "__main__":
    main()
