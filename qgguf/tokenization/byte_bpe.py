"""Byte-level BPE in Python, for the texts whose letters are younger than llama.cpp's Unicode table.

About five times slower than llama.cpp, and used for almost no text: see `has_newer_letters`.
source  Qwen2's tokenizer.json (the pattern), GPT-2 (the byte alphabet), huggingface/tokenizers (the order of merges)
"""

import heapq
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from qgguf.tokenization.unicode_tables import NEWER_LETTERS, NEWER_NUMBERS

_LETTER, _NUMBER, _SPACE, _OTHER = "é", "²", "\u3000", "§"
_NEWER = re.compile(f"[{NEWER_LETTERS}{NEWER_NUMBERS}]")
_NEWER_NUMBER = re.compile(f"[{NEWER_NUMBERS}]")

# Qwen2's pattern over texts in which each character beyond ASCII has been replaced by one that stands for its class.
_L, _N, _S = f"A-Za-zſ{_LETTER}", f"0-9{_NUMBER}", f"\t-\r {_SPACE}"
_PIECES = re.compile(
    f"'(?:[sSſtTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n{_L}{_N}]?[{_L}]+|[{_N}]"
    f"| ?[^{_S}{_L}{_N}]+[\r\n]*|[{_S}]*[\r\n]+|[{_S}]+(?![^{_S}])|[{_S}]+"
)


def has_newer_letters(text: str) -> bool:
    """Whether llama.cpp may cut this text wrongly."""
    return not text.isascii() and _NEWER.search(text) is not None


class _Classes(dict[int, str]):
    """Code point -> the character that stands for its class, found when first asked for."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if code < 128 or character == "ſ":
            found = character
        elif _NEWER.match(character):
            found = _NUMBER if _NEWER_NUMBER.match(character) else _LETTER
        else:
            kinds = {"L": _LETTER, "N": _NUMBER, "Z": _SPACE}
            found = _SPACE if code == 0x85 else kinds.get(unicodedata.category(character)[0], _OTHER)
        self[code] = found
        return found


_CLASSES = _Classes()


def pieces_of(text: str) -> list[str]:
    """The pieces that are merged each by itself.

    >>> pieces_of("It's 42 ways!")
    ['It', "'s", ' ', '4', '2', ' ways', '!']
    """
    return [text[piece.start() : piece.end()] for piece in _PIECES.finditer(text.translate(_CLASSES))]


def _byte_alphabet() -> list[str]:
    """Byte -> the printable character that stands for it in a vocabulary."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(rest)) for byte in range(256)]


class ByteBpe:
    """Ids of texts that are NFC already, without an end token; control tokens in a text are text.

    tokens  the vocabulary, id -> text in the byte alphabet
    merges  "left right" in the order learned
    kept    text -> id of the tokens that users may write, like `<think>`
    """

    def __init__(self, tokens: Sequence[str], merges: Iterable[str], kept: Mapping[str, int]) -> None:
        self._numbers = {token: number for number, token in enumerate(tokens)}
        self._ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
        self._alphabet = _byte_alphabet()
        self._kept = dict(kept)
        longest_first = sorted(kept, key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if kept else None

    def ids(self, text: str) -> list[int]:
        """Ids of the whole text."""
        ids: list[int] = []
        for place, part in enumerate(self._cut.split(text) if self._cut else [text]):
            if place % 2:
                ids.append(self._kept[part])
                continue
            for piece in pieces_of(part):
                ids += self._merge([self._alphabet[byte] for byte in piece.encode("utf-8")])
        return ids

    def _merge(self, parts: list[str]) -> list[int]:
        """Join neighbours, the earliest learned pair first and of equal ones the leftmost, until none is left."""
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
            # A part that was joined since it was offered is "" or longer than it was.
            if parts[left] != first or right < 0 or parts[right] != second:
                continue
            parts[left], parts[right] = first + second, ""
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [self._numbers[part] for part in parts if part]
