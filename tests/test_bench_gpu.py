"""scripts/bench_gpu.py without a GPU: what it refuses, and when a figure misses its limit."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.hardware.gpu import read_graphics
from scripts.bench_gpu import Figure, text_with

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "bench_gpu.py"


@pytest.mark.skipif(bool(read_graphics().nvidia_cards), reason="there is an NVIDIA GPU")
@pytest.mark.parametrize("options", [[], ["--install"], ["--install-only"], ["--vram", "3GB", "--rounds", "1"]])
def test_without_a_gpu_nothing_is_measured(options: list[str]):
    """One line and exit code 1; nothing is installed."""
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: nvidia-smi shows no NVIDIA GPU") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("options", [["--shape", "1b"], ["--rounds", "0"], ["--vram"]])
def test_invalid_option_is_wrong_usage(options: list[str]):
    """Exit code 2."""
    assert subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True).returncode == 2


@pytest.mark.parametrize(
    ("value", "needed", "at_least", "holds"),
    [
        (1.5, 1.5, True, True),
        (1.4999, 1.5, True, False),
        (2.99, 3.0, False, True),
        (3.0, 3.0, False, False),
        (float("nan"), 0.999, True, False),
        (float("nan"), 3.0, False, False),
    ],
)
def test_missed_figure_is_marked(value: float, needed: float, at_least: bool, holds: bool):
    """A floor includes its number, a ceiling does not, and NaN misses both."""
    figure = Figure("é", value, needed, at_least, "GB")
    assert figure.holds == holds and ("MISSED" in figure.line()) != holds


@given(st.integers(3, 600), st.integers(0, 50))
def test_text_fills_the_token_limit(n_tokens: int, seed: int):
    """The longest text of a seed that fits the limit, with any tokenizer."""

    def count(text: str) -> int:
        return 2 + len(text) // 5

    longest = text_with(n_tokens, seed, count)
    assert count(longest) <= n_tokens or " " not in longest
    assert n_tokens - count(longest) < 4
