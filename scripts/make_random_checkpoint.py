"""Make a checkpoint of the real shape of a Qwen3-Embedding model with random BF16 weights.

    python scripts/make_random_checkpoint.py SHAPE OUT [--layers N]      SHAPE: 0.6b, 4b, 8b

Speed and memory do not depend on the values. Tokenizer and configuration are the published ones, and the weights are
scaled so that activations stay near 1 through all layers. Needs numpy, writes as a stream: 1.2, 8.0 and 15.1 GB.
A folder that holds such a checkpoint already is not changed.
"""

import argparse
import json
import os
import random
import struct
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for use from a checkout

from tests.support.checkpoints import bf16, qwen3_config, qwen3_layout, tokenizer_json, write_side_files  # noqa: E402

_LARGER = {"max_position_embeddings": 40960, "eos_token_id": 151645, "transformers_version": "4.51.2"}
# What each published config.json has other than the 0.6B's.
SHAPES: dict[str, dict[str, Any]] = {
    "0.6b": {"num_hidden_layers": 28},
    "4b": _LARGER
    | {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
    "8b": _LARGER
    | {
        "hidden_size": 4096,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "intermediate_size": 12288,
        # Yet no head is stored: the body is all that an embedding needs.
        "tie_word_embeddings": False,
    },
}
VOCABULARY = {"0.6b": 151669, "4b": 151665, "8b": 151665}

# Numbers that tensors are cut from, and the longest piece. Pieces begin anywhere, so equal rows are rare.
POOL = 1 << 22
BLOCK = 1 << 21


def tokenizer_of(shape: str) -> bytes:
    """tokenizer.json as published: the larger models lack the 0.6B's last four tokens."""
    tokenizer = json.loads(tokenizer_json())
    if shape == "0.6b":
        return tokenizer_json()
    tokenizer["added_tokens"] = [added for added in tokenizer["added_tokens"] if added["id"] < VOCABULARY[shape]]
    return json.dumps(tokenizer, indent=2, ensure_ascii=False).encode()


def config_of(shape: str, tokenizer: bytes, layers: int | None) -> dict[str, Any]:
    """config.json as published, but for another number of layers where one is given."""
    changes = dict(SHAPES[shape])
    layers = layers or changes["num_hidden_layers"]
    return qwen3_config(tokenizer, **changes | {"num_hidden_layers": layers, "max_window_layers": layers})


@cache
def _pool(mean: float, std: float) -> memoryview:
    """BF16 normal numbers, in bytes."""
    values = np.random.default_rng(0).standard_normal(POOL, np.float32) * np.float32(std) + np.float32(mean)
    return memoryview(bf16(values).astype("<u2").tobytes())


def blocks(size: int, mean: float, std: float, dice: random.Random) -> Iterator[memoryview]:
    """Yield the bytes of a tensor: pieces of one pool of random values, each from another offset."""
    pool = _pool(mean, std)
    while size:
        n = min(size, BLOCK)
        start = 2 * dice.randrange(POOL - n + 1)
        yield pool[start : start + 2 * n]
        size -= n


def make_checkpoint(folder: Path, shape: str, layers: int | None = None) -> Path:
    """Write the checkpoint, where it is not there yet.

    folder  where to; made
    shape   a key of SHAPES
    layers  fewer or more than the model has
    returns folder
    """
    tokenizer = tokenizer_of(shape)
    config = config_of(shape, tokenizer, layers)
    # Alphabetical, as the published files have it.
    layout = sorted(qwen3_layout(config), key=lambda weights: weights.name)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for weights in layout:
        size = 2 * weights.size
        header[weights.name] = {"dtype": "BF16", "shape": list(weights.shape), "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    target = folder / "model.safetensors"
    if target.is_file() and target.stat().st_size == 8 + len(raw) + end:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    write_side_files(folder, config, tokenizer, "lasttoken")
    part = target.with_suffix(".part")
    dice = random.Random(0)
    with part.open("wb", buffering=0) as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for weights in layout:
            for block in blocks(weights.size, weights.mean, weights.std, dice):
                file.write(block)
    os.replace(part, target)
    return folder


def main() -> None:
    """Make the checkpoint that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, help="default: as many as the model has")
    options = parser.parse_args()
    print(make_checkpoint(options.out, options.shape, options.layers))


if __name__ == "__main__":
    main()
