"""Which type each tensor gets, per quantisation. Pure; the same choices as llama_model_quantize without an imatrix.

source  llama-quant.cpp of the vendored llama.cpp: llama_tensor_get_type_impl, tensor_type_fallback,
        tensor_allows_quantization
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qgguf.errors import OptionError
from qgguf.gguf_format.reader import FILE_TYPES, TENSOR_TYPES

TYPE_IDS: Mapping[str, int] = {name: type_id for type_id, (name, _, _) in TENSOR_TYPES.items()}

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
TOKEN_EMBEDDING_TYPES = tuple(dict.fromkeys(QUANTS.values()))

_FLOATS = ("F32", "F16", "BF16")
# Kept in F32 whatever is asked, as are all norms and biases: small, and read by plain additions.
_NEVER_QUANTIZED = ("position_embd.weight", "token_types.weight")
# Rows that are no multiple of a 256 block get the nearest type with blocks of 32.
_SMALL_BLOCKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL"}


@dataclass(frozen=True, slots=True)
class Model:
    """What the mixture asks of a model."""

    n_layers: int
    n_heads: int
    n_kv_heads: int


Rule = Callable[[int, Model], bool]


def _sensitive(layer: int, model: Model) -> bool:
    """The first and last eighth, and every third layer between."""
    eighth = model.n_layers // 8
    return layer < eighth or layer >= 7 * model.n_layers // 8 or (layer - eighth) % 3 == 2


def _first_eighth(layer: int, model: Model) -> bool:
    return layer < model.n_layers // 8


def _first_four(layer: int, _model: Model) -> bool:
    return layer < 4


def _shared_values(_layer: int, model: Model) -> bool:
    """Four query heads or more read one value head: it is small, and worth its bits."""
    return model.n_heads // model.n_kv_heads >= 4


# quantisation -> tensor -> (layers that get more bits, the type they get)
_RAISED: Mapping[str, Mapping[str, tuple[Rule, str]]] = {
    "Q5_K_M": {"attn_v.weight": (_sensitive, "Q6_K"), "ffn_down.weight": (_sensitive, "Q6_K")},
    "Q4_K_M": {"attn_v.weight": (_sensitive, "Q6_K"), "ffn_down.weight": (_sensitive, "Q6_K")},
    "Q4_K_S": {"attn_v.weight": (_first_four, "Q5_K"), "ffn_down.weight": (_first_eighth, "Q5_K")},
    "IQ4_NL": {"attn_v.weight": (_shared_values, "Q5_K"), "ffn_down.weight": (_first_eighth, "Q5_K")},
    "IQ4_XS": {"attn_v.weight": (_shared_values, "Q5_K"), "ffn_down.weight": (_first_eighth, "Q5_K")},
}


def check_quant(quant: str) -> str:
    """The quantisation in its usual spelling.

    >>> check_quant("q4_k_m")
    'Q4_K_M'
    """
    return _one_of(quant, tuple(QUANTS), "quantisation")


def check_token_embedding_type(name: str) -> str:
    """The type for the token embedding in its usual spelling; a quantisation's name gives its main type."""
    return _one_of(QUANTS.get(name.upper(), name) if isinstance(name, str) else name, TOKEN_EMBEDDING_TYPES, "type")


def _one_of(name: str, known: tuple[str, ...], what: str) -> str:
    if not isinstance(name, str) or name.upper() not in known:
        raise OptionError(f"Unknown {what} {name!r}. Choose one of: {', '.join(known)}.")
    return name.upper()


def tensor_type(
    quant: str, name: str, shape: tuple[int, ...], model: Model, token_embedding_type: str | None = None
) -> str:
    """The ggml type of one tensor.

    name    as GGUF names it: "blk.3.ffn_down.weight"
    shape   as ggml counts: shape[0] is the length of a row
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
        # It stands in for the output matrix, which embedding models do not store: one of the two large types.
        chosen = "Q6_K" if chosen != "Q8_0" and _fits(columns, chosen) else "Q8_0"
    elif name.startswith("blk."):
        _, layer, part = name.split(".", 2)
        rule, more = _RAISED.get(quant, {}).get(part, (None, ""))
        if rule and rule(int(layer), model):
            chosen = more
    return _that_fits(columns, chosen)


def _fits(columns: int, name: str) -> bool:
    return columns % TENSOR_TYPES[TYPE_IDS[name]][1] == 0


def _that_fits(columns: int, name: str) -> str:
    if _fits(columns, name):
        return name
    smaller = _SMALL_BLOCKS.get(name, name)
    return smaller if _fits(columns, smaller) else "F16"


def file_order(name: str) -> tuple[int, bytes]:
    """Sort key of llama_model_quantize's output: tensors outside the layers, then layer by layer, by name."""
    layer = int(name.split(".", 2)[1]) if name.startswith("blk.") else -1
    return layer, name.encode()
