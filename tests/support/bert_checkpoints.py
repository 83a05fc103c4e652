"""Small BERT checkpoints made in numpy: seeded weights, a WordPiece tokenizer of a few hundred tokens."""

import json
import string
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import as_dtype, random_weights, write_shards

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def bert_tokenizer() -> dict[str, Any]:
    """A tokenizer.json of BERT's kind: every letter, alone and as a continuation, and some words."""
    letters = string.ascii_lowercase + string.digits + string.punctuation + "éü한국어😉"
    words = [*SPECIAL, *letters, *("##" + letter for letter in letters if letter.isalnum()), "the", "##ing", "map"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}

    def token(name: str, kind: int = 0) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def text(name: str, kind: int = 0) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": kind}}

    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    around = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in ("[CLS]", "[SEP]")}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[name], "content": name, **flags} for name in SPECIAL],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token("[CLS]"), text("A"), token("[SEP]")],
            "pair": [token("[CLS]"), text("A"), token("[SEP]"), text("B", 1), token("[SEP]", 1)],
            "special_tokens": around,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def bert_tensors(config: dict[str, Any], seed: int, with_heads: bool) -> dict[str, np.ndarray]:
    dims, ffn = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], dims),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], dims),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], dims),
        "embeddings.LayerNorm.weight": (dims,),
        "embeddings.LayerNorm.bias": (dims,),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}."
        for name, rows, columns in (
            ("attention.self.query", dims, dims),
            ("attention.self.key", dims, dims),
            ("attention.self.value", dims, dims),
            ("attention.output.dense", dims, dims),
            ("intermediate.dense", ffn, dims),
            ("output.dense", dims, ffn),
        ):
            shapes[prefix + name + ".weight"], shapes[prefix + name + ".bias"] = (rows, columns), (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[prefix + name + ".weight"] = shapes[prefix + name + ".bias"] = (dims,)
    if with_heads:
        shapes |= {"pooler.dense.weight": (dims, dims), "pooler.dense.bias": (dims,)}
        shapes |= {"cls.predictions.bias": (config["vocab_size"],), "cls.seq_relationship.weight": (2, dims)}
    return {
        name: random_weights(name, shape, 0.05, seed) + np.float32("Norm.weight" in name)
        for name, shape in shapes.items()
    }


def make_bert_checkpoint(
    folder: Path,
    *,
    layers: int = 3,
    dims: int = 96,
    heads: int = 4,
    ffn: int = 256,
    positions: int = 64,
    seed: int = 0,
    dtype: str = "F32",
    prefix: str = "",
    shards: int = 1,
    with_heads: bool = False,
    old_norms: bool = False,
    pooling: str | None = "mean",
    vocab_size: int | None = None,
    tokenizer: dict[str, Any] | None = None,
) -> Path:
    """Write a small BERT checkpoint, and return its folder.

    with_heads  store pooler and language-model heads too
    old_norms   name layer norms gamma and beta, as the first BERTs do
    pooling     "mean", "cls", or None for a folder without the sentence-transformers files
    vocab_size  rows of the token embedding, where not the tokenizer's
    tokenizer   content of tokenizer.json, where not the small one
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer or bert_tokenizer()
    config = {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": dims,
        "intermediate_size": ffn,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": positions,
        "model_type": "bert",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
        "type_vocab_size": 2,
        "vocab_size": vocab_size or len(tokenizer["model"]["vocab"]),
    }
    tensors = {}
    for name, weights in bert_tensors(config, seed, with_heads).items():
        if old_norms:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        tensors[(prefix if not name.startswith("cls.") else "") + name] = as_dtype(weights, dtype)
    write_shards(folder, tensors, dtype, shards)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    config = {f"{kind}_token": name for kind, name in names.items()} | {"do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if pooling is not None:
        write_pooling(folder, dims, pooling)
    return folder


def write_pooling(folder: Path, dims: int, mode: str) -> None:
    """modules.json with Transformer, Pooling and Normalize."""
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    flags = {"pooling_mode_cls_token": mode == "cls", "pooling_mode_mean_tokens": mode == "mean"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": dims, **flags}))
