"""Measure the loss of each quantisation: the real MiniLM in every type against sentence-transformers in float32.

It prints the table of models/README.md. The reference vectors and the 300 sentences are those of tests/golden.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for use from a checkout

from qgguf import Embedder, convert_checkpoint  # noqa: E402
from tests.support.minilm import fetch  # noqa: E402
from tests.support.texts import ENGLISH  # noqa: E402

TYPES = ["F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS"]
NEIGHBOURS = 10


def neighbours(vectors: np.ndarray) -> np.ndarray:
    """Return the indices of the ten nearest other sentences of each sentence: (n, 10)."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    return np.argsort(-cosines, axis=1)[:, :NEIGHBOURS]


def main() -> None:
    """Convert MiniLM to each type, and print a row for it."""
    checkpoint = fetch(ROOT / ".cache")
    with np.load(ROOT / "tests" / "golden" / "minilm.npz") as arrays:
        reference = arrays["english"]
    nearest = neighbours(reference)
    print("| type | bytes | mean cosine | least cosine | top-10 overlap |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for quant in TYPES:
            path = convert_checkpoint(checkpoint, Path(folder) / f"{quant}.gguf", quant=quant)
            with Embedder(path) as model:
                vectors = model.encode(ENGLISH)
            cosines = (vectors * reference).sum(axis=1)
            shared = [len(set(a) & set(b)) / NEIGHBOURS for a, b in zip(nearest, neighbours(vectors), strict=True)]
            size = path.stat().st_size
            print(f"| {quant} | {size:,} | {cosines.mean():.5f} | {cosines.min():.5f} | {np.mean(shared):.3f} |")


if __name__ == "__main__":
    main()
