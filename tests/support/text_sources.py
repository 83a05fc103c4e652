"""Texts of which there are many: those of all locales, of every code point, and random ones."""

import random
from collections.abc import Iterator
from functools import cache

import babel.localedata
from babel import Locale

# The first two planes and the tags whole, every eighth block of the rarer ideographs, the last of all.
BLOCKS = [*range(0, 0x20000, 128), *range(0x20000, 0x34000, 1024), *range(0xE0000, 0xE0200, 128), 0x10FF80]

# Each context shows another property of X: letter, number, space or neither; its order among accents.
CONTEXTS = ["aX'B X!", "1X2 X's  X", "\u0345X\u0334\u0315", "e\u0301X\u0338o\u0308"]

# Pieces on which tokenizers differ: contractions, spaces, digits, case, composition, scripts, names of tokens.
FRAGMENTS = [
    "'s", "'S", "'ſ", "'re", "'VE", "'lL", "'d", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0",
    "\u3000", "1", "23", "½", "Ⅷ", "٣", "a", "B", "é", "e\u0301", "ß", "ſ", "İ", "Σ", "ς", "ﬀ", "K", "\u0338", "\u0301",
    "\u0344",
    "각", "ᄀ", "ᅡ", "ᆨ", "क़", "\u0958", "\u093f", "\x00", "\ufeff", "\u180e", "\u200b", "\u200d", "👍🏽", "\ufffd",
    "。", "!", "-", "_", "▁", "##", "東", "\u0d3c", "\u1715", "\U00013460", "\U00010d40", "\U000105d2\u0307",
    "<think>", "</tool_call>", "<think", "<|endoftext|>", "<|fim_pad|>", "[SEP]", "[UNK]",
]  # fmt: skip


@cache
def locale_texts() -> dict[str, str]:
    """Locale -> its names of countries, languages, months, days and currencies, as sentences, from the CLDR."""
    texts = {}
    for identifier in babel.localedata.locale_identifiers():
        if identifier.count("_") > 1 or identifier == "root":
            continue
        locale = Locale.parse(identifier)
        if locale.territory:  # the language alone has the same names
            continue
        names = [locale.display_name or "", *locale.territories.values(), *[*locale.languages.values()][:100]]
        names += [*locale.months["format"]["wide"].values(), *locale.days["format"]["abbreviated"].values()]
        currencies = [*locale.currencies.items()][:50]
        names += [f"{name} ({locale.currency_symbols.get(code, code)})" for code, name in currencies]
        texts[identifier] = ". ".join(f"{name}, {other}" for name, other in zip(names, names[7:], strict=False))
    return texts


def blocks(around: str) -> Iterator[str]:
    """Texts of every code point in a context, 128 code points to a text."""
    for first in BLOCKS:
        if not 0xD800 <= first <= 0xDFFF:
            yield "\n".join(around.replace("X", chr(code)) for code in range(first, first + 128))


def random_texts(seed: int, n_texts: int) -> Iterator[str]:
    """Short texts of fragments and of any characters, many more than hypothesis can generate in the same time."""
    chance = random.Random(seed)
    for _ in range(n_texts):
        parts = []
        for _ in range(chance.randrange(1, 12)):
            code = chance.choice((chance.randrange(0x3000), chance.randrange(0x20000), chance.randrange(0x110000)))
            wild = chr(code) if not 0xD800 <= code <= 0xDFFF else "x"
            parts.append(chance.choice((wild, chance.choice(FRAGMENTS))))
        yield "".join(parts)
