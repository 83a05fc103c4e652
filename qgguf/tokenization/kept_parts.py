"""What a GGUF file of ours keeps of its checkpoint's tokenizer.json: all but vocabulary and merges.

Its truncation and padding are left out too: they are settings of a program, which sentence-transformers overrides.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qgguf.gguf_format.keys import CONTROL, WORD_START

_OUTSIDE, _TEXTS = "qgguf_outside_vocab", "qgguf_texts"


@dataclass(frozen=True, slots=True)
class KeptParts:
    """The parts of a tokenizer.json, with what a GGUF's list of tokens does not show.

    parts    tokenizer.json without vocabulary and merges
    outside  ids of added tokens that the model's own vocabulary lacks
    texts    id -> text of the tokens that a GGUF spells in another way that cannot be undone
    """

    parts: Mapping[str, Any]
    outside: frozenset[int] = frozenset()
    texts: Mapping[int, str] = field(default_factory=dict)


def dump_parts(tokenizer: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int]) -> str:
    """Return what a GGUF keeps of a tokenizer.json, as JSON.

    tokenizer  parsed tokenizer.json, its vocabulary a mapping of text -> id
    tokens     tokens as the GGUF stores them, by id
    types      their types, by id
    """
    model = tokenizer["model"]
    vocabulary = model["vocab"]
    is_word_piece = model["type"] == "WordPiece"
    texts = {
        number: text
        for text, number in vocabulary.items()
        if original_text(tokens[number], types[number], is_word_piece) != text
    }
    added = [token["id"] for token in tokenizer.get("added_tokens") or []]
    kept = {name: part for name, part in tokenizer.items() if name not in ("model", "truncation", "padding")}
    kept["model"] = {name: value for name, value in model.items() if name not in ("vocab", "merges")}
    kept[_OUTSIDE] = [number for number in added if number not in set(vocabulary.values())]
    kept[_TEXTS] = {str(number): text for number, text in texts.items()}
    return json.dumps(kept, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def load_parts(text: str) -> KeptParts:
    """Read what `dump_parts` wrote.

    raises  ValueError, TypeError, KeyError, AttributeError: it is something else
    """
    kept = json.loads(text)
    outside = frozenset(int(number) for number in kept.pop(_OUTSIDE))
    texts = {int(number): str(one) for number, one in kept.pop(_TEXTS).items()}
    return KeptParts(kept, outside, texts)


def original_text(token: str, type_: int, is_word_piece: bool) -> str:
    """Return a token as tokenizer.json spells it: a GGUF marks the start of a word, not its continuation."""
    if not is_word_piece or type_ == CONTROL:
        return token
    # The mark alone is no word: it is the continuation of one.
    return token[1:] if token.startswith(WORD_START) and token != WORD_START else "##" + token
