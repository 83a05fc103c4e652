"""A small Llama with random weights: its GGUF file, and its vectors computed in numpy."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.support.gguf_bytes import gguf, save

N_LAYERS, DIMS, HEADS, KV_HEADS, FFN, VOCAB = 2, 64, 4, 2, 96, 300
HEAD_DIM, KV_DIMS = DIMS // HEADS, DIMS // HEADS * KV_HEADS
EPSILON, ROPE_BASE = 1e-5, 10_000.0


class LlamaTwin:
    """Weights by GGUF name, float32. Queries and keys are in llama.cpp's order: neighbours are rotated as pairs."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB, DIMS), "output_norm.weight": (DIMS,)}
        for layer in range(N_LAYERS):
            for name, shape in (
                ("attn_norm", (DIMS,)), ("attn_q", (DIMS, DIMS)), ("attn_k", (KV_DIMS, DIMS)),
                ("attn_v", (KV_DIMS, DIMS)), ("attn_output", (DIMS, DIMS)), ("ffn_norm", (DIMS,)),
                ("ffn_gate", (FFN, DIMS)), ("ffn_up", (FFN, DIMS)), ("ffn_down", (DIMS, FFN)),
            ):  # fmt: skip
                shapes[f"blk.{layer}.{name}.weight"] = shape
        self.weights = {
            name: (random.normal(0, 0.25, shape) + ("norm" in name)).astype(np.float32)
            for name, shape in shapes.items()
        }

    def save(self, path: Path, architecture: str, **metadata: Any) -> Path:
        """Write the GGUF file. `metadata` has keys of the architecture, with "__" for a dot, or of the tokenizer."""
        sizes = {
            "block_count": N_LAYERS, "context_length": 2048, "embedding_length": DIMS, "feed_forward_length": FFN,
            "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.freq_base": ROPE_BASE,
            "attention.layer_norm_rms_epsilon": EPSILON, "rope.dimension_count": HEAD_DIM,
        }  # fmt: skip
        own = {
            name if name.startswith(("general.", "tokenizer.")) else f"{architecture}.{name}": value
            for name, value in ((key.replace("__", "."), value) for key, value in (sizes | metadata).items())
        }
        vocabulary = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "llama-bpe",
            "tokenizer.ggml.tokens": [f"token{number}" for number in range(VOCAB)],
            "tokenizer.ggml.merges": ["to ken"],
            "tokenizer.ggml.add_bos_token": False,
        }
        return save(path, gguf({"general.architecture": architecture} | vocabulary | own, self.weights))

    def rows(self, ids: np.ndarray, *, causal: bool) -> np.ndarray:
        """Return the rows of a text's tokens after the final norm: (n_tokens, DIMS) float64."""
        weights = {name: array.astype(np.float64) for name, array in self.weights.items()}
        n = len(ids)
        mask = np.where(np.tri(n, dtype=bool), 0, -np.inf) if causal else np.zeros((n, n))
        hidden = weights["token_embd.weight"][ids]
        for layer in range(N_LAYERS):
            own = {name: weights[f"blk.{layer}.{name}.weight"] for name in (
                "attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down",
            )}  # fmt: skip
            normed = _rms_norm(hidden) * own["attn_norm"]
            q = _rotated((normed @ own["attn_q"].T).reshape(n, HEADS, HEAD_DIM))
            k = _rotated((normed @ own["attn_k"].T).reshape(n, KV_HEADS, HEAD_DIM))
            v = (normed @ own["attn_v"].T).reshape(n, KV_HEADS, HEAD_DIM)
            k, v = (np.repeat(part, HEADS // KV_HEADS, axis=1) for part in (k, v))
            scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(HEAD_DIM) + mask
            shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            attended = np.einsum("hij,jhd->ihd", shares, v).reshape(n, DIMS)
            hidden = hidden + attended @ own["attn_output"].T
            normed = _rms_norm(hidden) * own["ffn_norm"]
            gate = normed @ own["ffn_gate"].T
            hidden = hidden + (gate / (1 + np.exp(-gate)) * (normed @ own["ffn_up"].T)) @ own["ffn_down"].T
        return _rms_norm(hidden) * weights["output_norm.weight"]


def _rms_norm(rows: np.ndarray) -> np.ndarray:
    return rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + EPSILON)


def _rotated(heads: np.ndarray) -> np.ndarray:
    frequencies = ROPE_BASE ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angles = np.arange(len(heads))[:, None, None] * frequencies
    even, odd = heads[..., 0::2], heads[..., 1::2]
    turned = np.empty_like(heads)
    turned[..., 0::2] = even * np.cos(angles) - odd * np.sin(angles)
    turned[..., 1::2] = even * np.sin(angles) + odd * np.cos(angles)
    return turned
