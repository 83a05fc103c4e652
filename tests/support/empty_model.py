"""A GGUF with the tensor table of a published model and no weights: what a size check or a plan needs, in a few MB.

    python -m tests.support.empty_model 0.6b|4b|8b|minilm|bge-large [--quant Q4_K_M] [--layers N] [--folder DIR]

Names, shapes and types of the tensors are those that `qgguf convert` writes for the real checkpoint. The weights are a
hole in a sparse file and read as zeros; the vocabulary has the right length and made-up tokens. Prints the path.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qgguf.convert.architectures.bert import BERT
from qgguf.convert.architectures.qwen3 import QWEN3
from qgguf.convert.architectures.table import Architecture, parameter_value
from qgguf.convert.quant_recipes import FILE_TYPE_IDS, ModelShape, file_order, tensor_type
from qgguf.gguf_format.tensors import TYPE_IDS, TensorInfo
from qgguf.gguf_format.writer import Entry, aligned, header_bytes, lay_out
from qgguf.model.spec import Pooling

Config = dict[str, Any]


def _qwen3(dims: int, layers: int, heads: int, ffn: int, vocabulary: int, positions: int) -> Config:
    return {
        "hidden_size": dims,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": ffn,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "rope_theta": 1000000,
        "rms_norm_eps": 1e-6,
    }


def _bert(dims: int, layers: int, heads: int, ffn: int) -> Config:
    return {
        "hidden_size": dims,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
    }


SHAPES: dict[str, tuple[Architecture, str, Config]] = {
    "0.6b": (QWEN3, "Qwen3 Embedding 0.6B", _qwen3(1024, 28, 16, 3072, 151669, 32768)),
    "4b": (QWEN3, "Qwen3 Embedding 4B", _qwen3(2560, 36, 32, 9728, 151665, 40960)),
    "8b": (QWEN3, "Qwen3 Embedding 8B", _qwen3(4096, 36, 32, 12288, 151665, 40960)),
    "minilm": (BERT, "all MiniLM L6 v2", _bert(384, 6, 12, 1536)),
    "bge-large": (BERT, "bge large en v1.5", _bert(1024, 24, 16, 4096)),
}
"""name -> architecture, general.name, config.json's sizes"""


def make_empty_model(path: Path, shape: str, quant: str = "Q4_K_M", layers: int | None = None, **changes: int) -> Path:
    """Write the file, some MB of header and a hole.

    shape    a key of SHAPES
    layers   fewer or more of them than the real model has
    changes  other values of its config.json
    """
    architecture, name, config = SHAPES[shape]
    config = config | {"num_hidden_layers": layers or config["num_hidden_layers"]} | changes
    tensors = tensor_infos(architecture, config, quant)
    head = header_bytes(list(_entries(architecture, name, config, quant)), tensors)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + aligned(tensors[-1].offset + tensors[-1].size_bytes))
    return path


def tensor_infos(architecture: Architecture, config: Config, quant: str) -> list[TensorInfo]:
    """Return every tensor in the order and with the type that the converter gives it."""
    sizes = architecture.sizes(config)
    shapes = {}
    for weight in architecture.weights:
        # A checkpoint's shape is (rows, columns), GGUF's is (columns, rows).
        shape = tuple(sizes[key] for key in reversed(weight.shape))
        for layer in range(sizes["layers"]) if "{layer}" in weight.target else (0,):
            shapes[weight.target.format(layer=layer)] = shape
    model = ModelShape(sizes["layers"], sizes["heads"], sizes["kv_heads"])
    names = sorted(shapes, key=file_order)
    return lay_out((name, shapes[name], TYPE_IDS[tensor_type(quant, name, shapes[name], model)]) for name in names)


def _entries(architecture: Architecture, name: str, config: Config, quant: str) -> Iterator[Entry]:
    yield Entry.string("general.architecture", architecture.name)
    yield Entry.string("general.name", name)
    for parameter in architecture.parameters:
        key, value = f"{architecture.name}.{parameter.key}", parameter_value(config, parameter)
        yield Entry.u32(key, int(value)) if parameter.kind is int else Entry.f32(key, value)
    yield Entry.u32("general.file_type", FILE_TYPE_IDS[quant])
    for key, flag in architecture.extra:
        yield Entry.flag(f"{architecture.name}.{key}", flag)
    is_encoder = architecture is BERT
    yield Entry.u32(f"{architecture.name}.pooling_type", Pooling.MEAN if is_encoder else Pooling.LAST)
    tokens = [f"token{number}" for number in range(config["vocab_size"])]
    yield Entry.string("tokenizer.ggml.model", "bert" if is_encoder else "gpt2")
    yield Entry.string("tokenizer.ggml.pre", "jina-v2-en" if is_encoder else "qwen2")
    yield Entry.strings("tokenizer.ggml.tokens", tokens)
    yield Entry.i32s("tokenizer.ggml.token_type", [1] * len(tokens))
    if is_encoder:
        yield Entry.u32("tokenizer.ggml.token_type_count", 2)
        for key, number in (("unknown", 100), ("cls", 101), ("seperator", 102), ("padding", 0)):
            yield Entry.u32(f"tokenizer.ggml.{key}_token_id", number)
    else:
        yield Entry.strings("tokenizer.ggml.merges", ["to ken"])
        yield Entry.u32("tokenizer.ggml.eos_token_id", len(tokens) - 1)
        yield Entry.u32("tokenizer.ggml.padding_token_id", len(tokens) - 1)
        yield Entry.flag("tokenizer.ggml.add_eos_token", True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--quant", default="Q4_K_M", choices=FILE_TYPE_IDS)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--folder", type=Path, default=Path())
    given = parser.parse_args()
    path = given.folder / f"empty-{given.shape}-{given.quant}.gguf"
    print(make_empty_model(path, given.shape, given.quant, given.layers))


if __name__ == "__main__":
    main()
