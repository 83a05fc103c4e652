"""BERT encoders (MiniLM, BGE, E5, GTE): mean or first-token pooling; pooler and language-model heads are dropped."""

import re

from qgguf.convert.architectures.table import Architecture, Config, Parameter, Weight, size
from qgguf.gguf_format import keys
from qgguf.model.spec import Pooling


def _sizes(config: Config) -> dict[str, int]:
    heads = size(config, "num_attention_heads")
    return {
        "layers": size(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads,
        "dims": size(config, "hidden_size"),
        "ffn": size(config, "intermediate_size"),
        "vocab": size(config, "vocab_size"),
        "positions": size(config, "max_position_embeddings"),
        "types": size(config, "type_vocab_size", 1),
    }


def _refuse(config: Config) -> str | None:
    if config.get("hidden_act", "gelu") != "gelu":
        return f"hidden_act is {config.get('hidden_act')!r}, not 'gelu'"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"position_embedding_type is {config.get('position_embedding_type')!r}, not 'absolute'"
    if config.get("is_decoder"):
        return "is_decoder is true"
    if config.get("embedding_size") not in (None, config.get("hidden_size")):
        return "embedding_size is not hidden_size"
    if config.get("hidden_size", 0) % config.get("num_attention_heads", 1):
        return "hidden_size is no multiple of num_attention_heads"
    return None


def _pair(source: str, target: str, *shape: str) -> tuple[Weight, Weight]:
    """Return a matrix and its bias."""
    return (
        Weight((source + ".weight",), target + ".weight", shape),
        Weight((source + ".bias",), target + ".bias", shape[:1]),
    )


def _norm(source: str, target: str) -> tuple[Weight, Weight]:
    """Return a layer norm; the first BERT checkpoints call its weight gamma and its bias beta."""
    return (
        Weight((source + ".weight", source + ".gamma"), target + ".weight", ("dims",)),
        Weight((source + ".bias", source + ".beta"), target + ".bias", ("dims",)),
    )


_LAYER = "encoder.layer.{layer}."
_BLOCK = "blk.{layer}."

BERT = Architecture(
    name="bert",
    classes=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    model_type="bert",
    prefixes=("bert.",),
    weights=(
        Weight(("embeddings.word_embeddings.weight",), "token_embd.weight", ("vocab", "dims")),
        Weight(("embeddings.position_embeddings.weight",), "position_embd.weight", ("positions", "dims")),
        Weight(("embeddings.token_type_embeddings.weight",), "token_types.weight", ("types", "dims")),
        *_norm("embeddings.LayerNorm", "token_embd_norm"),
        *_pair(_LAYER + "attention.self.query", _BLOCK + "attn_q", "dims", "dims"),
        *_pair(_LAYER + "attention.self.key", _BLOCK + "attn_k", "dims", "dims"),
        *_pair(_LAYER + "attention.self.value", _BLOCK + "attn_v", "dims", "dims"),
        *_pair(_LAYER + "attention.output.dense", _BLOCK + "attn_output", "dims", "dims"),
        *_norm(_LAYER + "attention.output.LayerNorm", _BLOCK + "attn_output_norm"),
        *_pair(_LAYER + "intermediate.dense", _BLOCK + "ffn_up", "ffn", "dims"),
        *_pair(_LAYER + "output.dense", _BLOCK + "ffn_down", "dims", "ffn"),
        *_norm(_LAYER + "output.LayerNorm", _BLOCK + "layer_output_norm"),
    ),
    dropped=re.compile(
        r"embeddings\.position_ids|pooler\.dense\.(weight|bias)|cls\.(predictions|seq_relationship)\..*"
    ),
    parameters=(
        Parameter(keys.BLOCK_COUNT, "num_hidden_layers", int),
        Parameter(keys.CONTEXT_LENGTH, "max_position_embeddings", int),
        Parameter(keys.EMBEDDING_LENGTH, "hidden_size", int),
        Parameter(keys.FEED_FORWARD_LENGTH, "intermediate_size", int),
        Parameter(keys.HEAD_COUNT, "num_attention_heads", int),
        Parameter(keys.LAYER_NORM_EPSILON, "layer_norm_eps", float, 1e-12),
    ),
    sizes=_sizes,
    refuse=_refuse,
    poolings=(Pooling.MEAN, Pooling.CLS),
    tokenizer="wordpiece",
    extra=((keys.CAUSAL, False),),
)
