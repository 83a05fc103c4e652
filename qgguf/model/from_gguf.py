"""GGUF file -> ModelSpec: what model it is, and what its header lacks or says wrongly."""

import math
import os
from collections import Counter
from pathlib import Path

from qgguf.errors import ModelFileError
from qgguf.gguf_format.reader import FILE_TYPES, TENSOR_TYPES, Header, TensorInfo, read_header, row_bytes
from qgguf.memory.planner import DEFAULT_MAX_TOKENS, ModelSizes
from qgguf.model.prompts import QWEN3_INSTRUCTION_TEMPLATE, instruction_prompts, known_prompts
from qgguf.model.spec import ModelSpec, Pooling

__all__ = [
    "FILE_TYPES",
    "TENSOR_TYPES",
    "Header",
    "TensorInfo",
    "read_header",
    "read_spec",
    "row_bytes",
    "sizes_of",
    "spec_of",
]

PROMPT_PREFIX = "qgguf.prompt."

# The Qwen3-Embedding tokenizers fill their vocabularies exactly (0.6B; 4B and 8B); the chat models pad theirs.
_QWEN3_EMBEDDING_VOCABULARIES = (151669, 151665)
_QWEN3_END_TOKEN = "<|endoftext|>"
_QWEN3_SMALLEST_DIMS = 32

# Architectures whose attention sees both ways, whether or not the header says so.
_ENCODERS = frozenset(
    ["bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "eurobert",
     "gemma-embedding"]
)  # fmt: skip

# Architectures whose graph `memory.compute_buffer` models exactly, and whether their attention is causal there.
_EXACT_COMPUTE_BUFFERS = {"qwen3": True, "bert": False}


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """What model a GGUF file holds.

    raises  ModelFileError: not a GGUF, cut short, or not a text model
    """
    path = Path(path)
    return spec_of(read_header(path), path)


def spec_of(header: Header, path: Path) -> ModelSpec:
    """As `read_spec`, from a header that has been read."""
    says = _Metadata(header, path)
    architecture = says.text("general.architecture")
    if not architecture:
        raise ModelFileError(f"{path} names no architecture, so it is no model. Give an embedding model's GGUF.")
    if says.integer("split.count", 1) > 1:
        raise ModelFileError(f"{path} is one part of a split model. Merge the parts into one: llama-gguf-split --merge")
    name = says.text("general.name") or says.text("general.basename") or path.stem
    tokens = says.strings("tokenizer.ggml.tokens")
    if not tokens:
        raise ModelFileError(f"{path} has no vocabulary, so it can embed no text. Give an embedding model's GGUF.")
    family = _is_qwen3_embedding(says, architecture, name, len(tokens))
    corrections: list[str] = []
    pooling = _pooling(says, architecture, family, corrections)
    end_token_id = _end_token(says, architecture, tokens, pooling, family, corrections)
    causal = says.flag(f"{architecture}.attention.causal", architecture not in _ENCODERS)
    dims = says.integer(f"{architecture}.embedding_length")
    n_heads = says.integer(f"{architecture}.attention.head_count")
    template = says.text("qgguf.instruction_template") or (QWEN3_INSTRUCTION_TEMPLATE if family else None)
    stored = {key[len(PROMPT_PREFIX) :]: str(value) for key, value in header.metadata.items()
              if key.startswith(PROMPT_PREFIX)}  # fmt: skip
    return ModelSpec(
        name=name,
        architecture=architecture,
        quantization=_quantization(says, header),
        size_bytes=header.size_bytes,
        n_params=sum(math.prod(tensor.shape) for tensor in header.tensors),
        n_layers=says.integer(f"{architecture}.block_count"),
        dims=dims,
        n_heads=n_heads,
        n_kv_heads=says.integer(f"{architecture}.attention.head_count_kv", n_heads),
        head_dim=says.integer(f"{architecture}.attention.key_length", dims // n_heads),
        vocab_size=len(tokens),
        context_length=says.integer(f"{architecture}.context_length"),
        max_tokens=says.integer("qgguf.max_tokens", 0) or None,
        causal=causal,
        pooling=pooling,
        end_token_id=end_token_id,
        end_token=None if end_token_id is None else tokens[end_token_id],
        prompts=((instruction_prompts(template) if template else {}) | stored) or known_prompts(name),
        default_prompt_name=says.text("qgguf.default_prompt_name") or None,
        instruction_template=template,
        mrl_dims=_mrl_dims(says, dims, family),
        source_repo=says.text("qgguf.source.repo"),
        source_revision=says.text("qgguf.source.revision"),
        source_sha256=tuple(says.strings("qgguf.source.sha256")),
        corrections=tuple(corrections),
        exact_compute_buffer=_EXACT_COMPUTE_BUFFERS.get(architecture) is causal,
    )


def sizes_of(header: Header, spec: ModelSpec) -> ModelSizes:
    """The bytes of a model's parts, from a header and the spec that was read from it.

    raises  ModelFileError: layers without weights
    """
    says = _Metadata(header, Path(spec.name))
    layers: list[Counter[str]] = [Counter() for _ in range(spec.n_layers)]
    # Tensors of no layer: what llama.cpp gives to the output, and what it keeps with the input on the host.
    output = output_norm = other = 0
    ffn = says.integer(f"{spec.architecture}.feed_forward_length")
    window = says.integer(f"{spec.architecture}.attention.sliding_window", 0)
    gated = post_norm = False
    input_type = ""
    for tensor in header.tensors:
        place, _, part = tensor.name.partition(".")
        number, _, part = part.partition(".") if place == "blk" else ("", "", part)
        if number.isdecimal() and int(number) < spec.n_layers:
            # Eight rows are laid out together where a CPU repacks a matrix.
            is_matrix = len(tensor.shape) == 2 and tensor.shape[1] % 8 == 0
            kind = TENSOR_TYPES[tensor.type_id][0] if is_matrix else "other"
            layers[int(number)][kind] += tensor.size_bytes
            # The gate is a matrix, or the second half of a matrix of double width.
            is_double = part == "ffn_up.weight" and tensor.shape[1:] == (2 * ffn,)
            gated = gated or part == "ffn_gate.weight" or is_double
            post_norm = post_norm or part == "attn_output_norm.weight"
        elif place == "output":
            output += tensor.size_bytes
        elif place == "output_norm":
            output_norm += tensor.size_bytes
        else:
            other += tensor.size_bytes
            if tensor.name == "token_embd.weight":
                input_type = TENSOR_TYPES[tensor.type_id][0]
    if not all(layers):
        raise ModelFileError(
            f"{spec.name}: {layers.count(Counter())} of {spec.n_layers} layers have no weights. "
            "Fetch or convert it again."
        )
    return ModelSizes(
        n_layers=spec.n_layers,
        dims=spec.dims,
        n_heads=spec.n_heads,
        n_kv_heads=spec.n_kv_heads,
        head_dim=spec.head_dim,
        ffn=ffn,
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
        default_tokens=min(spec.max_tokens or DEFAULT_MAX_TOKENS, spec.context_length),
        causal=spec.causal,
        last_rows=spec.pools_last_row(),
        exact_compute_buffer=spec.exact_compute_buffer,
        means=spec.pooling is Pooling.MEAN,
        gated=gated,
        experts=max(1, says.integer(f"{spec.architecture}.expert_used_count", 1)),
        post_norm=post_norm,
        sliding_window=not spec.exact_compute_buffer and window > 0,
        layers=tuple(dict(layer) for layer in layers),
        input_bytes=other,
        input_type=input_type,
        output_bytes=output,
        output_norm_bytes=output_norm,
    )


class _Metadata:
    """Typed look-ups; a value of another type than its key's is a broken file."""

    def __init__(self, header: Header, path: Path) -> None:
        self.metadata, self.path = header.metadata, path

    def text(self, key: str) -> str:
        value = self.metadata.get(key, "")
        return value if isinstance(value, str) else ""

    def strings(self, key: str) -> list[str]:
        value = self.metadata.get(key, [])
        return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(key, default)
        return value if isinstance(value, bool) else default

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number of at least 1 (0 only as the default); of a list per layer, the largest."""
        value = self.metadata.get(key, default)
        if isinstance(value, list) and value:
            value = max(value)
        if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != default):
            seen = "is missing" if value is None else f"is {value!r}"
            raise ModelFileError(
                f"{self.path} is no embedding model that can be run: {key} {seen}, a number above 0 is needed."
            )
        return value

    def token_id(self, key: str, n_tokens: int) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < n_tokens else None


def _is_qwen3_embedding(says: _Metadata, architecture: str, name: str, n_tokens: int) -> bool:
    names = f"{name} {says.text('general.basename')} {says.text('general.finetune')}".lower()
    if architecture != "qwen3" or "rerank" in names:
        return False
    return n_tokens in _QWEN3_EMBEDDING_VOCABULARIES or ("qwen3" in names and "embed" in names)


def _pooling(says: _Metadata, architecture: str, family: bool, corrections: list[str]) -> Pooling | None:
    declared = says.metadata.get(f"{architecture}.pooling_type")
    if isinstance(declared, int) and declared in list(Pooling) and declared != Pooling.NONE:
        return Pooling(declared)
    if family:
        corrections.append("the header names no pooling; Qwen3-Embedding pools the last token, and so does qgguf")
        return Pooling.LAST
    return None


def _end_token(
    says: _Metadata, architecture: str, tokens: list[str], pooling: Pooling | None, family: bool, corrections: list[str]
) -> int | None:
    """The id that must end each text. The header's add_eos flag is not trusted where it is known to be lost."""
    if says.text("tokenizer.ggml.model") == "bert":
        return says.token_id("tokenizer.ggml.seperator_token_id", len(tokens))  # the key is spelt so in the format
    eos = says.token_id("tokenizer.ggml.eos_token_id", len(tokens))
    declared = says.metadata.get("tokenizer.ggml.add_eos_token")
    if declared is True:
        return eos
    if pooling != Pooling.LAST or architecture != "qwen3" or (declared is False and not family):
        return None
    # Files made before the tokenizer's own end token was known to converters: the token is <|endoftext|>, whatever
    # the header calls eos (often <|im_end|>, the chat models').
    padding = says.token_id("tokenizer.ggml.padding_token_id", len(tokens))
    end = tokens.index(_QWEN3_END_TOKEN) if _QWEN3_END_TOKEN in tokens else padding if padding is not None else eos
    if end is not None:
        corrections.append(f"the header does not ask for an end token; qgguf ends each text with {tokens[end]}")
    return end


def _mrl_dims(says: _Metadata, dims: int, family: bool) -> tuple[int, int] | None:
    smallest = says.integer("qgguf.mrl.min_dims", 0)
    if smallest:
        return min(smallest, dims), min(says.integer("qgguf.mrl.max_dims", dims), dims)
    return (min(_QWEN3_SMALLEST_DIMS, dims), dims) if family else None


def _quantization(says: _Metadata, header: Header) -> str:
    file_type = says.metadata.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    most = Counter[int]()
    for tensor in header.tensors:
        most[tensor.type_id] += tensor.size_bytes
    return TENSOR_TYPES[most.most_common(1)[0][0]][0] if most else "?"
