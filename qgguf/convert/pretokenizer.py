"""The split of a text before the vocabulary is used: that of tokenizer.json, compared with llama.cpp's built-in ones.

llama.cpp has its pre-tokenizers built in, by name. For a checkpoint that splits otherwise it would silently give other
tokens, so everything that influences the split is compared here, and what is unknown is refused.
"""

from typing import Any

from qgguf.errors import CheckpointError
from qgguf.gguf_format import keys

_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Vocabulary size -> the name that llama.cpp's own converter writes. Nothing reads it for WordPiece.
_WORDPIECE_NAMES = {30522: "jina-v2-en", 21128: "bert-bge-large"}


def bpe_pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """Return the value of tokenizer.ggml.pre for a byte-level BPE.

    raises  CheckpointError: any split but Qwen2's
    """
    model = tokenizer["model"]
    for key in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            raise _unknown(f"its BPE has {key} {model[key]!r}")
    if _kind(tokenizer.get("normalizer")) != "NFC":
        raise _unknown(f"its normalizer is {_kind(tokenizer.get('normalizer'))}, not NFC")
    steps = _steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    if [_kind(step) for step in steps] != ["Split", "ByteLevel"]:
        raise _unknown(f"its pre_tokenizer is {[_kind(step) for step in steps]}, not Split and ByteLevel")
    split, byte_level = steps
    pattern = split.get("pattern")
    regex = pattern.get("Regex") if isinstance(pattern, dict) else None
    if regex != _QWEN2_PATTERN or split.get("behavior") != "Isolated" or split.get("invert"):
        raise _unknown(f"its pre_tokenizer splits by {regex!r}")
    if byte_level.get("add_prefix_space", True) or byte_level.get("use_regex", True):
        raise _unknown("its ByteLevel adds a prefix space or splits again")
    return keys.QWEN2_PRE_TOKENIZER


def wordpiece_pre_tokenizer(tokenizer: dict[str, Any]) -> tuple[str, dict[str, bool]]:
    """Return the value of tokenizer.ggml.pre for BERT's WordPiece, and GGUF key -> flag of its normalizer.

    raises  CheckpointError: a split that is not BERT's
    """
    model = tokenizer["model"]
    if model.get("continuing_subword_prefix", "##") != "##":
        raise _unknown(f"its WordPiece continues words with {model['continuing_subword_prefix']!r}, not '##'")
    if _kind(tokenizer.get("pre_tokenizer")) != "BertPreTokenizer":
        raise _unknown(f"its pre_tokenizer is {_kind(tokenizer.get('pre_tokenizer'))}, not BertPreTokenizer")
    normalizer = tokenizer.get("normalizer")
    if not isinstance(normalizer, dict) or _kind(normalizer) != "BertNormalizer":
        raise _unknown(f"its normalizer is {_kind(normalizer)}, not BertNormalizer")
    for key in ("clean_text", "handle_chinese_chars"):
        if normalizer.get(key, True) is not True:
            raise _unknown(f"its normalizer has {key} {normalizer[key]!r}")
    flags = {
        gguf_key: normalizer[key]
        for key, gguf_key in (("lowercase", keys.LOWERCASE), ("strip_accents", keys.STRIP_ACCENTS))
        if isinstance(normalizer.get(key), bool)
    }
    return _WORDPIECE_NAMES.get(len(model["vocab"]), "default"), flags


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    """Return a pre-tokenizer's steps: those of a Sequence, or itself alone."""
    steps = part.get(inner) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else "absent"


def _unknown(what: str) -> CheckpointError:
    return CheckpointError(
        f"tokenizer.json splits text in a way that llama.cpp does not have built in: {what}. "
        "Use the original model's tokenizer.json if this one was changed; otherwise it cannot be converted."
    )
