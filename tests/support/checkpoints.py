"""Hugging Face checkpoints made in numpy: small Qwen3-Embedding folders with seeded weights.

The weights come from the raw output of PCG64, which numpy keeps stable, through integer arithmetic and one float32
product, so that every machine and numpy makes the same bytes and the golden vectors hold.
"""

import json
import lzma
import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).resolve().parent.parent / "data" / "qwen3-embedding-0.6b"
DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
Tensors = Mapping[str, np.ndarray]


def bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 as uint16, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 -> the stored form of a safetensors dtype."""
    return bf16(values) if dtype == "BF16" else values.astype(DTYPES[dtype])


def write_safetensors(path: Path, tensors: Tensors, dtype: str) -> Path:
    """Write tensors (already in their stored form) as one safetensors file, in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, offset + tensor.nbytes]}
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.tobytes())
    return path


def random_weights(name: str, shape: tuple[int, ...], std: float, seed: int) -> np.ndarray:
    """float32 weights of mean 0, the same on every machine; each name has a stream of its own.

    The difference of two 16-bit numbers has a triangular distribution: near enough to a normal one, and exact.
    """
    size = int(np.prod(shape))
    stream = np.random.PCG64([seed, zlib.crc32(name.encode())])
    raw = stream.random_raw((size + 1) // 2).astype("<u8").view("<u2").reshape(-1, 2)
    differences = raw[:size, 0].astype(np.int32) - raw[:size, 1]
    # 26755 = 65536 / sqrt(6), the standard deviation of such a difference.
    return (differences.astype(np.float32) * np.float32(std / 26755)).reshape(shape)


def tokenizer_json() -> bytes:
    """The real tokenizer.json of Qwen3-Embedding-0.6B, as published."""
    return lzma.decompress((DATA / "tokenizer.json.xz").read_bytes())


def small_tokenizer_json(n_merges: int = 1792) -> bytes:
    """The real tokenizer cut to its 256 bytes, first merges and added tokens; ids are consecutive."""
    tokenizer = json.loads(tokenizer_json())
    model = tokenizer["model"]
    model["merges"] = model["merges"][:n_merges]
    # In this vocabulary token 256 + i is what merge i makes.
    size = 256 + n_merges
    model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    new_ids = {}
    for position, added in enumerate(tokenizer["added_tokens"]):
        added["id"] = new_ids[added["content"]] = size + position
    template = tokenizer["post_processor"]["processors"][1]["special_tokens"]
    for token, entry in template.items():
        entry["ids"] = [new_ids[token]]
    return json.dumps(tokenizer, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Weights:
    """A tensor of a checkpoint: its values scatter by `std` about `mean`."""

    name: str
    shape: tuple[int, ...]
    mean: float
    std: float

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


def qwen3_layout(config: Mapping[str, Any]) -> Iterator[Weights]:
    """Names and shapes of a Qwen3 body, scaled to be lively and tame.

    Gains are chosen so that attention looks at some tokens more than at others and each text's last token moves far
    from the embedding that all texts share; activations stay near 1 through any number of layers.
    """
    dims, head_dim, ffn = config["hidden_size"], config["head_dim"], config["intermediate_size"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim

    def linear(name: str, rows: int, columns: int) -> Weights:
        return Weights(name, (rows, columns), 0.0, 1.0 / math.sqrt(columns))

    def norm(name: str, size: int, mean: float = 1.0) -> Weights:
        return Weights(name, (size,), mean, 0.1)

    yield Weights("embed_tokens.weight", (config["vocab_size"], dims), 0.0, 0.05)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}."
        yield norm(prefix + "input_layernorm.weight", dims)
        yield linear(prefix + "mlp.down_proj.weight", dims, ffn)
        yield linear(prefix + "mlp.gate_proj.weight", ffn, dims)
        yield linear(prefix + "mlp.up_proj.weight", ffn, dims)
        yield norm(prefix + "post_attention_layernorm.weight", dims)
        yield norm(prefix + "self_attn.k_norm.weight", head_dim)
        yield linear(prefix + "self_attn.k_proj.weight", keys, dims)
        yield linear(prefix + "self_attn.o_proj.weight", dims, queries)
        yield norm(prefix + "self_attn.q_norm.weight", head_dim, 1.5)
        yield linear(prefix + "self_attn.q_proj.weight", queries, dims)
        yield linear(prefix + "self_attn.v_proj.weight", keys, dims)
    yield norm("norm.weight", dims)


def qwen3_tensors(config: Mapping[str, Any], seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """Names and float32 weights of a Qwen3 body."""
    for weights in qwen3_layout(config):
        values = random_weights(weights.name, weights.shape, weights.std, seed)
        yield weights.name, values if weights.mean == 0 else np.float32(weights.mean) + values


def qwen3_config(tokenizer_file: bytes, **changes: Any) -> dict[str, Any]:
    """The real config.json with some values changed and the vocabulary's size and end token those of the tokenizer."""
    config: dict[str, Any] = json.loads((DATA / "config.json").read_text())
    tokenizer = json.loads(tokenizer_file)
    end = next(added["id"] for added in tokenizer["added_tokens"] if added["content"] == "<|endoftext|>")
    size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    config |= {"vocab_size": size, "bos_token_id": end, "eos_token_id": end}
    return dict(sorted((config | changes).items()))


# What a reader needs of the published tokenizer_config.json. Its eos is not the token that ends a text: a trap.
TOKENIZER_CONFIG = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "bos_token": None,
    "chat_template": "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>\n{% endfor %}",
    "clean_up_tokenization_spaces": False,
    "eos_token": "<|im_end|>",
    "errors": "replace",
    "model_max_length": 131072,
    "pad_token": "<|endoftext|>",
    "split_special_tokens": False,
    "tokenizer_class": "Qwen2Tokenizer",
    "unk_token": None,
}


def write_side_files(folder: Path, config: Mapping[str, Any], tokenizer: bytes, pooling: str | None) -> None:
    """config.json, the tokenizer and the sentence-transformers files, laid out as in the published folder."""
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "tokenizer.json").write_bytes(tokenizer)
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")
    if pooling is None:
        return
    for name in ("modules.json", "config_sentence_transformers.json"):
        (folder / name).write_bytes((DATA / name).read_bytes())
    declared = json.loads((DATA / "1_Pooling" / "config.json").read_text())
    declared["word_embedding_dimension"] = config["hidden_size"]
    modes = {"lasttoken": "lasttoken", "mean": "mean_tokens", "cls": "cls_token"}
    for mode, key in modes.items():
        declared["pooling_mode_" + key] = mode == pooling
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(declared, indent=4))


def write_shards(folder: Path, tensors: Tensors, dtype: str, shards: int) -> None:
    """model.safetensors, or that many shards with their index."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return
    weight_map, items = {}, list(tensors.items())
    for shard in range(shards):
        name = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(items[shard * len(items) // shards : (shard + 1) * len(items) // shards])
        write_safetensors(folder / name, part, dtype)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def make_qwen3_checkpoint(
    folder: Path,
    *,
    layers: int = 3,
    dims: int = 256,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 64,
    ffn: int = 768,
    seed: int = 0,
    dtype: str = "BF16",
    prefix: str = "",
    shards: int = 1,
    tied: bool = True,
    with_head: bool = False,
    small_vocab: bool = False,
    pooling: str | None = "lasttoken",
    architecture: str = "Qwen3ForCausalLM",
) -> Path:
    """Write a Qwen3-Embedding checkpoint of a small shape, and return its folder.

    dims, ffn    multiples of 256 by default, so that K-quants need no fallback; 64 and 96 make them fall back
    prefix       put before tensor names: "" as published, "model." as fine-tunes have it
    tied         tie_word_embeddings in config.json
    with_head    store lm_head.weight too
    small_vocab  2074 tokens in place of 151669: a checkpoint of 2 MB in place of 80
    pooling      "lasttoken", "mean", "cls", or None for a folder without the sentence-transformers files
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = small_tokenizer_json() if small_vocab else tokenizer_json()
    config = qwen3_config(
        tokenizer,
        architectures=[architecture],
        head_dim=head_dim,
        hidden_size=dims,
        intermediate_size=ffn,
        max_window_layers=layers,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        torch_dtype={"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
    )
    tensors = {prefix + name: as_dtype(weights, dtype) for name, weights in qwen3_tensors(config, seed)}
    if with_head:
        tensors["lm_head.weight"] = as_dtype(
            random_weights("lm_head.weight", (config["vocab_size"], dims), 0.05, seed), dtype
        )
    write_side_files(folder, config, tokenizer, pooling)
    write_shards(folder, tensors, dtype, shards)
    return folder
