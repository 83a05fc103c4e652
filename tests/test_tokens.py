"""Tokens against Hugging Face `tokenizers`: the world's locales, every code point, and random Unicode."""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import babel.localedata
import pytest
from babel import Locale
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from qgguf import Embedder
from qgguf.gguf_format.reader import read_header
from qgguf.tokenization.byte_bpe import ByteBpe
from qgguf.tokenization.wordpiece import words_of
from tests.support.checkpoints import tokenizer_json
from tests.support.texts import CONTROL, GOLDEN, USER_DEFINED

END = 151643
Ids = Callable[[str], list[int]]


def without_control_tokens(tokenizer: dict) -> Tokenizer:
    """The tokenizer with control tokens under names that no text has: to us a text that names one is text."""
    for added in tokenizer["added_tokens"]:
        if added["special"] or added["content"].startswith("<|"):
            added["content"] = "\ufdd0" * 9 + str(added["id"])
    tokenizer["post_processor"] = tokenizer["truncation"] = tokenizer["padding"] = None
    return Tokenizer.from_str(json.dumps(tokenizer))


class Pair:
    """Our ids of a text beside Hugging Face's."""

    def __init__(self, model: Embedder, reference: Tokenizer, before: list[int], after: list[int]):
        self.model, self.reference, self.before, self.after = model, reference, before, after

    def ours(self, text: str) -> list[int]:
        return self.model.token_ids(text)

    def theirs(self, text: str) -> list[int]:
        return [*self.before, *self.reference.encode(text, add_special_tokens=False).ids, *self.after]

    def check(self, text: str) -> None:
        """Fail with the shortest part of the text that differs."""
        if self.ours(text) == self.theirs(text):
            return
        while shorter := [
            part
            for place in range(len(text))
            if self.ours(part := text[:place] + text[place + 1 :]) != self.theirs(part)
        ]:
            text = shorter[0]
        assert self.ours(text) == self.theirs(text), ascii(text)


@pytest.fixture(scope="module")
def qwen3(qwen3_q4: Path) -> Iterator[Pair]:
    with Embedder(qwen3_q4) as model:
        yield Pair(model, without_control_tokens(json.loads(tokenizer_json())), [], [END])


@pytest.fixture(scope="module")
def minilm(minilm_q4: Path, minilm_checkpoint: Path) -> Iterator[Pair]:
    tokenizer = json.loads((minilm_checkpoint / "tokenizer.json").read_text("utf-8"))
    tokenizer["added_tokens"] = []
    with Embedder(minilm_q4) as model:
        yield Pair(model, without_control_tokens(tokenizer), [101], [102])


@pytest.fixture(params=["qwen3", "minilm"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return request.getfixturevalue(request.param)


# Texts that people write


@cache
def locale_texts() -> dict[str, str]:
    """Locale -> its names of countries, languages, months, days and currencies, as sentences, from the CLDR."""
    texts = {}
    for identifier in babel.localedata.locale_identifiers():
        if identifier.count("_") > 1 or identifier == "root":
            continue
        locale = Locale.parse(identifier)
        if locale.territory:  # the language alone says it all
            continue
        names = [locale.display_name or "", *locale.territories.values(), *[*locale.languages.values()][:100]]
        names += [*locale.months["format"]["wide"].values(), *locale.days["format"]["abbreviated"].values()]
        currencies = [*locale.currencies.items()][:50]
        names += [f"{name} ({locale.currency_symbols.get(code, code)})" for code, name in currencies]
        texts[identifier] = ". ".join(f"{name}, {other}" for name, other in zip(names, names[7:], strict=False))
    return texts


def test_locales(pair: Pair):
    """Text of at least 119 locales gives Hugging Face's ids."""
    assert sum(len(text) > 1000 for text in locale_texts().values()) >= 119
    differ = [name for name, text in locale_texts().items() if pair.ours(text) != pair.theirs(text)]
    assert not differ


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_texts(pair: Pair, name: str):
    """The golden texts give Hugging Face's ids."""
    pair.check(GOLDEN[name])


def test_real_tokenizer_as_it_is(qwen3: Pair):
    """With the published tokenizer.json, nothing changed in it, ids and end token are the same."""
    published = Tokenizer.from_str(tokenizer_json().decode())
    for text in GOLDEN.values():
        assert qwen3.ours(text) == published.encode(text).ids


def test_card_examples(qwen3: Pair):
    """The model card's query has 27 tokens with its prompt and its document 8, end token included."""
    query = qwen3.model.prompts["query"] + "What is the capital of China?"
    document = "The capital of China is Beijing."
    assert [len(qwen3.ours(text)) for text in (query, document)] == [27, 8]
    assert qwen3.ours(document)[-1] == END


# Texts that name tokens


@pytest.mark.parametrize("text", CONTROL)
def test_control_tokens_in_a_text_are_text(pair: Pair, text: str):
    """A text that names a control token is tokenised as its letters."""
    pair.check(text)
    inside = pair.ours(text)[len(pair.before) : -1]
    assert not {END, 151644, 151645, 151659} & set(inside) and not {101, 102, 103} & set(inside)


@pytest.mark.parametrize("text", USER_DEFINED)
def test_user_defined_tokens(pair: Pair, text: str):
    """A token that the vocabulary lets texts name is found as Hugging Face finds it: before NFC, and whole."""
    pair.check(text)


@pytest.mark.parametrize("text", ["", " ", "<|endoftext|>", "the end token"])
def test_one_end_token(qwen3: Pair, text: str):
    """The end token is there exactly once and last."""
    ids = qwen3.ours(text)
    assert ids.count(END) == 1 and ids[-1] == END


# Every code point


# The first two planes and the tags whole, every eighth block of the rarer ideographs, the last of all.
BLOCKS = [*range(0, 0x20000, 128), *range(0x20000, 0x34000, 1024), *range(0xE0000, 0xE0200, 128), 0x10FF80]


def blocks(around: str) -> Iterator[str]:
    """Every code point in a context, 128 to a text."""
    for first in BLOCKS:
        if not 0xD800 <= first <= 0xDFFF:
            yield "\n".join(around.replace("X", chr(code)) for code in range(first, first + 128))


# Each context makes another property of X show: letter, number, space or neither; its place among accents.
CONTEXTS = ["aX'B X!", "1X2 X's  X", "\u0345X\u0334\u0315", "e\u0301X\u0338o\u0308"]


@pytest.mark.parametrize("around", CONTEXTS)
def test_every_code_point(pair: Pair, around: str):
    """No code point of Unicode is taken for another kind of character than Hugging Face takes it for."""
    for text in blocks(around):
        if pair.ours(text) != pair.theirs(text):
            for line in text.split("\n"):
                pair.check(line)


def test_words_of_every_code_point(minilm: Pair):
    """Words are Hugging Face's for a cased model too, and for letters of which no known vocabulary has a token."""
    split = BertPreTokenizer().pre_tokenize_str
    cased = BertNormalizer(lowercase=False, strip_accents=False).normalize_str
    for text in blocks("aXe\u0301 X"):
        assert words_of(text, lowercase=False, strip_accents=False) == [word for word, _ in split(cased(text))]
    young = "Σ\ua7cb\ua7dcΣ ΑΣ"
    theirs = split(minilm.reference.normalizer.normalize_str(young))
    assert words_of(young, lowercase=True, strip_accents=True) == [word for word, _ in theirs]


# Random Unicode

FRAGMENTS = [
    "'s", "'S", "'ſ", "'re", "'VE", "'lL", "'d", " ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x85", "\xa0",
    "\u3000", "1", "23", "½", "Ⅷ", "٣", "a", "B", "é", "e\u0301", "ß", "ſ", "İ", "Σ", "ς", "ﬀ", "K", "\u0338", "\u0301",
    "\u0344",
    "각", "ᄀ", "ᅡ", "ᆨ", "क़", "\u0958", "\u093f", "\x00", "\ufeff", "\u180e", "\u200b", "\u200d", "👍🏽", "\ufffd",
    "。", "!", "-", "_", "▁", "##", "東", "\u0d3c", "\u1715", "\U00013460", "\U00010d40", "\U000105d2\u0307",
    "<think>", "</tool_call>", "<think", "<|endoftext|>", "<|fim_pad|>", "[SEP]", "[UNK]",
]  # fmt: skip
ANYTHING = st.text(st.characters(exclude_categories=["Cs"]))
MIXED = st.lists(st.one_of(st.sampled_from(FRAGMENTS), ANYTHING), max_size=12).map("".join)


@settings(max_examples=600)
@given(text=MIXED)
def test_random_texts_qwen3(qwen3: Pair, text: str):
    """Whatever the text, the ids are Hugging Face's."""
    pair_ids = qwen3.ours(text), qwen3.theirs(text)
    assert pair_ids[0] == pair_ids[1]


@settings(max_examples=600)
@given(text=MIXED)
def test_random_texts_minilm(minilm: Pair, text: str):
    """Whatever the text, the ids are Hugging Face's."""
    assert minilm.ours(text) == minilm.theirs(text)


def random_texts(seed: int, n_texts: int) -> Iterator[str]:
    """Short texts of fragments and of characters from everywhere, many more than hypothesis can make."""
    chance = random.Random(seed)
    for _ in range(n_texts):
        parts = []
        for _ in range(chance.randrange(1, 12)):
            code = chance.choice((chance.randrange(0x3000), chance.randrange(0x20000), chance.randrange(0x110000)))
            wild = chr(code) if not 0xD800 <= code <= 0xDFFF else "x"
            parts.append(chance.choice((wild, chance.choice(FRAGMENTS))))
        yield "".join(parts)


def test_many_random_texts(pair: Pair):
    """20 000 random texts, the same on every run."""
    for text in random_texts(1, 20_000):
        pair.check(text)


@pytest.mark.slow
def test_a_million_random_texts(pair: Pair):
    """A million random texts."""
    for text in random_texts(2, 1_000_000):
        pair.check(text)


def test_our_byte_bpe_alone(qwen3: Pair, qwen3_q4: Path):
    """The rare path is right for every text, not only for the rare ones that take it."""
    says = read_header(qwen3_q4).metadata
    tokens = says["tokenizer.ggml.tokens"]
    kept = {tokens[number]: number for number, kind in enumerate(says["tokenizer.ggml.token_type"]) if kind == 4}
    ours = ByteBpe(tokens, says["tokenizer.ggml.merges"], kept)
    normalise = qwen3.reference.normalizer.normalize_str
    for text in (*random_texts(3, 3000), *locale_texts().values()):
        if "<" not in text:  # theirs normalises around named tokens
            text = normalise(text)
            assert [*ours.ids(text), END] == qwen3.theirs(text)
