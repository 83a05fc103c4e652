"""GGUF files written by hand, byte for byte, so that a test can also write wrong ones."""

import struct
from pathlib import Path

import numpy as np

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def text(value: str) -> bytes:
    raw = value.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def value(item) -> bytes:
    """A value with its type before it: bool, int (u32), float (f32), str, or a list of one of these."""
    if isinstance(item, bool):
        return struct.pack("<I?", BOOL, item)
    if isinstance(item, int):
        return struct.pack("<II", U32, item) if item >= 0 else struct.pack("<Ii", I32, item)
    if isinstance(item, float):
        return struct.pack("<If", F32, item)
    if isinstance(item, str):
        return struct.pack("<I", STRING) + text(item)
    inner = [value(one) for one in item]
    kind = inner[0][:4] if inner else struct.pack("<I", U32)
    return struct.pack("<I", ARRAY) + kind + struct.pack("<Q", len(inner)) + b"".join(one[4:] for one in inner)


def gguf(metadata: dict, tensors: dict[str, np.ndarray] | None = None, *, version: int = 3) -> bytes:
    """A whole file; tensors are stored as float32 in numpy's shape, reversed as ggml counts."""
    tensors = tensors or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(key) + value(item) for key, item in metadata.items())
    body = b""
    for name, array in tensors.items():
        shape = array.shape[::-1]
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(body))
        body += pad(array.astype("<f4").tobytes())
    return pad(head) + body


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 32)


def save(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


QWEN3 = {
    "general.architecture": "qwen3",
    "general.name": "Qwen3 Embedding 0.6B",
    "qwen3.block_count": 28,
    "qwen3.context_length": 32768,
    "qwen3.embedding_length": 1024,
    "qwen3.attention.head_count": 16,
    "qwen3.attention.head_count_kv": 8,
    "qwen3.attention.key_length": 128,
    "general.file_type": 15,
    "qwen3.pooling_type": 3,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "é", "한", "😉", "<|endoftext|>", "<|im_end|>"],
    "tokenizer.ggml.eos_token_id": 4,
    "tokenizer.ggml.padding_token_id": 4,
    "tokenizer.ggml.add_eos_token": True,
}
"""The header of a valid Qwen3-Embedding file, with six tokens."""
