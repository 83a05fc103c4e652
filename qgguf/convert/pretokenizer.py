"""How a tokenizer.json cuts text before its vocabulary is used, checked against what llama.cpp can do.

llama.cpp has its pre-tokenizers built in, by name; a checkpoint that cuts otherwise would get other tokens without
a sign. So everything that bears on the cut is compared here, and what is not known is refused.
"""

from typing import Any

from qgguf.errors import CheckpointError

_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The names that llama.cpp's own converter writes; for WordPiece they tell the vocabulary, and nothing reads them.
_WORDPIECE_NAMES = {30522: "jina-v2-en", 21128: "bert-bge-large"}


def bpe_pre_tokenizer(tokenizer: dict[str, Any]) -> str:
    """The value of tokenizer.ggml.pre for a byte-level BPE.

    raises  CheckpointError: anything but Qwen2's cut
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
    return "qwen2"


def wordpiece_pre_tokenizer(tokenizer: dict[str, Any]) -> tuple[str, dict[str, bool]]:
    """The value of tokenizer.ggml.pre for BERT's WordPiece, and what its normalizer says (lowercase, strip_accents).

    raises  CheckpointError: a cut that is not BERT's
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
    said = {key: normalizer[key] for key in ("lowercase", "strip_accents") if isinstance(normalizer.get(key), bool)}
    return _WORDPIECE_NAMES.get(len(model["vocab"]), "default"), said


def _steps(part: Any, inner: str) -> list[dict[str, Any]]:
    """A pre-tokenizer's steps, whether it stands alone or in a Sequence."""
    steps = part.get(inner) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []


def _kind(part: Any) -> str:
    return str(part.get("type")) if isinstance(part, dict) else "absent"


def _unknown(what: str) -> CheckpointError:
    return CheckpointError(
        f"tokenizer.json cuts text in a way that llama.cpp does not have built in: {what}. "
        "Use the original model's tokenizer.json if this one was changed; otherwise it cannot be converted."
    )
