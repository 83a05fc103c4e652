"""The checkpoints that llama.cpp's own converter was run on, and how a GGUF is boiled down for comparing.

Imported by the test and, where torch lives, by scripts/make_reference_metadata.py: numpy and gguf only.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.bert_checkpoints import make_bert_checkpoint
from tests.support.checkpoints import make_qwen3_checkpoint

_CARD = """---
license: apache-2.0
language:
- en
- ko
base_model:
- Qwen/Qwen3-0.6B-Base
- https://huggingface.co/Qwen/Qwen3-4B-Base
datasets: sentence-transformers/all-nli
tags:
- transformers
- sentence-transformers
- text-embeddings-inference
pipeline_tag: feature-extraction
---
# Qwen3-Embedding-0.6B: é, 한, 😉
"""
_GENERATION = {"bos_token_id": 151643, "max_new_tokens": 2048, "temperature": 0.6, "top_k": 20, "top_p": 0.95}


def qwen3_with_card(folder: Path, _minilm: Path) -> Path:
    """The published folder's make-up with the real tokenizer, a model card and a generation_config.json."""
    folder = folder / "Qwen3-Embedding-0.6B"
    make_qwen3_checkpoint(
        folder, layers=2, dims=64, heads=4, kv_heads=2, head_dim=32, ffn=96, prefix="model.", shards=2
    )
    (folder / "README.md").write_text(_CARD, encoding="utf-8")
    (folder / "generation_config.json").write_text(json.dumps(_GENERATION))
    return folder


def bert_by_any_name(folder: Path, minilm: Path) -> Path:
    """BertForPreTraining's names and heads, first-token pooling, a folder name without meaning, the real tokenizer.

    Eight rows more than there are tokens: the vocabulary is filled up.
    """
    tokenizer = json.loads((minilm / "tokenizer.json").read_text(encoding="utf-8"))
    return make_bert_checkpoint(
        folder / "my encoder",
        dims=32,
        ffn=64,
        layers=2,
        prefix="bert.",
        with_heads=True,
        old_norms=True,
        pooling="cls",
        vocab_size=30530,
        tokenizer=tokenizer,
    )


# name -> (maker, quantisation that llama.cpp's converter can write itself)
MADE = {
    "qwen3-with-card BF16": (qwen3_with_card, "BF16"),
    "bert-by-any-name F16": (bert_by_any_name, "F16"),
    "bert-by-any-name Q8_0": (bert_by_any_name, "Q8_0"),
}
MINILM = "minilm F32"


def boiled_down(path: Path) -> dict[str, Any]:
    """Every value and tensor of a GGUF, long ones as length and SHA-256. Read by gguf-py, not by our own reader."""
    import gguf

    reader = gguf.GGUFReader(path)
    values = {
        key: [[kind.name for kind in field.types], _short(field.contents())]
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    }
    tensors = {
        tensor.name: [
            tensor.tensor_type.name,
            [int(n) for n in tensor.shape],
            _sha256(np.asarray(tensor.data).tobytes()),
        ]
        for tensor in reader.tensors
    }
    return {"values": values, "tensors": dict(sorted(tensors.items()))}


def _short(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False)
    return {"length": len(value), "sha256": _sha256(text.encode())} if len(text) > 400 else value


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
