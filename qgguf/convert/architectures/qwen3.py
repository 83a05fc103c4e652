"""Qwen3 as an embedding model: a causal decoder with last-token pooling; its language-model head is dropped."""

import re

from qgguf.convert.architectures.table import Architecture, Config, Parameter, Weight, size
from qgguf.gguf_format import keys
from qgguf.model.spec import Pooling


def _sizes(config: Config) -> dict[str, int]:
    heads, kv_heads = size(config, "num_attention_heads"), size(config, "num_key_value_heads")
    head = size(config, "head_dim", 128)
    return {
        "layers": size(config, "num_hidden_layers"),
        "heads": heads,
        "kv_heads": kv_heads,
        "head": head,
        "dims": size(config, "hidden_size"),
        "ffn": size(config, "intermediate_size"),
        "vocab": size(config, "vocab_size"),
        "queries": heads * head,
        "keys": kv_heads * head,
    }


def _refuse(config: Config) -> str | None:
    if config.get("attention_bias"):
        return "attention_bias is true"
    if config.get("hidden_act", "silu") != "silu":
        return f"hidden_act is {config.get('hidden_act')!r}, not 'silu'"
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else rope
    if kind != "default":
        return f"rope_scaling is {kind!r}"
    if config.get("use_sliding_window") and config.get("sliding_window"):
        return f"it uses a sliding window of {config['sliding_window']}"
    if "sliding_attention" in (config.get("layer_types") or []):
        return "layer_types holds sliding_attention"
    if config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        return "its attention is not causal"
    if config.get("num_attention_heads", 0) % config.get("num_key_value_heads", 1):
        return "num_attention_heads is no multiple of num_key_value_heads"
    return None


_LAYER = "layers.{layer}."
_BLOCK = "blk.{layer}."

QWEN3 = Architecture(
    name="qwen3",
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    model_type="qwen3",
    prefixes=("model.",),
    weights=(
        Weight(("embed_tokens.weight",), "token_embd.weight", ("vocab", "dims")),
        Weight(("norm.weight",), "output_norm.weight", ("dims",)),
        Weight((_LAYER + "input_layernorm.weight",), _BLOCK + "attn_norm.weight", ("dims",)),
        Weight((_LAYER + "self_attn.q_proj.weight",), _BLOCK + "attn_q.weight", ("queries", "dims")),
        Weight((_LAYER + "self_attn.k_proj.weight",), _BLOCK + "attn_k.weight", ("keys", "dims")),
        Weight((_LAYER + "self_attn.v_proj.weight",), _BLOCK + "attn_v.weight", ("keys", "dims")),
        Weight((_LAYER + "self_attn.o_proj.weight",), _BLOCK + "attn_output.weight", ("dims", "queries")),
        Weight((_LAYER + "self_attn.q_norm.weight",), _BLOCK + "attn_q_norm.weight", ("head",)),
        Weight((_LAYER + "self_attn.k_norm.weight",), _BLOCK + "attn_k_norm.weight", ("head",)),
        Weight((_LAYER + "post_attention_layernorm.weight",), _BLOCK + "ffn_norm.weight", ("dims",)),
        Weight((_LAYER + "mlp.gate_proj.weight",), _BLOCK + "ffn_gate.weight", ("ffn", "dims")),
        Weight((_LAYER + "mlp.up_proj.weight",), _BLOCK + "ffn_up.weight", ("ffn", "dims")),
        Weight((_LAYER + "mlp.down_proj.weight",), _BLOCK + "ffn_down.weight", ("dims", "ffn")),
    ),
    dropped=re.compile(r"lm_head\.weight|(.*\.)?rotary_emb\.inv_freq"),
    parameters=(
        Parameter(keys.BLOCK_COUNT, "num_hidden_layers", int),
        Parameter(keys.CONTEXT_LENGTH, "max_position_embeddings", int),
        Parameter(keys.EMBEDDING_LENGTH, "hidden_size", int),
        Parameter(keys.FEED_FORWARD_LENGTH, "intermediate_size", int),
        Parameter(keys.HEAD_COUNT, "num_attention_heads", int),
        Parameter(keys.HEAD_COUNT_KV, "num_key_value_heads", int),
        Parameter(keys.ROPE_FREQ_BASE, "rope_parameters.rope_theta", float, older="rope_theta"),
        Parameter(keys.LAYER_NORM_RMS_EPSILON, "rms_norm_eps", float, 1e-6),
        Parameter(keys.KEY_LENGTH, "head_dim", int, 128),
        Parameter(keys.VALUE_LENGTH, "head_dim", int, 128),
    ),
    sizes=_sizes,
    refuse=_refuse,
    poolings=(Pooling.LAST,),
    tokenizer="bpe",
)
