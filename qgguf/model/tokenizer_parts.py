"""The parts of tokenizer.json that stand behind the names in a GGUF header: how a text is normalised and split.

source  the tokenizer.json of the models that are named here; llama.cpp's src/llama-vocab.cpp for the names
"""

import base64
from collections.abc import Mapping
from typing import Any

from qgguf.gguf_format import keys

_QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3_PATTERN = _QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

_NFC = {"type": "NFC"}
# GPT-2's own pattern is the one that ByteLevel has built in.
_GPT2_SPLIT = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_XLM_R_SPLIT = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "WhitespaceSplit"},
        {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
    ],
}


def _split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _GPT2_SPLIT | {"use_regex": False}]}


def _bpe(normalizer: Any, pre_tokenizer: Any, *, ignore_merges: bool = False) -> dict[str, Any]:
    model = {"type": "BPE", "ignore_merges": ignore_merges}
    return {"normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "model": model}


_GPT2 = _bpe(None, _GPT2_SPLIT)
_LLAMA3 = _bpe(None, _split_by(_LLAMA3_PATTERN), ignore_merges=True)

# Value of tokenizer.ggml.pre -> parts.
_BYTE_BPE: Mapping[str, Mapping[str, Any]] = {
    keys.QWEN2_PRE_TOKENIZER: _bpe(_NFC, _split_by(_QWEN2_PATTERN)),
    "gpt-2": _GPT2,
    "roberta-bpe": _GPT2,
    "modern-bert": _bpe(_NFC, _GPT2_SPLIT),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
}


def parts_of_header(metadata: Mapping[str, object]) -> Mapping[str, Any] | None:
    """Return normalizer, pre_tokenizer and model, without its vocabulary, of the tokenizer that a header names.

    returns  None where llama.cpp's own tokenizer is the only one known for it
    """
    model = metadata.get(keys.TOKENIZER_MODEL)
    if model == keys.WORDPIECE_MODEL:
        return _word_piece(metadata)
    if model == keys.BYTE_BPE_MODEL:
        return _BYTE_BPE.get(str(metadata.get(keys.PRE_TOKENIZER)))
    charsmap = metadata.get(keys.PRECOMPILED_CHARSMAP)
    if model == keys.UNIGRAM_MODEL and isinstance(charsmap, list) and charsmap:
        return _unigram(charsmap)
    return None


def _word_piece(metadata: Mapping[str, object]) -> dict[str, Any]:
    lowercase = metadata.get(keys.LOWERCASE, not keeps_case(metadata))
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": metadata.get(keys.STRIP_ACCENTS, lowercase),
            "lowercase": lowercase,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "max_input_chars_per_word": 100, "continuing_subword_prefix": "##"},
    }


def keeps_case(metadata: Mapping[str, object]) -> bool:
    """Return whether a WordPiece header does not state it, but its texts cannot be meant to be lowercased.

    Older files of cased models lack the key. Tokens with capitals are never reached by texts of lower case; a few of
    them prove nothing.
    """
    if metadata.get(keys.TOKENIZER_MODEL) != keys.WORDPIECE_MODEL or keys.LOWERCASE in metadata:
        return False
    tokens: Any = metadata.get(keys.TOKENS) or []
    n_with_capitals: int = sum("[" not in token and token.lower() != token for token in tokens)
    return n_with_capitals > len(tokens) // 50


def _unigram(charsmap: list[int]) -> dict[str, Any]:
    # Some writers store signed bytes.
    encoded = base64.b64encode(bytes(byte & 0xFF for byte in charsmap)).decode()
    return {
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": encoded},
        "pre_tokenizer": _XLM_R_SPLIT,
        "model": {"type": "Unigram", "byte_fallback": False},
    }
