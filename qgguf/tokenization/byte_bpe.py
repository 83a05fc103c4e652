"""Byte-level BPE in Python, for texts with letters that are missing in llama.cpp's Unicode table.

It is about five times slower than llama.cpp and used for very few texts, see `has_newer_letters`.

source  Qwen2's tokenizer.json (the pattern), GPT-2 (the byte alphabet), huggingface/tokenizers (the order of merges)
"""

import heapq
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from qgguf.tokenization.unicode_tables import NEWER_LETTERS, NEWER_NUMBERS

_NEWER = re.compile(f"[{NEWER_LETTERS}{NEWER_NUMBERS}]")
_NEWER_NUMBER = re.compile(f"[{NEWER_NUMBERS}]")

# Qwen2's pattern asks for Unicode letters, numbers and spaces (\p{L}, \p{N}, \s), which Python's re cannot name for the
# tokenizers' Unicode version. So each character beyond ASCII is first replaced by one character that represents its
# class, and the pattern names these four instead. "ſ" stays: the pattern compares it with "s" in any case.
_LETTER, _NUMBER, _SPACE, _OTHER = "é", "²", "\u3000", "§"
_L, _N, _S = f"A-Za-zſ{_LETTER}", f"0-9{_NUMBER}", f"\t-\r {_SPACE}"
_PIECES = re.compile(
    f"'(?:[sSſtTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n{_L}{_N}]?[{_L}]+|[{_N}]"
    f"| ?[^{_S}{_L}{_N}]+[\r\n]*|[{_S}]*[\r\n]+|[{_S}]+(?![^{_S}])|[{_S}]+"
)


def has_newer_letters(text: str) -> bool:
    """Return whether llama.cpp may split this text at other positions than the Hugging Face tokenizer."""
    return not text.isascii() and _NEWER.search(text) is not None


@lru_cache(maxsize=1 << 16)
def _class_of(character: str) -> str:
    """Return the character that represents the class of this one."""
    if character.isascii() or character == "ſ":
        return character
    if _NEWER.match(character):
        return _NUMBER if _NEWER_NUMBER.match(character) else _LETTER
    if character == "\x85":
        return _SPACE
    return {"L": _LETTER, "N": _NUMBER, "Z": _SPACE}.get(unicodedata.category(character)[0], _OTHER)


def pieces_of(text: str) -> list[str]:
    """Return the pieces of a text, in order; merges never cross from one to the next.

    >>> pieces_of("It's 42 ways!")
    ['It', "'s", ' ', '4', '2', ' ways', '!']
    """
    classes = "".join(map(_class_of, text))
    return [text[piece.start() : piece.end()] for piece in _PIECES.finditer(classes)]


def _byte_alphabet() -> list[str]:
    """Return byte -> the printable character that represents it in a vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


class ByteBpe:
    """Ids of NFC texts, without an end token; a control token's name in a text is plain text.

    tokens       the vocabulary, id -> text in the byte alphabet
    merges       "left right" in the order learned
    user_tokens  text -> id of the user-defined tokens, like `<think>`
    """

    def __init__(self, tokens: Sequence[str], merges: Iterable[str], user_tokens: Mapping[str, int]) -> None:
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._alphabet = _byte_alphabet()
        self._user_tokens = dict(user_tokens)
        longest_first = sorted(user_tokens, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split if user_tokens else None

    def ids(self, text: str) -> list[int]:
        """Return the ids of the whole text."""
        ids: list[int] = []
        # A split by a pattern in brackets gives plain text at even indices and the user-defined tokens at odd ones.
        for index, part in enumerate(self._split(text) if self._split else [text]):
            if index % 2:
                ids.append(self._user_tokens[part])
                continue
            for piece in pieces_of(part):
                ids += self._merge([self._alphabet[byte] for byte in piece.encode("utf-8")])
        return ids

    def _merge(self, parts: list[str]) -> list[int]:
        """Join neighbours until no pair can be joined: the earliest learned pair first, of equal ones the leftmost."""
        after = [*range(1, len(parts)), -1]
        before = list(range(-1, len(parts) - 1))
        queue: list[tuple[int, int, str, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right >= 0:
                pair = (parts[left], parts[right])
                if (rank := self._ranks.get(pair)) is not None:
                    heapq.heappush(queue, (rank, left, *pair))

        for left in range(len(parts) - 1):
            offer(left, left + 1)
        while queue:
            _, left, first, second = heapq.heappop(queue)
            right = after[left]
            # Skip a pair of which a part has been joined in the meantime: such a part is now "" or longer.
            if parts[left] != first or right < 0 or parts[right] != second:
                continue
            parts[left], parts[right] = first + second, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [self._ids[part] for part in parts if part]
