"""Random checkpoints have the published files around their weights, and weights of the published shape."""

import hashlib
import json
import random

import numpy as np
import pytest

from scripts.make_random_checkpoint import BLOCK, SHAPES, blocks, config_of, tokenizer_of
from tests.support.checkpoints import qwen3_layout

# source: the published repositories. SHA-256 of tokenizer.json and config.json, weights in model.safetensors
PUBLISHED = {
    "0.6b": ("def76fb086971c7867b829c23a26261e38d9d74e02139253b38aeb9df8b4b50a",
             "b5bf1f51fc45be473a54718cef92448d90a1be001bf9b9a44b8c7f10a19feaa9", 595_776_512),
    "4b": ("83cdf8c3a34f68862319cb1810ee7b1e2c0a44e0864ae930194ddb76bb7feb8d",
           "78d2861cbbfd80eee05839200c5a3b7ed64c789f6c1cab4fbb84cc4eae33eaf5", 4_021_774_336),
    "8b": ("83cdf8c3a34f68862319cb1810ee7b1e2c0a44e0864ae930194ddb76bb7feb8d",
           "dcccf7c7890c8debc4af8dace8d6acd8dd50bd56d50d4d8b60529381ba3de3d7", 7_567_295_488),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_files_are_the_published_ones(shape: str):
    tokenizer = tokenizer_of(shape)
    config = config_of(shape, tokenizer, None)
    texts = (tokenizer, (json.dumps(config, indent=2) + "\n").encode())
    n_weights = sum(weights.size for weights in qwen3_layout(config))
    assert (*[hashlib.sha256(text).hexdigest() for text in texts], n_weights) == PUBLISHED[shape]


def test_weights_are_tame_and_not_alike():
    """As many as asked for, of the mean and deviation asked for, and no row is another's copy."""
    rows, columns = 3 * BLOCK // 1024, 1024
    data = b"".join(blocks(rows * columns, 0.5, 1 / 32, random.Random(0)))
    values = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(rows, columns)
    assert abs(values.mean() - 0.5) < 1e-3 and abs(values.std() * 32 - 1) < 1e-2
    assert len(np.unique(values[:, :16], axis=0)) == rows
