"""Measure what a quantised KV cache costs: cosine to the vectors of a cache in f16, by the length of the text.

    python scripts/measure_kv.py MODEL [--tokens 16 64 256 1024 4096] [--texts N]

Prints a table and one line of JSON. Encoders have no KV cache.
"""

import argparse
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for use from a checkout

from qgguf import Embedder
from qgguf.evaluation import sample_texts
from qgguf.memory.planner import KV_TYPES


def texts_of(model: Embedder, n_tokens: int, n_texts: int) -> list[str]:
    """Return different texts of at least so many tokens; the model's token limit cuts them to equal length."""
    documents = sample_texts.documents()
    texts = []
    for _ in range(n_texts):
        text = next(documents)
        while int(model.count_tokens(text)[0]) < n_tokens:
            text += " " + next(documents)
        texts.append(text)
    return texts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256, 1024, 4096])
    parser.add_argument("--texts", type=int, default=12, help="of each length; fewer of the long ones")
    options = parser.parse_args()
    rows = []
    for n_tokens in options.tokens:
        vectors = {}
        texts: list[str] = []
        for kv_type in KV_TYPES:
            with Embedder(options.model, device="cpu", max_tokens=n_tokens, kv_type=kv_type) as model:
                texts = texts or texts_of(model, n_tokens, max(2, min(options.texts, 8192 // n_tokens)))
                vectors[kv_type] = model.encode(texts)
        for kv_type in list(KV_TYPES)[1:]:
            cosines = (vectors["f16"] * vectors[kv_type]).sum(axis=1)
            rows.append(
                {"tokens": n_tokens, "texts": len(texts), "kv_type": kv_type, "mean": float(cosines.mean()),
                 "least": float(cosines.min()), "tenth": float(np.quantile(cosines, 0.1))}
            )  # fmt: skip
            print(f"{n_tokens:>6} tokens, {len(texts):>3} texts  {kv_type:<5} mean {rows[-1]['mean']:.5f}  "
                  f"least {rows[-1]['least']:.5f}", flush=True)  # fmt: skip
    about = {"model": Path(options.model).name, "rows": rows, "llama_cpp_python": version("llama-cpp-python")}
    print(json.dumps(about))


if __name__ == "__main__":
    main()
