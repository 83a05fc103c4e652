"""GGUF header -> ModelSpec and ModelSizes, with corrections where the header is known to be incomplete or wrong."""

import math
import os
from collections import Counter
from pathlib import Path

from qgguf.errors import ModelFileError, OptionError
from qgguf.gguf_format import keys
from qgguf.gguf_format.reader import Header, read_header
from qgguf.gguf_format.tensors import FILE_TYPES, TENSOR_TYPES
from qgguf.memory.planner import DEFAULT_MAX_TOKENS, ModelSizes
from qgguf.model.families import Card, Family, Traits, family_of
from qgguf.model.prompts import instruction_prompts, template_of
from qgguf.model.spec import FILES_OWN, ModelSpec, Pooling, SpecChoices
from qgguf.model.tokenizer_parts import keeps_case, parts_of_header


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """Read the header of a GGUF file and return the spec of its model.

    raises  ModelFileError: not a GGUF, cut short, or not a text model
    """
    path = Path(path)
    return spec_of(read_header(path), path)


def spec_of(header: Header, path: Path, choices: SpecChoices = FILES_OWN) -> ModelSpec:
    """Return the spec of a model whose header has been read.

    path     the file, for messages; its stem names a model without general.name
    choices  what the caller knows better than the file
    raises   ModelFileError: not a text model, or one part of a split model; OptionError: no such end token
    """
    metadata = _Metadata(header, path)
    architecture = metadata.text(keys.ARCHITECTURE)
    if not architecture:
        raise ModelFileError(f"{path} names no architecture, so it is no model. Give an embedding model's GGUF.")
    if metadata.integer(keys.SPLIT_COUNT, 1) > 1:
        raise ModelFileError(f"{path} is one part of a split model. Merge the parts into one: llama-gguf-split --merge")
    basename = metadata.text(keys.BASENAME)
    name = metadata.text(keys.NAME) or basename or path.stem
    tokens = metadata.strings(keys.TOKENS)
    if not tokens:
        raise ModelFileError(f"{path} has no vocabulary, so it can embed no text. Give an embedding model's GGUF.")
    stored_template = metadata.text(keys.INSTRUCTION_TEMPLATE) or template_of(
        metadata.text(f"{keys.PROMPT_PREFIX}query")
    )
    names = (name, basename, metadata.text(keys.FINETUNE))
    traits = Traits.of(architecture, names, len(tokens), stored_template)
    family = family_of(traits)
    card = family.card_of(traits.names)
    corrections: list[str] = []
    warnings = _warnings(header, family, card)
    pooling = _pooling(metadata, architecture, family, card, corrections) or choices.pooling
    if choices.end_token is None:
        end_token_id = _end_token(metadata, tokens, pooling, family, card, corrections, warnings)
    else:
        end_token_id = _chosen_end_token(choices.end_token, tokens)
    causal = metadata.flag(f"{architecture}.{keys.CAUSAL}", family.causal) if choices.causal is None else choices.causal
    if keys.TOKENIZER not in header.metadata and keeps_case(header.metadata):
        corrections.append("the header does not state that capitals count; by its vocabulary they do")
    dims = metadata.integer(f"{architecture}.{keys.EMBEDDING_LENGTH}")
    _check_output_width(metadata, f"{architecture}.{keys.EMBEDDING_LENGTH_OUT}", dims)
    n_heads = metadata.integer(f"{architecture}.{keys.HEAD_COUNT}")
    template = stored_template or card.instruction_template
    prompts = _prompts(header, template) or dict(card.prompts)
    return ModelSpec(
        name=name,
        architecture=architecture,
        quantization=_quantization(metadata, header),
        size_bytes=header.size_bytes,
        n_params=sum(math.prod(tensor.shape) for tensor in header.tensors),
        n_layers=metadata.integer(f"{architecture}.{keys.BLOCK_COUNT}"),
        dims=dims,
        n_heads=n_heads,
        n_kv_heads=metadata.integer(f"{architecture}.{keys.HEAD_COUNT_KV}", n_heads),
        head_dim=metadata.integer(f"{architecture}.{keys.KEY_LENGTH}", dims // n_heads),
        vocab_size=len(tokens),
        context_length=metadata.integer(f"{architecture}.{keys.CONTEXT_LENGTH}"),
        max_tokens=metadata.integer(keys.MAX_TOKENS, 0) or None,
        causal=causal,
        is_decoder=family.decoder,
        pooling=choices.pooling or pooling,
        start_token_id=_start_token(metadata, tokens, family, corrections),
        end_token_id=end_token_id,
        end_token=None if end_token_id is None else tokens[end_token_id],
        prompts=prompts,
        default_prompt_name=metadata.text(keys.DEFAULT_PROMPT_NAME) or None,
        instruction_template=template,
        mrl_dims=_mrl_dims(metadata, dims, card),
        source_repo=metadata.text(keys.SOURCE_REPO),
        source_revision=metadata.text(keys.SOURCE_REVISION),
        source_sha256=tuple(metadata.strings(keys.SOURCE_SHA256)),
        corrections=tuple(corrections),
        warnings=tuple(warnings),
        prompt_is_unknown=card.prompt_is_unknown and not prompts,
        end_token_is_chosen=choices.end_token is not None,
        exact_compute_buffer=family.exact_compute_buffer and causal is family.causal,
    )


def sizes_of(header: Header, spec: ModelSpec) -> ModelSizes:
    """Return the bytes of a model's parts, from a header and the spec that was made from it.

    raises  ModelFileError: layers without weights
    """
    metadata = _Metadata(header, Path(spec.name))
    layers: list[Counter[str]] = [Counter() for _ in range(spec.n_layers)]
    # Tensors outside the layers: those that llama.cpp gives to the output, and those it leaves in the host's memory.
    output = output_norm = other = 0
    ffn = metadata.integer(f"{spec.architecture}.{keys.FEED_FORWARD_LENGTH}")
    window = metadata.integer(f"{spec.architecture}.{keys.SLIDING_WINDOW}", 0)
    gated = post_norm = False
    input_type = ""
    for tensor in header.tensors:
        group, _, part = tensor.name.partition(".")
        number, _, part = part.partition(".") if group == "blk" else ("", "", part)
        if number.isdecimal() and int(number) < spec.n_layers:
            # Where a CPU repacks a matrix, eight rows are stored together.
            is_matrix = len(tensor.shape) == 2 and tensor.shape[1] % 8 == 0
            kind = TENSOR_TYPES[tensor.type_id][0] if is_matrix else "other"
            layers[int(number)][kind] += tensor.size_bytes
            # The gate is a matrix, or the second half of a matrix of double width.
            is_double = part == "ffn_up.weight" and tensor.shape[1:] == (2 * ffn,)
            gated = gated or part == "ffn_gate.weight" or is_double
            post_norm = post_norm or part == "attn_output_norm.weight"
        elif group == "output":
            output += tensor.size_bytes
        elif group == "output_norm":
            output_norm += tensor.size_bytes
        else:
            other += tensor.size_bytes
            if tensor.name == "token_embd.weight":
                input_type = TENSOR_TYPES[tensor.type_id][0]
    if not all(layers):
        raise ModelFileError(
            f"{spec.name}: {layers.count(Counter())} of {spec.n_layers} layers have no weights (blk.0 and so on). The "
            f"file is damaged, or qgguf does not run its architecture ({spec.architecture}). Fetch or convert it again."
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
        decoder=spec.is_decoder,
        last_rows=spec.pools_last_row(),
        exact_compute_buffer=spec.exact_compute_buffer,
        means=spec.pooling is Pooling.MEAN,
        gated=gated,
        experts=max(1, metadata.integer(f"{spec.architecture}.{keys.EXPERT_USED_COUNT}", 1)),
        post_norm=post_norm,
        sliding_window=not spec.exact_compute_buffer and window > 0,
        layers=tuple(dict(layer) for layer in layers),
        input_bytes=other,
        input_type=input_type,
        output_bytes=output,
        output_norm_bytes=output_norm,
    )


class _Metadata:
    """Typed look-ups in a header. Where a value has another type than its key's, texts and flags get the default."""

    def __init__(self, header: Header, path: Path) -> None:
        self.values, self.path = header.metadata, path

    def text(self, key: str) -> str:
        """Return a text, or ""."""
        value = self.values.get(key, "")
        return value if isinstance(value, str) else ""

    def strings(self, key: str) -> list[str]:
        """Return an array of texts, or []."""
        value = self.values.get(key, [])
        return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []

    def flag(self, key: str, default: bool) -> bool:
        """Return a bool, or the default."""
        value = self.values.get(key, default)
        return value if isinstance(value, bool) else default

    def integer(self, key: str, default: int | None = None) -> int:
        """Return a whole number of at least 1 (0 only as the default); of an array with one per layer, the largest.

        raises  ModelFileError: missing without a default, or no such number
        """
        value = self.values.get(key, default)
        if isinstance(value, list) and value:
            value = max(value)
        if isinstance(value, bool) or not isinstance(value, int) or (value < 1 and value != default):
            seen = "is missing" if value is None else f"is {value!r}"
            raise ModelFileError(
                f"{self.path} is no embedding model that can be run: {key} {seen}, a number above 0 is needed."
            )
        return value

    def token_id(self, key: str, n_tokens: int) -> int | None:
        """Return an id of the vocabulary, or None."""
        value = self.values.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < n_tokens else None


def _check_output_width(metadata: _Metadata, key: str, dims: int) -> None:
    """Refuse a model whose vectors have another length than its hidden rows: rows would be read past their ends."""
    width = metadata.integer(key, dims)
    if width != dims:
        raise ModelFileError(
            f"{metadata.path} makes vectors of {width} numbers from rows of {dims} ({key}), which qgguf cannot read. "
            "Use a model without this key."
        )


def _warnings(header: Header, family: Family, card: Card) -> list[str]:
    """Return why the vectors of a file are not its checkpoint's, as far as its name and its tensors show."""
    names = {tensor.name for tensor in header.tensors}
    reasons = [reason for name, reason in family.needed_tensors.items() if name not in names]
    if card.warning:
        reasons.append(card.warning)
    model = header.metadata.get(keys.TOKENIZER_MODEL)
    if model == keys.UNIGRAM_MODEL and not header.metadata.get(keys.PRECOMPILED_CHARSMAP):
        reasons.append(
            f"the file lacks the tokenizer's table of characters ({keys.PRECOMPILED_CHARSMAP}), so many texts get "
            "other tokens than in the checkpoint. Convert the checkpoint again with a newer converter"
        )
    elif (
        model == keys.BYTE_BPE_MODEL and keys.TOKENIZER not in header.metadata and not parts_of_header(header.metadata)
    ):
        split = header.metadata.get(keys.PRE_TOKENIZER)
        shown = f"texts are split by llama.cpp's {split!r}" if split else "the file does not name how texts are split"
        reasons.append(f"{shown}; ids of code, emoji and rare letters may differ from the checkpoint's")
    return list(dict.fromkeys(reasons))


def _pooling(
    metadata: _Metadata, architecture: str, family: Family, card: Card, corrections: list[str]
) -> Pooling | None:
    declared = metadata.values.get(f"{architecture}.{keys.POOLING_TYPE}")
    if isinstance(declared, int) and declared in list(Pooling) and declared != Pooling.NONE:
        return Pooling(declared)
    if card.pooling is not None:
        corrections.append(f"the header declares no pooling; {family.name} models use {card.pooling.name.lower()}")
    return card.pooling


def _chosen_end_token(text: str, tokens: list[str]) -> int | None:
    if not text:
        return None
    if text not in tokens:
        raise OptionError(f'end_token={text!r} is no token of this model. Name one, or "" for none.')
    return tokens.index(text)


def _end_token(
    metadata: _Metadata,
    tokens: list[str],
    pooling: Pooling | None,
    family: Family,
    card: Card,
    corrections: list[str],
    warnings: list[str],
) -> int | None:
    """Return the id that must end each text. Many converters lost add_eos, so a missing one is not taken for false."""
    if metadata.text(keys.TOKENIZER_MODEL) == keys.WORDPIECE_MODEL:
        return _bert_token(metadata, tokens, keys.SEPARATOR_ID, "[SEP]")
    eos = metadata.token_id(keys.EOS_ID, len(tokens))
    declared = metadata.values.get(keys.ADD_EOS)
    if declared is True or (declared is None and family.frames_texts):
        return eos
    # A file of ours states what the checkpoint's tokenizer does.
    is_ours = bool(metadata.text(keys.QGGUF_VERSION))
    if pooling is not Pooling.LAST or (declared is False and (is_ours or not family.ignores_add_eos)):
        return None
    if card.end_token is None:
        warnings.append(
            "the header does not state whether texts end with a special token, and none is put. A last-token model "
            'mostly needs one: name it with end_token= (--end-token), or confirm with end_token=""'
        )
        return None
    padding = metadata.token_id(keys.PADDING_ID, len(tokens))
    if card.end_token in tokens:
        end: int | None = tokens.index(card.end_token)
    else:
        end = eos if padding is None else padding
    if end is not None:
        corrections.append(f"the header does not ask for an end token; each text ends with {tokens[end]}")
    return end


def _start_token(metadata: _Metadata, tokens: list[str], family: Family, corrections: list[str]) -> int | None:
    """Return the id that must begin each text, where the header lacks what llama.cpp needs to put it."""
    if metadata.text(keys.TOKENIZER_MODEL) == keys.WORDPIECE_MODEL:
        start = metadata.token_id(keys.BOS_ID, len(tokens))
        if start is None:
            start = _bert_token(metadata, tokens, keys.CLASSIFIER_ID, "[CLS]")
        # Without the keys llama.cpp takes the ids of the first BERT's vocabulary.
        named = metadata.values.get(keys.BOS_ID, 101), metadata.values.get(keys.SEPARATOR_ID, 102)
        if named == (start, _bert_token(metadata, tokens, keys.SEPARATOR_ID, "[SEP]")):
            start = None
    elif metadata.values.get(keys.ADD_BOS) is None and family.frames_texts:
        start = metadata.token_id(keys.BOS_ID, len(tokens))
    else:
        start = None
    if start is not None:
        corrections.append(f"the header does not ask for a start token; each text starts with {tokens[start]}")
    return start


def _bert_token(metadata: _Metadata, tokens: list[str], key: str, name: str) -> int | None:
    """Return the id of a special token of WordPiece, by its key or else by its name."""
    number = metadata.token_id(key, len(tokens))
    return tokens.index(name) if number is None and name in tokens else number


def _prompts(header: Header, template: str | None) -> dict[str, str]:
    """Return the prompts of the instruction template, replaced and extended by those that the header stores."""
    stored = {
        key.removeprefix(keys.PROMPT_PREFIX): str(value)
        for key, value in header.metadata.items()
        if key.startswith(keys.PROMPT_PREFIX)
    }
    return (instruction_prompts(template) if template else {}) | stored


def _mrl_dims(metadata: _Metadata, dims: int, card: Card) -> tuple[int, int] | None:
    smallest = metadata.integer(keys.MRL_MIN_DIMS, 0)
    if smallest:
        return min(smallest, dims), min(metadata.integer(keys.MRL_MAX_DIMS, dims), dims)
    return None if card.smallest_dims is None else (min(card.smallest_dims, dims), dims)


def _quantization(metadata: _Metadata, header: Header) -> str:
    """Return the declared file type, else the type that takes most bytes."""
    file_type = metadata.values.get(keys.FILE_TYPE)
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    bytes_of = Counter[int]()
    for tensor in header.tensors:
        bytes_of[tensor.type_id] += tensor.size_bytes
    return TENSOR_TYPES[bytes_of.most_common(1)[0][0]][0] if bytes_of else "?"
