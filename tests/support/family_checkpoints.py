"""A small random checkpoint of each family of embedding models: for transformers, and as the GGUF file of it.

Weights are seeded and bit-stable (tests/support/checkpoints.py). BERT and Qwen3 go through qgguf's own converter. The
other files have the names, keys and changes of weights that llama.cpp's converter gives them (conversion/*.py there).
scripts/make_family_vectors.py makes the vectors that tests/test_families.py compares with.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers as tokenizers_package

from tests.support import family_tokenizers as tokenizers
from tests.support.bert_checkpoints import write_pooling
from tests.support.checkpoints import random_weights, write_safetensors
from tests.support.texts import CODE, EDGES, LANGUAGES, LONG, QUERIES, SIGNS

Json = dict[str, Any]
Change = Callable[[np.ndarray], np.ndarray]

MAX_TOKENS = 256
DIMS, HEADS, KV_HEADS, HEAD_DIM, FFN, LAYERS = 64, 4, 2, 16, 96, 3

_LANGUAGES = (
    "english", "german", "vietnamese", "russian", "arabic", "hindi", "thai", "burmese", "chinese", "japanese",
    "korean", "hungarian",
)  # fmt: skip
_SIGNS = ("emoji", "combining", "zalgo", "mixed_directions", "full_width", "invisible", "contractions", "capitals")
TEXTS = {
    **{name: LANGUAGES[name] for name in _LANGUAGES},
    **{name: CODE[name] for name in ("python", "html")},
    **{name: SIGNS[name] for name in _SIGNS},
    **{name: EDGES[name] for name in ("empty", "whitespace", "newlines", "nul", "long_word")},
    "one_token": "é",
    "question": QUERIES["query_korean"],
    # A text that names control tokens is a text.
    "control_tokens": "<s> a </s> <pad><mask> [CLS] b [SEP][MASK] <|endoftext|> <bos>c<eos> <unk>[UNK] [PAD] "
    "<|begin_of_text|>é<|end_of_text|><|im_start|>한<|im_end|> 😉 [PAD9]",
    # Tokens that a text may name, each of another family.
    "user_tokens": "x<think>why</think> a  b     c\n\n\n\nd <table>1</table> |||EMAIL_ADDRESS||| [ENT]",
    "over_256_tokens": LONG["over_256_tokens"],
}
# Without a frame an empty text has no token, and no vector.
FRAMELESS_TEXTS = {name: text for name, text in TEXTS.items() if text}


def _as_it_is(weights: np.ndarray) -> np.ndarray:
    return weights


@dataclass(frozen=True)
class Tensor:
    """A tensor: its name in the checkpoint and in the GGUF file, its values, and how the file stores them."""

    name: str
    gguf_name: str
    shape: tuple[int, ...]
    mean: float
    std: float
    change: Change = _as_it_is

    def values(self, seed: int) -> np.ndarray:
        """The checkpoint's float32 values."""
        return np.float32(self.mean) + random_weights(self.name, self.shape, self.std, seed)


def matrix(name: str, gguf_name: str, rows: int, columns: int, gain: float = 1.0, change: Change = _as_it_is) -> Tensor:
    """A linear layer's weights, which keep the size of what goes through."""
    return Tensor(name + ".weight", gguf_name + ".weight", (rows, columns), 0.0, gain / math.sqrt(columns), change)


def bias(name: str, gguf_name: str, size: int) -> Tensor:
    return Tensor(name + ".bias", gguf_name + ".bias", (size,), 0.0, 0.1)


def norm(name: str, gguf_name: str, size: int, mean: float = 1.0, change: Change = _as_it_is) -> Tensor:
    return Tensor(name + ".weight", gguf_name + ".weight", (size,), mean, 0.2, change)


def embedding(name: str, gguf_name: str, rows: int, std: float = 1.0, change: Change = _as_it_is) -> Tensor:
    return Tensor(name + ".weight", gguf_name + ".weight", (rows, DIMS), 0.0, std, change)


@dataclass(frozen=True)
class FamilyCheckpoint:
    """A checkpoint and what its GGUF file must have.

    architecture   general.architecture
    config         config.json, as transformers reads it
    tokenizer      tokenizer.json
    pooling        "mean", "cls" or "last"
    layout         the tensors, those of Dense layers apart
    metadata       the file's header, general.architecture apart; None: qgguf's converter makes the file
    dense          Dense layers after the pooling, in order
    bidirectional  the model attends to all tokens, which its config.json does not say
    frameless      its tokenizer puts no token around a text
    choices        arguments of Embedder: what a file of this family does not say
    """

    architecture: str
    config: Json
    tokenizer: Json
    pooling: str
    layout: tuple[Tensor, ...]
    metadata: Json | None
    dense: tuple[Tensor, ...] = ()
    bidirectional: bool = False
    frameless: bool = False
    choices: Mapping[str, str] = field(default_factory=dict)
    side_files: Mapping[str, Json] = field(default_factory=dict)

    @property
    def texts(self) -> dict[str, str]:
        """Name -> text of those that the vectors are of."""
        return FRAMELESS_TEXTS if self.frameless else TEXTS

    def reference(self, *, cut: bool) -> tokenizers_package.Tokenizer:
        """Hugging Face's tokenizer, to which a text that names a special token is a text.

        cut  to the model's limit, the special tokens around the text kept
        """
        plain = tokenizers.for_plain_text(self.tokenizer)
        reference = tokenizers_package.Tokenizer.from_str(json.dumps(plain))
        reference.encode_special_tokens = True
        if cut:
            reference.enable_truncation(MAX_TOKENS)
        return reference

    def tensors(self, layout: tuple[Tensor, ...] | None = None) -> dict[str, np.ndarray]:
        """Name -> float32 values in the checkpoint."""
        return {tensor.name: tensor.values(0) for tensor in (self.layout if layout is None else layout)}

    def sha256(self) -> str:
        """The digest of all that the reference read."""
        digest = hashlib.sha256(json.dumps([self.config, self.tokenizer, self.pooling], sort_keys=True).encode())
        for name, values in self.tensors((*self.layout, *self.dense)).items():
            digest.update(name.encode() + values.tobytes())
        return digest.hexdigest()

    def write(self, folder: Path) -> Path:
        """Write the checkpoint's folder, Dense layers apart."""
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", self.tensors(), "F32")
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "tokenizer.json").write_text(json.dumps(self.tokenizer, ensure_ascii=False), encoding="utf-8")
        for name, content in self.side_files.items():
            (folder / name).write_text(json.dumps(content))
        write_pooling(folder, DIMS, self.pooling)
        if self.pooling == "last":
            (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
        return folder

    def save_gguf(self, path: Path) -> Path:
        """Write the GGUF file, all weights in F32."""
        if self.metadata is None:
            from qgguf import convert_checkpoint

            return convert_checkpoint(self.write(path.with_suffix("")), path, quant="F32")
        from gguf import GGUFWriter

        writer = GGUFWriter(path, self.architecture)
        for key, value in self.metadata.items():
            _add(writer, key, value)
        for tensor in (*self.layout, *self.dense):
            writer.add_tensor(tensor.gguf_name, np.ascontiguousarray(tensor.change(tensor.values(0))))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


_POOLINGS = {"mean": 1, "cls": 2, "last": 3}


def _header(architecture: str, name: str, vocabulary: Json, own: Json, *, layers: int = LAYERS) -> Json:
    """The keys that all files have, the vocabulary, and those of the architecture, its name before them."""
    sizes = {
        "block_count": layers,
        "context_length": MAX_TOKENS,
        "embedding_length": DIMS,
        "feed_forward_length": FFN,
        "attention.head_count": HEADS,
    }
    general = {"general.type": "model", "general.name": name, "general.file_type": 0, "general.quantization_version": 2}
    return general | {f"{architecture}.{key}": value for key, value in (sizes | own).items()} | vocabulary


def _frame(bos: bool, eos: bool, **others: bool) -> Json:
    flags = {"bos": bos, "eos": eos} | others
    return {f"tokenizer.ggml.add_{role}_token": value for role, value in flags.items()}


# ---- Encoders with BERT's graph

_BERT_LAYER = (
    ("attention.self.query", "attn_q", DIMS, DIMS),
    ("attention.self.key", "attn_k", DIMS, DIMS),
    ("attention.self.value", "attn_v", DIMS, DIMS),
    ("attention.output.dense", "attn_output", DIMS, DIMS),
    ("attention.output.LayerNorm", "attn_output_norm", DIMS, 0),
    ("intermediate.dense", "ffn_up", FFN, DIMS),
    ("output.dense", "ffn_down", DIMS, FFN),
    ("output.LayerNorm", "layer_output_norm", DIMS, 0),
)
_DISTILBERT_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def _bert_layout(n_rows: int, *, offset: int = 0, distilbert: bool = False) -> Iterator[Tensor]:
    """BERT's tensors. offset: rows of the positions that no text reaches, which the file leaves out."""
    yield embedding("embeddings.word_embeddings", "token_embd", n_rows)
    yield embedding(
        "embeddings.position_embeddings", "position_embd", MAX_TOKENS + offset, 0.5, lambda rows: rows[offset:]
    )
    if not distilbert:
        yield embedding("embeddings.token_type_embeddings", "token_types", 1 if offset else 2, 0.3)
    yield norm("embeddings.LayerNorm", "token_embd_norm", DIMS)
    yield bias("embeddings.LayerNorm", "token_embd_norm", DIMS)
    for layer in range(LAYERS):
        prefix = f"transformer.layer.{layer}." if distilbert else f"encoder.layer.{layer}."
        for name, gguf_name, rows, columns in _BERT_LAYER:
            full = prefix + (_DISTILBERT_NAMES[name] if distilbert else name)
            stored = f"blk.{layer}.{gguf_name}"
            gain = 0.5 if gguf_name == "ffn_down" else 2.0
            yield matrix(full, stored, rows, columns, gain) if columns else norm(full, stored, rows)
            yield bias(full, stored, rows)


def _bert_config(model_type: str, architecture: str, n_rows: int, **changes: Any) -> Json:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "gelu",
        "hidden_size": DIMS,
        "intermediate_size": FFN,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": MAX_TOKENS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": n_rows,
    } | changes


_BERT_ROLES = {"bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]", "unk": "[UNK]"}


def _gguf_roles(roles: Mapping[str, str]) -> dict[str, str]:
    """The roles as the format spells them."""
    names = {"pad": "padding", "unk": "unknown", "sep": "seperator"}
    return {names.get(role, role): token for role, token in roles.items()}


def _wordpiece_vocabulary(tokenizer: Json, n_rows: int, n_types: int) -> Json:
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "bert", "bert-bge", n_rows, _gguf_roles(_BERT_ROLES))
    own = {
        "tokenizer.ggml.token_type_count": n_types,
        "tokenizer.ggml.normalizer.lowercase": tokenizer["normalizer"]["lowercase"],
    }
    return vocabulary | own | _frame(True, True)


def _bert(pooling: str) -> FamilyCheckpoint:
    tokenizer = tokenizers.wordpiece(lowercase=True)
    n_rows = tokenizers.n_tokens(tokenizer)
    return FamilyCheckpoint(
        architecture="bert",
        config=_bert_config("bert", "BertModel", n_rows, layer_norm_eps=1e-12),
        tokenizer=tokenizer,
        pooling=pooling,
        layout=tuple(_bert_layout(n_rows)),
        metadata=None,
        side_files={"tokenizer_config.json": {"do_lower_case": True}},
    )


def _distilbert() -> FamilyCheckpoint:
    """A cased one, with a token that a fine-tune added."""
    tokenizer = tokenizers.wordpiece(lowercase=False, user_tokens=["[ENT]"])
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = _wordpiece_vocabulary(tokenizer, n_rows, 1)
    own = {"attention.layer_norm_epsilon": 1e-12, "attention.causal": False, "pooling_type": _POOLINGS["mean"]}
    config = {
        "architectures": ["DistilBertModel"],
        "model_type": "distilbert",
        "activation": "gelu",
        "dim": DIMS,
        "hidden_dim": FFN,
        "max_position_embeddings": MAX_TOKENS,
        "n_heads": HEADS,
        "n_layers": LAYERS,
        "pad_token_id": 0,
        "sinusoidal_pos_embds": False,
        "vocab_size": n_rows,
    }
    return FamilyCheckpoint(
        architecture="bert",
        config=config,
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_bert_layout(n_rows, distilbert=True)),
        metadata=_header("bert", "small DistilBERT", vocabulary, own),
    )


_ROBERTA_ROLES = {
    "bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>",
}  # fmt: skip


def _roberta_like(
    model_type: str, architecture: str, pooling: str, tokenizer: Json, vocabulary: Json
) -> FamilyCheckpoint:
    """XLM-RoBERTa or RoBERTa: positions begin at 2, a single token type."""
    n_rows = len(vocabulary["tokenizer.ggml.tokens"])
    own = {"attention.layer_norm_epsilon": 1e-5, "attention.causal": False, "pooling_type": _POOLINGS[pooling]}
    vocabulary = vocabulary | {"tokenizer.ggml.token_type_count": 1}
    config = _bert_config(
        model_type,
        architecture,
        n_rows,
        pad_token_id=1,
        type_vocab_size=1,
        max_position_embeddings=MAX_TOKENS + 2,
    )
    return FamilyCheckpoint(
        architecture="bert",
        config=config,
        tokenizer=tokenizer,
        pooling=pooling,
        layout=tuple(_bert_layout(n_rows, offset=2)),
        metadata=_header("bert", f"small {model_type}", vocabulary, own),
    )


def _unigram_vocabulary(tokenizer: Json, n_rows: int, *, from_sentencepiece: bool) -> Json:
    """The vocabulary of XLM-RoBERTa in a file.

    from_sentencepiece  the rule of the spaces was read from sentencepiece.bpe.model; a tokenizer.json does not have it
    """
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "t5", "default", n_rows, _gguf_roles(_ROBERTA_ROLES))
    return vocabulary | {
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": from_sentencepiece,
        "tokenizer.ggml.precompiled_charsmap": tokenizers.charsmap_of_sentencepiece(),
        **_frame(True, True),
    }


def _xlm_roberta(pooling: str) -> FamilyCheckpoint:
    """Some rows more than tokens, as many published ones have."""
    tokenizer = tokenizers.unigram()
    n_rows = tokenizers.n_tokens(tokenizer) + 3
    vocabulary = _unigram_vocabulary(tokenizer, n_rows, from_sentencepiece=pooling == "mean")
    return _roberta_like("xlm-roberta", "XLMRobertaModel", pooling, tokenizer, vocabulary)


def _multilingual_bert() -> FamilyCheckpoint:
    """BERT with XLM-RoBERTa's tokenizer: multilingual-e5-small, paraphrase-multilingual-MiniLM."""
    tokenizer = tokenizers.unigram()
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = _unigram_vocabulary(tokenizer, n_rows, from_sentencepiece=False)
    vocabulary["tokenizer.ggml.token_type_count"] = 2
    own = {"attention.layer_norm_epsilon": 1e-12, "attention.causal": False, "pooling_type": _POOLINGS["mean"]}
    return FamilyCheckpoint(
        architecture="bert",
        config=_bert_config("bert", "BertModel", n_rows, layer_norm_eps=1e-12),
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_bert_layout(n_rows)),
        metadata=_header("bert", "small multilingual BERT", vocabulary, own),
    )


def _roberta(pooling: str) -> FamilyCheckpoint:
    tokenizer = tokenizers.roberta()
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "gpt2", "roberta-bpe", n_rows, _gguf_roles(_ROBERTA_ROLES))
    frame = _frame(True, True, sep=True)
    return _roberta_like("roberta", "RobertaModel", pooling, tokenizer, vocabulary | frame)


# ---- Encoders with a graph of their own


def _nomic_layout(n_rows: int) -> Iterator[Tensor]:
    yield embedding("embeddings.word_embeddings", "token_embd", n_rows)
    yield embedding("embeddings.token_type_embeddings", "token_types", 2, 0.5)
    yield norm("emb_ln", "token_embd_norm", DIMS)
    yield bias("emb_ln", "token_embd_norm", DIMS)
    for layer in range(LAYERS):
        name, stored = f"encoder.layers.{layer}.", f"blk.{layer}."
        yield matrix(name + "attn.Wqkv", stored + "attn_qkv", 3 * DIMS, DIMS, 1.5)
        yield matrix(name + "attn.out_proj", stored + "attn_output", DIMS, DIMS, 1.5)
        yield norm(name + "norm1", stored + "attn_output_norm", DIMS)
        yield bias(name + "norm1", stored + "attn_output_norm", DIMS)
        yield matrix(name + "mlp.fc11", stored + "ffn_up", FFN, DIMS, 1.5)
        yield matrix(name + "mlp.fc12", stored + "ffn_gate", FFN, DIMS, 1.5)
        yield matrix(name + "mlp.fc2", stored + "ffn_down", DIMS, FFN, 0.5)
        yield norm(name + "norm2", stored + "layer_output_norm", DIMS)
        yield bias(name + "norm2", stored + "layer_output_norm", DIMS)


def _nomic_bert() -> FamilyCheckpoint:
    tokenizer = tokenizers.wordpiece(lowercase=True)
    n_rows = tokenizers.n_tokens(tokenizer) + 2
    vocabulary = _wordpiece_vocabulary(tokenizer, n_rows, 2)
    own = {
        "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False,
        "pooling_type": _POOLINGS["mean"],
        "rope.freq_base": 1000.0,
    }
    config = _bert_config("nomic_bert", "NomicBertModel", n_rows, layer_norm_eps=1e-12, hidden_act="silu")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1000.0}
    return FamilyCheckpoint(
        architecture="nomic-bert",
        config=config,
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_nomic_layout(n_rows)),
        metadata=_header("nomic-bert", "small nomic-embed", vocabulary, own),
    )


def _jina_v3_layout(n_rows: int) -> Iterator[Tensor]:
    yield embedding("embeddings.word_embeddings", "token_embd", n_rows)
    yield embedding("embeddings.token_type_embeddings", "token_types", 1, 0.3)
    yield norm("emb_ln", "token_embd_norm", DIMS)
    yield bias("emb_ln", "token_embd_norm", DIMS)
    for layer in range(LAYERS):
        name, stored = f"encoder.layers.{layer}.", f"blk.{layer}."
        for part, gguf_name, rows, columns, gain in (
            ("mixer.Wqkv", "attn_qkv", 3 * DIMS, DIMS, 2.0),
            ("mixer.out_proj", "attn_output", DIMS, DIMS, 2.0),
            ("norm1", "attn_output_norm", DIMS, 0, 0.0),
            ("mlp.fc1", "ffn_up", FFN, DIMS, 2.0),
            ("mlp.fc2", "ffn_down", DIMS, FFN, 0.5),
            ("norm2", "layer_output_norm", DIMS, 0, 0.0),
        ):
            own = stored + gguf_name
            yield matrix(name + part, own, rows, columns, gain) if columns else norm(name + part, own, rows)
            yield bias(name + part, own, rows)


def _jina_v3() -> FamilyCheckpoint:
    """The base, without its task adapters, which a GGUF file does not have."""
    tokenizer = tokenizers.unigram()
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = _unigram_vocabulary(tokenizer, n_rows, from_sentencepiece=False)
    vocabulary["tokenizer.ggml.token_type_count"] = 1
    own = {
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "pooling_type": _POOLINGS["mean"],
        "rope.freq_base": 20_000.0,
    }
    config = _bert_config("jina_embeddings_v3", "JinaEmbeddingsV3Model", n_rows, pad_token_id=1, type_vocab_size=1)
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 20_000.0}
    return FamilyCheckpoint(
        architecture="jina-bert-v3",
        config=config,
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_jina_v3_layout(n_rows)),
        metadata=_header("jina-bert-v3", "small jina-embeddings-v3", vocabulary, own),
    )


_MODERNBERT_LAYERS, _MODERNBERT_WINDOW = 5, 16


def _modernbert_layout(n_rows: int) -> Iterator[Tensor]:
    yield embedding("embeddings.tok_embeddings", "token_embd", n_rows)
    yield norm("embeddings.norm", "token_embd_norm", DIMS)
    for layer in range(_MODERNBERT_LAYERS):
        name, stored = f"layers.{layer}.", f"blk.{layer}."
        if layer:
            yield norm(name + "attn_norm", stored + "attn_norm", DIMS)
        yield matrix(name + "attn.Wqkv", stored + "attn_qkv", 3 * DIMS, DIMS, 1.5)
        yield matrix(name + "attn.Wo", stored + "attn_output", DIMS, DIMS, 1.5)
        yield norm(name + "mlp_norm", stored + "ffn_norm", DIMS)
        yield matrix(name + "mlp.Wi", stored + "ffn_up", 2 * FFN, DIMS, 1.5)
        yield matrix(name + "mlp.Wo", stored + "ffn_down", DIMS, FFN, 1.5)
    yield norm("final_norm", "output_norm", DIMS)


def _modernbert(pooling: str, activation: str = "gelu") -> FamilyCheckpoint:
    tokenizer = tokenizers.modernbert()
    n_rows = tokenizers.n_tokens(tokenizer) + 3
    roles = {"bos": "[CLS]", "eos": "[SEP]", "unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "gpt2", "modern-bert", n_rows, _gguf_roles(roles))
    own = {
        "attention.layer_norm_epsilon": 1e-5,
        "attention.causal": False,
        "attention.sliding_window": _MODERNBERT_WINDOW,
        "attention.sliding_window_pattern": 3,
        "pooling_type": _POOLINGS[pooling],
        "rope.freq_base": 160_000.0,
        "rope.freq_base_swa": 10_000.0,
        "rope.scaling.type": "none",
        "vocab_size": n_rows,
        "hidden_activation": activation,
    }
    ids = {token: number for number, token in enumerate(tokenizers.tokens_of(tokenizer))}
    config = {
        "architectures": ["ModernBertModel"],
        "model_type": "modernbert",
        "bos_token_id": ids["[CLS]"],
        "cls_token_id": ids["[CLS]"],
        "eos_token_id": ids["[SEP]"],
        "sep_token_id": ids["[SEP]"],
        "pad_token_id": ids["[PAD]"],
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "hidden_activation": activation,
        "hidden_size": DIMS,
        "intermediate_size": FFN,
        "layer_norm_eps": 1e-5,
        "norm_eps": 1e-5,
        "local_attention": _MODERNBERT_WINDOW,
        "max_position_embeddings": MAX_TOKENS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": _MODERNBERT_LAYERS,
        "vocab_size": n_rows,
    }
    return FamilyCheckpoint(
        architecture="modern-bert",
        config=config,
        tokenizer=tokenizer,
        pooling=pooling,
        layout=tuple(_modernbert_layout(n_rows)),
        metadata=_header(
            "modern-bert",
            "small ModernBERT",
            vocabulary | _frame(True, True, sep=True),
            own,
            layers=_MODERNBERT_LAYERS,
        ),
    )


# ---- Models with Llama's, Qwen's or Gemma's layers


def permuted(n_heads: int) -> Change:
    """Llama's rows of queries or keys in llama.cpp's order: the two halves of each head become neighbours."""

    def change(rows: np.ndarray) -> np.ndarray:
        halves = rows.reshape(n_heads, 2, HEAD_DIM // 2, *rows.shape[1:])
        return halves.swapaxes(1, 2).reshape(rows.shape)

    return change


def _plus_one(weights: np.ndarray) -> np.ndarray:
    """Gemma's norms, which are stored as their difference from 1."""
    return weights + np.float32(1)


def _decoder_layout(
    n_rows: int, *, rotate_neighbours: bool = False, biases: bool = False, head_norms: bool = False
) -> Iterator[Tensor]:
    yield embedding("embed_tokens", "token_embd", n_rows)
    for layer in range(LAYERS):
        name, stored = f"layers.{layer}.", f"blk.{layer}."
        yield norm(name + "input_layernorm", stored + "attn_norm", DIMS)
        for part, n_heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            change = permuted(n_heads) if rotate_neighbours and part != "v" else _as_it_is
            own = name + f"self_attn.{part}_proj"
            yield matrix(own, stored + f"attn_{part}", n_heads * HEAD_DIM, DIMS, 1.5, change)
            if biases:
                yield bias(own, stored + f"attn_{part}", n_heads * HEAD_DIM)
            if head_norms and part != "v":
                yield norm(name + f"self_attn.{part}_norm", stored + f"attn_{part}_norm", HEAD_DIM, 1.5)
        yield matrix(name + "self_attn.o_proj", stored + "attn_output", DIMS, HEADS * HEAD_DIM)
        yield norm(name + "post_attention_layernorm", stored + "ffn_norm", DIMS)
        yield matrix(name + "mlp.gate_proj", stored + "ffn_gate", FFN, DIMS, 1.5)
        yield matrix(name + "mlp.up_proj", stored + "ffn_up", FFN, DIMS)
        yield matrix(name + "mlp.down_proj", stored + "ffn_down", DIMS, FFN)
    yield norm("norm", "output_norm", DIMS)


def _decoder_config(model_type: str, architecture: str, n_rows: int, **changes: Any) -> Json:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "bos_token_id": None,
        "eos_token_id": None,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "hidden_size": DIMS,
        "intermediate_size": FFN,
        "max_position_embeddings": MAX_TOKENS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": None,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "vocab_size": n_rows,
    } | changes


def _decoder_keys(**changes: Any) -> Json:
    return {
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.key_length": HEAD_DIM,
        "attention.value_length": HEAD_DIM,
        "rope.freq_base": 10_000.0,
    } | {key.replace("__", "."): value for key, value in changes.items()}


def _llama_keys(n_rows: int) -> Json:
    return _decoder_keys(vocab_size=n_rows, rope__dimension_count=HEAD_DIM)


def _e5_mistral() -> FamilyCheckpoint:
    """llama.cpp's converter writes no pooling for it, and the header may not ask for the end token."""
    tokenizer = tokenizers.llama_sentencepiece()
    n_rows = tokenizers.n_tokens(tokenizer)
    roles = {"bos": "<s>", "eos": "</s>", "unknown": "<unk>"}
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "llama", "default", n_rows, roles)
    vocabulary["tokenizer.ggml.add_bos_token"] = True
    return FamilyCheckpoint(
        architecture="llama",
        config=_decoder_config("mistral", "MistralModel", n_rows, sliding_window=None),
        tokenizer=tokenizer,
        pooling="last",
        layout=tuple(_decoder_layout(n_rows, rotate_neighbours=True)),
        metadata=_header("llama", "E5 Mistral 7b Instruct", vocabulary, _llama_keys(n_rows)),
    )


_LLAMA3_ROLES = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}


def _llama_embed() -> FamilyCheckpoint:
    """llama.cpp's converter writes neither attention nor pooling for it."""
    tokenizer = tokenizers.llama3(begin=True, end=False)
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "gpt2", "llama-bpe", n_rows, _LLAMA3_ROLES) | _frame(True, False)
    return FamilyCheckpoint(
        architecture="llama-embed",
        config=_decoder_config("llama", "LlamaModel", n_rows),
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_decoder_layout(n_rows, rotate_neighbours=True)),
        metadata=_header("llama-embed", "Llama Embed Nemotron 8b", vocabulary, _llama_keys(n_rows)),
        bidirectional=True,
    )


_QWEN_ROLES = {"eos": "<|endoftext|>", "padding": "<|endoftext|>"}


def _qwen2(pooling: str, *, end: bool, bidirectional: bool = False) -> FamilyCheckpoint:
    """gte-Qwen2, KaLM and others; files of the bidirectional ones mostly do not say so."""
    tokenizer = tokenizers.qwen2(end=end)
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "gpt2", "qwen2", n_rows, _QWEN_ROLES) | _frame(False, end)
    return FamilyCheckpoint(
        architecture="qwen2",
        config=_decoder_config("qwen2", "Qwen2Model", n_rows),
        tokenizer=tokenizer,
        pooling=pooling,
        layout=tuple(_decoder_layout(n_rows, biases=True)),
        metadata=_header("qwen2", "small Qwen2", vocabulary, _decoder_keys(pooling_type=_POOLINGS[pooling])),
        bidirectional=bidirectional,
        frameless=not end,
        choices={"attention": "bidirectional"} if bidirectional else {},
    )


def _bidirectional_qwen3() -> FamilyCheckpoint:
    tokenizer = tokenizers.qwen2(end=False)
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "gpt2", "qwen2", n_rows, _QWEN_ROLES) | _frame(False, False)
    own = _decoder_keys(pooling_type=_POOLINGS["mean"], attention__causal=False)
    return FamilyCheckpoint(
        architecture="qwen3",
        config=_decoder_config("qwen3", "Qwen3Model", n_rows),
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_decoder_layout(n_rows, head_norms=True)),
        metadata=_header("qwen3", "small bidirectional", vocabulary, own),
        bidirectional=True,
        frameless=True,
    )


def _qwen3() -> FamilyCheckpoint:
    """Qwen3-Embedding by qgguf's converter."""
    tokenizer = tokenizers.qwen2(end=True)
    n_rows = tokenizers.n_tokens(tokenizer)
    end = tokenizers.tokens_of(tokenizer).index("<|endoftext|>")
    config = _decoder_config("qwen3", "Qwen3ForCausalLM", n_rows, bos_token_id=end, eos_token_id=end)
    return FamilyCheckpoint(
        architecture="qwen3",
        config=config | {"attention_bias": False, "rope_scaling": None, "sliding_window": None},
        tokenizer=tokenizer,
        pooling="last",
        layout=tuple(_decoder_layout(n_rows, head_norms=True)),
        metadata=None,
        side_files={"tokenizer_config.json": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}},
    )


def _eurobert() -> FamilyCheckpoint:
    tokenizer = tokenizers.llama3(begin=False, end=True)
    n_rows = tokenizers.n_tokens(tokenizer)
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "gpt2", "llama-bpe", n_rows, _LLAMA3_ROLES) | _frame(False, True)
    own = _decoder_keys(pooling_type=_POOLINGS["last"], attention__causal=False, rope__scaling__type="none")
    ids = {token: number for number, token in enumerate(tokenizers.tokens_of(tokenizer))}
    config = _decoder_config("eurobert", "EuroBertModel", n_rows, mask_token_id=0, pad_token_id=0)
    return FamilyCheckpoint(
        architecture="eurobert",
        config=config | {"bos_token_id": ids[_LLAMA3_ROLES["bos"]], "eos_token_id": ids[_LLAMA3_ROLES["eos"]]},
        tokenizer=tokenizer,
        pooling="last",
        layout=tuple(_decoder_layout(n_rows)),
        metadata=_header("eurobert", "small EuroBERT", vocabulary, own),
    )


# The file does not say how many layers have a window: each six, the last one without.
_GEMMA_LAYERS, _GEMMA_WINDOW, _GEMMA_DENSE = 6, 32, 128


def _gemma_layout(n_rows: int) -> Iterator[Tensor]:
    def gemma_norm(name: str, stored: str, size: int) -> Tensor:
        return norm(name, stored, size, 0.0, _plus_one)

    yield embedding("embed_tokens", "token_embd", n_rows, 0.2)
    for layer in range(_GEMMA_LAYERS):
        name, stored = f"layers.{layer}.", f"blk.{layer}."
        yield gemma_norm(name + "input_layernorm", stored + "attn_norm", DIMS)
        for part, n_heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            yield matrix(name + f"self_attn.{part}_proj", stored + f"attn_{part}", n_heads * HEAD_DIM, DIMS)
        for part in ("q", "k"):
            yield gemma_norm(name + f"self_attn.{part}_norm", stored + f"attn_{part}_norm", HEAD_DIM)
        yield matrix(name + "self_attn.o_proj", stored + "attn_output", DIMS, HEADS * HEAD_DIM)
        yield gemma_norm(name + "post_attention_layernorm", stored + "post_attention_norm", DIMS)
        yield gemma_norm(name + "pre_feedforward_layernorm", stored + "ffn_norm", DIMS)
        yield matrix(name + "mlp.gate_proj", stored + "ffn_gate", FFN, DIMS)
        yield matrix(name + "mlp.up_proj", stored + "ffn_up", FFN, DIMS)
        yield matrix(name + "mlp.down_proj", stored + "ffn_down", DIMS, FFN)
        yield gemma_norm(name + "post_feedforward_layernorm", stored + "post_ffw_norm", DIMS)
    yield gemma_norm("norm", "output_norm", DIMS)


def _embedding_gemma() -> FamilyCheckpoint:
    tokenizer = tokenizers.gemma_sentencepiece()
    n_rows = tokenizers.n_tokens(tokenizer)
    roles = {"bos": "<bos>", "eos": "<eos>", "unknown": "<unk>", "padding": "<pad>"}
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "llama", "default", n_rows, roles) | _frame(True, True)
    own = _decoder_keys(
        pooling_type=_POOLINGS["mean"],
        attention__sliding_window=_GEMMA_WINDOW,
        rope__freq_base=1_000_000.0,
        rope__freq_base_swa=10_000.0,
        dense_2_feat_in=DIMS,
        dense_2_feat_out=_GEMMA_DENSE,
        dense_3_feat_in=_GEMMA_DENSE,
        dense_3_feat_out=DIMS,
    )
    config = _decoder_config(
        "gemma3_text",
        "Gemma3TextModel",
        n_rows,
        num_hidden_layers=_GEMMA_LAYERS,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=HEAD_DIM,
        rope_theta=1_000_000.0,
        rope_local_base_freq=10_000.0,
        sliding_window=_GEMMA_WINDOW,
        sliding_window_pattern=6,
        use_bidirectional_attention=True,
        pad_token_id=0,
    )
    return FamilyCheckpoint(
        architecture="gemma-embedding",
        config=config,
        tokenizer=tokenizer,
        pooling="mean",
        layout=tuple(_gemma_layout(n_rows)),
        metadata=_header(
            "gemma-embedding",
            "embeddinggemma-300m",
            vocabulary | {"tokenizer.ggml.add_space_prefix": False},
            own,
            layers=_GEMMA_LAYERS,
        ),
        dense=(
            matrix("2_Dense.linear", "dense_2", _GEMMA_DENSE, DIMS),
            matrix("3_Dense.linear", "dense_3", DIMS, _GEMMA_DENSE),
        ),
    )


def _gemma2_layout(n_rows: int) -> Iterator[Tensor]:
    """Gemma 2's: EmbeddingGemma's without the norms of queries and keys, for as many layers as two windows need."""
    for tensor in _gemma_layout(n_rows):
        layer = tensor.name.split(".")[1]
        if "q_norm" not in tensor.name and "k_norm" not in tensor.name and (layer == "weight" or int(layer) < LAYERS):
            yield tensor


def _bge_gemma2() -> FamilyCheckpoint:
    """bge-multilingual-gemma2: qgguf knows nothing of its graph, and its file declares no pooling."""
    tokenizer = tokenizers.gemma_sentencepiece()
    n_rows = tokenizers.n_tokens(tokenizer)
    roles = {"bos": "<bos>", "eos": "<eos>", "unknown": "<unk>", "padding": "<pad>"}
    vocabulary = tokenizers.gguf_vocabulary(tokenizer, "llama", "default", n_rows, roles) | _frame(True, True)
    own = _decoder_keys(
        attention__sliding_window=_GEMMA_WINDOW, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    )
    config = _decoder_config(
        "gemma2",
        "Gemma2Model",
        n_rows,
        hidden_activation="gelu_pytorch_tanh",
        query_pre_attn_scalar=HEAD_DIM,
        sliding_window=_GEMMA_WINDOW,
        pad_token_id=0,
    )
    return FamilyCheckpoint(
        architecture="gemma2",
        config=config,
        tokenizer=tokenizer,
        pooling="last",
        layout=tuple(_gemma2_layout(n_rows)),
        metadata=_header("gemma2", "small Gemma 2", vocabulary | {"tokenizer.ggml.add_space_prefix": False}, own),
        choices={"pooling": "last"},
    )


FAMILIES: dict[str, Callable[[], FamilyCheckpoint]] = {
    "bert-cls": lambda: _bert("cls"),
    "bert-mean": lambda: _bert("mean"),
    "qwen3": _qwen3,
    "nomic-bert": _nomic_bert,
    "xlm-roberta-cls": lambda: _xlm_roberta("cls"),
    "xlm-roberta-mean": lambda: _xlm_roberta("mean"),
    "multilingual-bert": _multilingual_bert,
    "roberta-mean": lambda: _roberta("mean"),
    "roberta-cls": lambda: _roberta("cls"),
    "modernbert-cls": lambda: _modernbert("cls"),
    "modernbert-mean": lambda: _modernbert("mean"),
    "distilbert": _distilbert,
    "embedding-gemma": _embedding_gemma,
    "e5-mistral": _e5_mistral,
    "llama-embed": _llama_embed,
    "qwen2-last": lambda: _qwen2("last", end=True),
    "qwen2-mean": lambda: _qwen2("mean", end=False),
    "bidirectional-qwen2": lambda: _qwen2("last", end=True, bidirectional=True),
    "bidirectional-qwen3": _bidirectional_qwen3,
    "eurobert": _eurobert,
    "jina-v3": _jina_v3,
    "modernbert-silu": lambda: _modernbert("cls", "silu"),
    "bge-gemma2": _bge_gemma2,
}
"""Name -> maker of the checkpoint."""
