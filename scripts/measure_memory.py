"""Compare a model's planned memory on the CPU with what the process takes while it embeds its longest text.

    python scripts/measure_memory.py MODEL [--max-tokens N] [--kv-type T] [--ram 2GB] [--tokens N]

Opens MODEL with Embedder, embeds a batch of short texts and then one text of N tokens (default: the token limit), with
a progress bar. Compares two figures with the plan, as the system counts them for this process: its peak memory without
pages of files, and with them. The second includes pages that were read once to be repacked, which the system may drop.
Prints a table and one line of JSON. Exit code 1 where the process took more than was planned. Linux only.
"""

import argparse
import json
import platform
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for use from a checkout

from qgguf import Embedder
from qgguf.hardware.process_memory import own_resident_bytes, peak_resident_bytes
from qgguf.units import in_gigabytes


class PeakMemory:
    """The process's peak memory without pages of files, read every 20 ms while it is entered."""

    def __enter__(self) -> "PeakMemory":
        self.peak_bytes, self._end = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(0.02):
            self._read()
        self._read()

    def _read(self) -> None:
        self.peak_bytes = max(self.peak_bytes, own_resident_bytes() or 0)


def text_of(model: Embedder, n_tokens: int) -> str:
    """Return a text of exactly so many tokens, end token included."""
    words = "river é stone market 한국어 light wind paper 😉 number garden engine".split()
    text = " ".join(words[(7 * index + index // 5) % len(words)] for index in range(n_tokens))
    low, high = 1, len(text)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if model.count_tokens(text[:middle])[0] < n_tokens else (low, middle)
    return text[:low]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--tokens", type=int, help="tokens of the long text; default: the token limit")
    parser.add_argument("--kv-type", choices=("f16", "q8_0", "q4_0"))
    parser.add_argument("--ram")
    options = parser.parse_args()
    if own_resident_bytes() is None:
        raise SystemExit("Error: this needs Linux's /proc.")
    with PeakMemory() as own:
        started = time.perf_counter()
        with Embedder(
            options.model, device="cpu", max_tokens=options.max_tokens, kv_type=options.kv_type, ram=options.ram
        ) as model:
            opened = time.perf_counter() - started
            text = text_of(model, options.tokens or model.max_tokens)
            model.encode([f"document {number} é 한 😉 " * 8 for number in range(100)])
            started = time.perf_counter()
            embedded = model.embed(text, show_progress_bar=True)
            seconds = time.perf_counter() - started
            plan, strategy = model.plan, model.strategy.value
    read_once = sum(part.size_bytes for part in plan.parts if "repacked" in part.name)
    rows = [
        ("without pages of files", plan.unmapped_ram_bytes, own.peak_bytes),
        ("with pages of files", plan.ram_bytes + read_once, peak_resident_bytes() or 0),
    ]
    print(f"{Path(options.model).name}, {strategy}, {plan.settings}")
    for part in plan.parts:
        print(f"  {part.name:<30}{in_gigabytes(part.size_bytes):>10}{'  pages of the file' if part.mapped else ''}")
    n_tokens = int(embedded.n_tokens[0])
    print(f"one text of {n_tokens:,} tokens in {seconds:,.1f} s ({n_tokens / seconds:,.0f} tok/s)\n")
    print(f"{'':<34}{'planned':>12}{'measured':>12}{'share':>8}")
    for name, planned, measured in rows:
        print(f"{name:<34}{in_gigabytes(planned):>12}{in_gigabytes(measured):>12}{measured / planned:>8.0%}")
    about = {
        "model": Path(options.model).name,
        "max_tokens": plan.settings.max_tokens,
        "n_tokens": n_tokens,
        "kv_type": plan.settings.kv_type,
        "repack": plan.settings.repack,
        "fits_ram": plan.fits_ram,
        "open_seconds": opened,
        "seconds": seconds,
        "planned_bytes": plan.ram_bytes,
        "planned_unmapped_bytes": rows[0][1],
        "peak_unmapped_bytes": rows[0][2],
        "peak_bytes": rows[1][2],
        "python": platform.python_version(),
        "llama_cpp_python": version("llama-cpp-python"),
    }
    print(json.dumps(about))
    # Where the weights do not fit, the system decides how many of their pages stay in memory.
    sys.exit(any(measured > planned for _, planned, measured in rows[: 2 if plan.fits_ram else 1]))


if __name__ == "__main__":
    main()
