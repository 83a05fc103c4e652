"""What a GPU gives, and whether a budget of memory holds: the 4B shape in Q4_K_M on an NVIDIA card.

    scripts/gpu                                  everything from a bare machine
    python scripts/bench_gpu.py [--vram 3GB] [--folder DIR] [--rounds 3] [--install]

Measured, each in a process of its own so that the driver's figure is that process's alone:
  memory     the most that the driver counts for the process, its context included, while it embeds documents of 512
             tokens and one text of 8,000: under 3.0e9 bytes each
  speed      tokens per second against llama-cpp-python's Llama.embed with all layers on the GPU, in turns: at least
             1.5 times on the documents, 3 times on short queries with their instruction, one after the other
  equality   the 0.6B shape in F16, GPU against CPU: cosine 0.999 or more for every text
Weights are random (scripts/make_random_checkpoint.py): speed and memory do not depend on their values.
A table, then a line of JSON. Exit code 1 where a figure is missed, or where there is no GPU.
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
    """One figure and its floor or ceiling."""

    name: str
    value: float
    needed: float
    at_least: bool
    unit: str

    @property
    def holds(self) -> bool:
        return self.value >= self.needed if self.at_least else self.value < self.needed

    def line(self) -> str:
        sign = ">=" if self.at_least else "< "
        verdict = "ok" if self.holds else "MISSED"
        return f"{self.name:<52}{self.value:>10.4g} {self.unit:<6}{sign} {self.needed:<8g}{verdict}"


# What the processes do


def text_of(words: int, seed: int) -> str:
    dice = random.Random(seed)
    return " ".join(dice.choice(WORDS) for _ in range(words))


def text_with(n_tokens: int, seed: int, count: Callable[[str], int]) -> str:
    """A text of at most so many tokens, and nearly so many."""
    low, high = 1, n_tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text_of(middle, seed)) <= n_tokens else (low, middle - 1)
    return text_of(low, seed)


def texts_of(path: str) -> dict[str, list[str]]:
    """The texts, cut to length by the model's own tokenizer; on the CPU, so that the GPU stays as it is."""
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
    """qgguf in its budget."""
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
    """Llama.embed with all layers on the GPU, and room for a batch of documents."""
    from llama_cpp import LLAMA_POOLING_TYPE_LAST, Llama

    model = Llama(
        path, embedding=True, n_gpu_layers=-1, n_ctx=2048, n_batch=2048, n_ubatch=512, flash_attn=True,
        pooling_type=LLAMA_POOLING_TYPE_LAST, verbose=False,
    )  # fmt: skip
    asked = [INSTRUCTION + text for text in texts[work]] if work == "queries" else texts[work]
    n_tokens = sum(len(model.tokenize(text.encode(), add_bos=True, special=False)) for text in asked)
    model.embed(["warm up"] * 2)
    started = time.perf_counter()
    if work == "queries":
        for query in asked:
            model.embed(query, normalize=True)
    else:
        model.embed(asked, normalize=True)
    return {"seconds": time.perf_counter() - started, "n_tokens": n_tokens, "device": "gpu"}


def equality(path: str, texts: dict[str, list[str]], _vram: str, _work: str) -> dict[str, Any]:
    """The least cosine between the GPU's vectors and the CPU's, and whether both computed at all."""
    import numpy as np

    from qgguf import Embedder

    some = ["é", "한국어", "😉", *texts["documents"][:6], *texts["queries"][:6]]
    found = []
    for device in ("gpu", "cpu"):
        with Embedder(path, device=device) as model:
            assert model.device == device, f"{model.device} instead of {device}"
            found.append(model.encode(some))
    return {"cosine": float(np.sum(found[0] * found[1], axis=1).min())}


TASKS: dict[str, Callable[[str, dict[str, list[str]], str, str], dict[str, Any]]] = {
    "ours": ours, "theirs": theirs, "equality": equality,
}  # fmt: skip


def child(request: str) -> None:
    asked = json.loads(request)
    texts = json.loads(Path(asked["texts"]).read_text("utf-8"))
    print("\n" + json.dumps(TASKS[asked["task"]](asked["path"], texts, asked["vram"], asked["work"])))


# Memory as the driver counts it


class Memory:
    """Watches the driver's figure for one process; where a container hides processes, the card's less what was before.

    Reading takes the driver some 50 ms; allocations here are made once and stay, so none is missed.
    """

    def __init__(self) -> None:
        self.before = self._card()

    @staticmethod
    def _ask(*what: str) -> list[list[str]]:
        done = subprocess.run(["nvidia-smi", *what, "--format=csv,noheader,nounits"], capture_output=True, text=True)
        return [[cell.strip() for cell in row.split(",")] for row in done.stdout.splitlines() if row.strip()]

    def _card(self) -> int:
        return sum(int(row[0]) for row in self._ask("--query-gpu=memory.used")) * MIB

    def _process(self, pid: int) -> int | None:
        rows = self._ask("--query-compute-apps=pid,used_gpu_memory")
        found = [int(row[1]) for row in rows if len(row) == 2 and row[0] == str(pid) and row[1].isdigit()]
        return sum(found) * MIB if found else None

    def watch(self, process: "subprocess.Popen[str]") -> dict[str, int]:
        """Until the process ends: peak bytes of the process, 0 where it is not listed, and of the card above before."""
        peaks = {"process": 0, "card": 0}
        while process.poll() is None:
            peaks["process"] = max(peaks["process"], self._process(process.pid) or 0)
            peaks["card"] = max(peaks["card"], self._card() - self.before)
        return peaks


def run(task: str, path: Path, texts: Path, vram: str, work: str) -> dict[str, Any]:
    """A task in a process of its own: what it found, and peak_bytes by the driver."""
    request = json.dumps({"task": task, "path": str(path), "texts": str(texts), "vram": vram, "work": work})
    memory = Memory()
    process = subprocess.Popen(
        [sys.executable, __file__, "--child", request], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.append(process.stdout.read() if process.stdout else ""))
    reader.start()
    peaks = memory.watch(process)
    reader.join()
    if process.returncode:
        raise SystemExit(f"Error: {task} failed on {work}; what it said is above.")
    if not max(peaks.values()):
        raise SystemExit(f"Error: the driver counts no memory for {task} on {work}: it did not run on the GPU.")
    found: dict[str, Any] = json.loads(said[0].strip().splitlines()[-1])
    return found | {
        "peak_bytes": peaks["process"] or peaks["card"],
        "counted": "process" if peaks["process"] else "card",
    }


# Making ready


def need_gpu() -> Graphics:
    """The driver and its cards.

    raises  SystemExit with one line where there is none
    """
    graphics = read_graphics()
    if not graphics.nvidia_cards:
        raise SystemExit(
            "Error: nvidia-smi shows no NVIDIA GPU here, so nothing was measured. Install NVIDIA's driver, or run this "
            "on a machine with one."
        )
    return graphics


def need_cuda(graphics: Graphics, install: bool) -> None:
    """A binding with CUDA, installed where it is not there and that is wanted.

    raises  SystemExit naming the commands
    """
    if _has_cuda():
        return
    lines = [
        line
        for line in (
            # nvcc compiles for this very card; the wheel needs no compiler.
            compile_line("CUDA", sys.platform) if graphics.nvcc else None,
            wheel_line("CUDA", sys.platform, graphics.driver_cuda),
            None if graphics.nvcc else compile_line("CUDA", sys.platform),
        )
        if line
    ]
    if not install:
        raise SystemExit(
            "Error: this llama-cpp-python finds no CUDA device. With --install the first of these is run:\n    "
            + "\n    ".join(lines)
        )
    print(f"Installing: {lines[0]}", flush=True)
    folder = f"{Path(sys.executable).parent}{os.pathsep}"
    done = subprocess.run(lines[0], shell=True, env=os.environ | {"PATH": folder + os.environ["PATH"]})
    if done.returncode or not _has_cuda():
        raise SystemExit("Error: the CUDA build did not come about; what pip said is above. Nothing was measured.")


def _has_cuda() -> bool:
    program = (
        f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from qgguf.native.devices import list_devices; "
        "sys.exit(not any(device.is_gpu and device.backend == 'CUDA' for device in list_devices()))"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def model_file(folder: Path, shape: str, quant: str, layers: int | None) -> Path:
    """The random model of a shape, converted; made once where --folder names a place."""
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
    model = model_file(folder, options.shape, "Q4_K_M", options.layers)
    same = model_file(folder, "0.6b", "F16", options.layers)
    texts = folder / "texts.json"
    texts.write_text(json.dumps(texts_of(str(model)), ensure_ascii=False), "utf-8")

    runs: dict[str, list[dict[str, Any]]] = {}
    for number in range(options.rounds):
        for work in ("documents", "queries"):
            for side in sorted(("ours", "theirs"), reverse=bool(number % 2)):
                found = run(side, model, texts, options.vram, work)
                runs.setdefault(f"{side} {work}", []).append(found)
                print(f"{side:<7}{work:<10}{found['n_tokens'] / found['seconds']:>9.0f} tok/s, "
                      f"{found['peak_bytes'] / 1e9:.2f} GB ({found['counted']})", flush=True)  # fmt: skip
    runs["ours long"] = [run("ours", model, texts, options.vram, "long")]
    cosine = run("equality", same, texts, options.vram, "")["cosine"]

    def ratio(work: str) -> float:
        pairs = zip(runs[f"theirs {work}"], runs[f"ours {work}"], strict=True)
        return statistics.median(one["seconds"] / other["seconds"] for one, other in pairs)

    def peak(work: str) -> float:
        return max(found["peak_bytes"] for found in runs[f"ours {work}"]) / 1e9

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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vram", default="3GB", help="the budget; the ceiling stays 3.0e9 bytes")
    parser.add_argument("--shape", choices=("0.6b", "4b", "8b"), default="4b")
    parser.add_argument("--layers", type=int, help="fewer layers, for a quick look; the figures are then no proof")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where models go; kept for the next run")
    parser.add_argument("--install", action="store_true", help="install a CUDA build of llama-cpp-python if need be")
    parser.add_argument("--install-only", action="store_true", help="the same, and stop there")
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
