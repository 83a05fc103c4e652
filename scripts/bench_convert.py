"""Compare our conversion of a checkpoint with llama_model_quantize, which starts from a ready BF16 file.

    python scripts/bench_convert.py [--shape 0.6b|4b|8b] [--layers N] [--quant Q4_K_M ...] [--threads N] [--rounds N]
                                    [--folder DIR]

Makes its own checkpoint of that shape (random BF16 weights, the real tokenizer) and the BF16 file that the other
side starts from; both sides then run in turns, each in a separate process. Prints a table, then one JSON line.
anon is the largest anonymous resident memory of the process (Linux), without the page cache of mapped files; rss is
the largest resident memory with it. Our file is on the disk when our call returns, llama.cpp's is still in the page
cache: "synced" is llama.cpp's call and the sync of its file. ratio is the median of the rounds' ratios of the calls,
synced that of ours to llama.cpp's with the sync, best the ratio of the fastest round of each side; cpu compares the
processor seconds of all threads, which other work on the machine disturbs least.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for use from a checkout

from qgguf.gguf_format.reader import read_header  # noqa: E402
from qgguf.hardware.cores import usable_cores  # noqa: E402
from qgguf.hardware.cpu import read_processor  # noqa: E402
from scripts.make_random_checkpoint import SHAPES, make_checkpoint  # noqa: E402

CHILD = """
import json, os, sys, time
sys.path[:0] = {path!r}
side, source, out, quant, threads = {arguments!r}
if side == "qgguf":
    from qgguf.convert.converter import convert_checkpoint
    from qgguf.native.quantize import load
    load()
    started, busy = time.perf_counter(), time.process_time()
    convert_checkpoint(source, out, quant=quant, threads=threads, force=True)
else:
    import ctypes
    from qgguf.convert.quant_recipes import FILE_TYPE_IDS
    from qgguf.native import binding
    llama = binding.llama()
    params = llama.llama_model_quantize_default_params()
    params.nthread, params.ftype = threads, FILE_TYPE_IDS[quant]
    started, busy = time.perf_counter(), time.process_time()
    if llama.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params)):
        raise SystemExit(binding.last_errors())
seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - busy
if side != "qgguf":
    with open(out, "r+b") as file:
        os.fsync(file.fileno())
print(json.dumps([seconds, cpu_seconds, time.perf_counter() - started]))
"""


def memory_bytes(pid: int) -> tuple[int, int]:
    """Return the (anonymous, all) resident bytes of a process now; zeros where /proc does not have them."""
    try:
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line
        )
        return tuple(int(status[key].split()[0]) * 1024 for key in ("RssAnon", "VmRSS"))
    except (OSError, KeyError, ValueError):
        return 0, 0


def run(side: str, source: Path, out: Path, quant: str, threads: int) -> dict[str, float]:
    """Convert in a separate process; return its seconds, those with the sync of its file, and its largest memory."""
    out.unlink(missing_ok=True)  # to free the blocks of an earlier result takes time too
    if hasattr(os, "sync"):
        os.sync()  # what an earlier run left to be written must not slow this one
    path = [str(REPOSITORY)]
    child = CHILD.format(path=path, arguments=(side, str(source), str(out), quant, threads))
    process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
    anon = rss = 0
    while process.poll() is None:
        now = memory_bytes(process.pid)
        anon, rss = max(anon, now[0]), max(rss, now[1])
        time.sleep(0.01)
    printed = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{side} failed on {quant}.")
    seconds, cpu_seconds, synced_seconds = json.loads(printed.strip().splitlines()[-1])
    seen = {"seconds": seconds, "cpu_seconds": cpu_seconds, "synced_seconds": synced_seconds}
    return seen | {"anon_mb": anon / 1e6, "rss_mb": rss / 1e6}


def same_tensors(ours: Path, theirs: Path) -> bool:
    """Return whether both files hold the same tensors, byte for byte."""
    first, second = read_header(ours), read_header(theirs)
    if [t.name for t in first.tensors] != [t.name for t in second.tensors]:
        return False
    a = np.memmap(ours, np.uint8, "r", first.data_offset)
    b = np.memmap(theirs, np.uint8, "r", second.data_offset)
    return all(
        x.type_id == y.type_id
        and x.shape == y.shape
        and np.array_equal(a[x.offset : x.offset + x.size_bytes], b[y.offset : y.offset + y.size_bytes])
        for x, y in zip(first.tensors, second.tensors, strict=True)
    )


def compare(checkpoint: Path, master: Path, work: Path, quant: str, threads: int, rounds: int) -> dict[str, object]:
    """Both sides in turns."""
    sides = {"qgguf": (checkpoint, work / "ours.gguf"), "llama": (master, work / "theirs.gguf")}
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sorted(sides, reverse=bool(number % 2)):
            runs[side].append(run(side, *sides[side], quant, threads))
    result: dict[str, object] = {"quant": quant, "identical": same_tensors(sides["qgguf"][1], sides["llama"][1])}
    for side, found in runs.items():
        result[f"{side}_seconds"] = [round(one["seconds"], 3) for one in found]
        result[f"{side}_cpu_seconds"] = [round(one["cpu_seconds"], 3) for one in found]
        result[f"{side}_anon_mb"] = round(max(one["anon_mb"] for one in found), 1)
        result[f"{side}_rss_mb"] = round(max(one["rss_mb"] for one in found), 1)
    result["llama_synced_seconds"] = [round(one["synced_seconds"], 3) for one in runs["llama"]]
    pairs = list(zip(runs["qgguf"], runs["llama"], strict=True))
    ratios = [a["seconds"] / b["seconds"] for a, b in pairs]
    result["ratio"] = round(statistics.median(ratios), 3)
    result["synced_ratio"] = round(statistics.median(a["seconds"] / b["synced_seconds"] for a, b in pairs), 3)
    best = {side: min(one["seconds"] for one in found) for side, found in runs.items()}
    result["best_ratio"] = round(best["qgguf"] / best["llama"], 3)
    result["ratios"] = [round(ratio, 3) for ratio in ratios]
    result["cpu_ratio"] = round(statistics.median(a["cpu_seconds"] / b["cpu_seconds"] for a, b in pairs), 3)
    result["megabytes"] = round(sides["qgguf"][1].stat().st_size / 1e6, 1)
    for _, out in sides.values():
        out.unlink()
    return result


def main() -> None:
    """Run the comparison that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="0.6b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--quant", nargs="+", default=["Q4_K_M"])
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where checkpoint and outputs go; kept for the next run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        layers = options.layers or SHAPES[options.shape]["num_hidden_layers"]
        name = f"Qwen3-Embedding-{options.shape.upper()}-{layers}-layers"
        checkpoint = make_checkpoint(folder / name, options.shape, layers)
        master = folder / f"{checkpoint.name}-BF16.gguf"
        run("qgguf", checkpoint, master, "BF16", options.threads)
        print(f"{checkpoint.name}: {master.stat().st_size / 1e9:.2f} GB in BF16, {options.threads} threads")
        print(f"{'':8}{'seconds':^27}{'qgguf / llama':^28}{'anon MB':^16}{'rss MB':^16}")
        print(
            f"{'type':8}{'qgguf':>9}{'llama':>9}{'synced':>9}{'ratio':>7}{'synced':>7}{'best':>7}{'cpu':>7}"
            f"{'qgguf':>8}{'llama':>8}{'qgguf':>8}{'llama':>8}  same"
        )
        results = []
        for quant in options.quant:
            found = compare(checkpoint, master, folder, quant, options.threads, options.rounds)
            results.append(found)
            seconds = [statistics.median(found[f"{name}_seconds"]) for name in ("qgguf", "llama", "llama_synced")]
            ratios = [found[name] for name in ("ratio", "synced_ratio", "best_ratio", "cpu_ratio")]
            memory = [found[f"{side}_{kind}_mb"] for kind in ("anon", "rss") for side in ("qgguf", "llama")]
            print(
                f"{quant:8}"
                + "".join(f"{value:9.2f}" for value in seconds)
                + "".join(f"{value:7.3f}" for value in ratios)
                + "".join(f"{value:8.0f}" for value in memory)
                + f"  {found['identical']}",
                flush=True,
            )
    from importlib.metadata import version

    about = {
        "shape": options.shape,
        "layers": layers,
        "threads": options.threads,
        "cpu": read_processor().name,
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
        "results": results,
    }
    print(json.dumps(about))


if __name__ == "__main__":
    main()
