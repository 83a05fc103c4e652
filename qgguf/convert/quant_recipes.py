"""Choose the type of each tensor for a quantisation, as llama_model_quantize does without an importance matrix.

source  llama-quant.cpp of the vendored llama.cpp: llama_tensor_get_type_impl, tensor_type_fallback,
        tensor_allows_quantization
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qgguf.errors import OptionError
from qgguf.gguf_format.tensors import FILE_TYPES, TENSOR_TYPES, TYPE_IDS

# quantisation -> the type of most tensors
QUANTS: Mapping[str, str] = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "Q8_0": "Q8_0",
    "Q6_K": "Q6_K",
    "Q5_K_M": "Q5_K",
    "Q5_0": "Q5_0",
    "Q4_K_M": "Q4_K",
    "Q4_K_S": "Q4_K",
    "Q4_0": "Q4_0",
    "IQ4_NL": "IQ4_NL",
    "IQ4_XS": "IQ4_XS",
}
FILE_TYPE_IDS: Mapping[str, int] = {name: number for number, name in FILE_TYPES.items() if name in QUANTS}
"""Quantisation -> general.file_type."""

TOKEN_EMBEDDING_TYPES = tuple(dict.fromkeys(QUANTS.values()))
"""Types that the user may choose for the token embedding."""

_FLOATS = ("F32", "F16", "BF16")
# F32 in every quantisation, as are all norms and biases: they are small, and llama.cpp adds them without unpacking.
_NEVER_QUANTIZED = ("position_embd.weight", "token_types.weight")
# For rows that are no multiple of 256 elements: the nearest type with blocks of 32.
_SMALL_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The counts that the choice of types depends on."""

    n_layers: int
    n_heads: int
    n_kv_heads: int


_LayerRule = Callable[[int, ModelShape], bool]


def _is_sensitive(layer: int, model: ModelShape) -> bool:
    """Return whether a layer is in the first or last eighth, or every third one between them."""
    eighth = model.n_layers // 8
    return layer < eighth or layer >= 7 * model.n_layers // 8 or (layer - eighth) % 3 == 2


def _is_in_first_eighth(layer: int, model: ModelShape) -> bool:
    return layer < model.n_layers // 8


def _is_in_first_four(layer: int, _model: ModelShape) -> bool:
    return layer < 4


def _shares_values(_layer: int, model: ModelShape) -> bool:
    """Return whether four query heads or more share a value head: its matrix is small, and more bits pay."""
    return model.n_heads // model.n_kv_heads >= 4


# quantisation -> tensor -> (rule for the layers that get more bits, the type they get)
_MORE_BITS: Mapping[str, Mapping[str, tuple[_LayerRule, str]]] = {
    "Q5_K_M": {"attn_v.weight": (_is_sensitive, "Q6_K"), "ffn_down.weight": (_is_sensitive, "Q6_K")},
    "Q4_K_M": {"attn_v.weight": (_is_sensitive, "Q6_K"), "ffn_down.weight": (_is_sensitive, "Q6_K")},
    "Q4_K_S": {"attn_v.weight": (_is_in_first_four, "Q5_K"), "ffn_down.weight": (_is_in_first_eighth, "Q5_K")},
    "IQ4_NL": {"attn_v.weight": (_shares_values, "Q5_K"), "ffn_down.weight": (_is_in_first_eighth, "Q5_K")},
    "IQ4_XS": {"attn_v.weight": (_shares_values, "Q5_K"), "ffn_down.weight": (_is_in_first_eighth, "Q5_K")},
}


def check_quant(quant: str) -> str:
    """Return a quantisation in its usual spelling.

    >>> check_quant("q4_k_m")
    'Q4_K_M'

    raises  OptionError: not one of QUANTS
    """
    return _one_of(quant, tuple(QUANTS), "quantisation")


def check_token_embedding_type(name: str) -> str:
    """Return a type for the token embedding in its usual spelling; the name of a quantisation gives its main type.

    raises  OptionError: not one of TOKEN_EMBEDDING_TYPES
    """
    main_type = QUANTS.get(name.upper(), name) if isinstance(name, str) else name
    return _one_of(main_type, TOKEN_EMBEDDING_TYPES, "type")


def _one_of(name: str, known: tuple[str, ...], what: str) -> str:
    if not isinstance(name, str) or name.upper() not in known:
        raise OptionError(f"Unknown {what} {name!r}. Choose one of: {', '.join(known)}.")
    return name.upper()


def tensor_type(
    quant: str, name: str, shape: tuple[int, ...], model: ModelShape, token_embedding_type: str | None = None
) -> str:
    """Return the name of the type that one tensor is stored in.

    name    as GGUF names it: "blk.3.ffn_down.weight"
    shape   in ggml's order: shape[0] is the length of a row
    raises  OptionError: a token embedding type whose blocks do not fit the rows
    """
    if len(shape) < 2 or shape[1] == 1 or name.endswith("_norm.weight") or name in _NEVER_QUANTIZED:
        return "F32"
    columns, is_embedding = shape[0], name == "token_embd.weight"
    if is_embedding and token_embedding_type:
        if not _fits(columns, token_embedding_type):
            _, block_elements, _ = TENSOR_TYPES[TYPE_IDS[token_embedding_type]]
            raise OptionError(
                f"The token embedding has rows of {columns}, {token_embedding_type} needs a multiple of "
                f"{block_elements}. Choose F16 or BF16, or leave it to the quantisation."
            )
        return token_embedding_type
    chosen = QUANTS[quant]
    if chosen in _FLOATS:
        return chosen
    if is_embedding:
        # llama.cpp takes it for the output matrix, which embedding models lack, and so gives it one of two large types.
        chosen = "Q6_K" if chosen != "Q8_0" and _fits(columns, chosen) else "Q8_0"
    elif name.startswith("blk."):
        _, layer, part = name.split(".", 2)
        rule, larger_type = _MORE_BITS.get(quant, {}).get(part, (None, ""))
        if rule and rule(int(layer), model):
            chosen = larger_type
    return _fitting(columns, chosen)


def _fits(columns: int, name: str) -> bool:
    return columns % TENSOR_TYPES[TYPE_IDS[name]][1] == 0


def _fitting(columns: int, name: str) -> str:
    if _fits(columns, name):
        return name
    fallback = _SMALL_BLOCKS.get(name, name)
    return fallback if _fits(columns, fallback) else "F16"


def file_order(name: str) -> tuple[int, bytes]:
    """Return the sort key of llama_model_quantize's order: tensors outside the layers, then by layer, then by name."""
    layer = int(name.split(".", 2)[1]) if name.startswith("blk.") else -1
    return layer, name.encode()
