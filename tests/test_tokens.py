"""Ids compared with those of Hugging Face `tokenizers`: all locales, every code point, and random Unicode."""

import json
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from qgguf import Embedder
from tests.support.checkpoints import tokenizer_json
from tests.support.text_sources import CONTEXTS, FRAGMENTS, blocks, locale_texts, random_texts
from tests.support.texts import CONTROL, GOLDEN, USER_DEFINED

END = 151643
Ids = Callable[[str], list[int]]


def without_control_tokens(tokenizer: dict) -> Tokenizer:
    """The tokenizer with control tokens under names that occur in no text: qgguf tokenises such a name as text."""
    for added in tokenizer["added_tokens"]:
        if added["special"] or added["content"].startswith("<|"):
            added["content"] = "\ufdd0" * 9 + str(added["id"])
    tokenizer["post_processor"] = tokenizer["truncation"] = tokenizer["padding"] = None
    return Tokenizer.from_str(json.dumps(tokenizer))


class Pair:
    """A model's ids of a text and Hugging Face's."""

    def __init__(self, model: Embedder, reference: Tokenizer, prefix_ids: list[int], suffix_ids: list[int]):
        self.model, self.reference, self.prefix_ids, self.suffix_ids = model, reference, prefix_ids, suffix_ids

    def ours(self, text: str) -> list[int]:
        return self.model.token_ids(text)

    def theirs(self, text: str) -> list[int]:
        return [*self.prefix_ids, *self.reference.encode(text, add_special_tokens=False).ids, *self.suffix_ids]

    def check(self, text: str) -> None:
        """Fail with the shortest part of the text whose ids differ."""
        if self.ours(text) == self.theirs(text):
            return
        while shorter := [
            part
            for index in range(len(text))
            if self.ours(part := text[:index] + text[index + 1 :]) != self.theirs(part)
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


def test_texts_of_all_locales(pair: Pair):
    """Texts of at least 119 locales get Hugging Face's ids."""
    assert sum(len(text) > 1000 for text in locale_texts().values()) >= 119
    differ = [name for name, text in locale_texts().items() if pair.ours(text) != pair.theirs(text)]
    assert not differ


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_texts(pair: Pair, name: str):
    """The golden texts get Hugging Face's ids."""
    pair.check(GOLDEN[name])


def test_ids_equal_those_of_the_published_tokenizer(qwen3: Pair):
    """Ids and end token are those of the published tokenizer.json without any change."""
    published = Tokenizer.from_str(tokenizer_json().decode())
    for text in GOLDEN.values():
        assert qwen3.ours(text) == published.encode(text).ids


def test_token_counts_of_the_model_card(qwen3: Pair):
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
    inside = pair.ours(text)[len(pair.prefix_ids) : -1]
    assert not {END, 151644, 151645, 151659} & set(inside) and not {101, 102, 103} & set(inside)


@pytest.mark.parametrize("text", USER_DEFINED)
def test_user_defined_tokens(pair: Pair, text: str):
    """A user-defined token in a text gets its own id, as in Hugging Face's tokenizer: before NFC, and as a whole."""
    pair.check(text)


@pytest.mark.parametrize("text", ["", " ", "<|endoftext|>", "the end token"])
def test_one_end_token(qwen3: Pair, text: str):
    """The end token occurs exactly once, as the last id."""
    ids = qwen3.ours(text)
    assert ids.count(END) == 1 and ids[-1] == END


# Every code point


@pytest.mark.parametrize("around", CONTEXTS)
def test_every_code_point(pair: Pair, around: str):
    """Every code point of Unicode belongs to the class that it has in Hugging Face's tokenizer."""
    for text in blocks(around):
        if pair.ours(text) != pair.theirs(text):
            for line in text.split("\n"):
                pair.check(line)


# Random Unicode

ANYTHING = st.text(st.characters(exclude_categories=["Cs"]))
MIXED = st.lists(st.one_of(st.sampled_from(FRAGMENTS), ANYTHING), max_size=12).map("".join)


@settings(max_examples=600)
@given(text=MIXED)
def test_random_texts_qwen3(qwen3: Pair, text: str):
    """Any text gets Hugging Face's ids with the Qwen3 tokenizer."""
    assert qwen3.ours(text) == qwen3.theirs(text)


@settings(max_examples=600)
@given(text=MIXED)
def test_random_texts_minilm(minilm: Pair, text: str):
    """Any text gets Hugging Face's ids with the MiniLM tokenizer."""
    assert minilm.ours(text) == minilm.theirs(text)


def test_many_random_texts(pair: Pair):
    """20,000 random texts, the same in every run, get Hugging Face's ids."""
    for text in random_texts(1, 20_000):
        pair.check(text)


@pytest.mark.slow
def test_a_million_random_texts(pair: Pair):
    """A million random texts get Hugging Face's ids."""
    for text in random_texts(2, 1_000_000):
        pair.check(text)


def test_llama_cpp_gives_the_same_ids(qwen3: Pair):
    """llama.cpp's own tokenizer, written independently, agrees on all texts whose letters it knows."""
    native = qwen3.model._engine._model
    for text in (*GOLDEN.values(), *USER_DEFINED, *locale_texts().values()):
        text = unicodedata.normalize("NFC", text)
        if not any(unicodedata.category(letter) == "Cn" or ord(letter) > 0x1F000 for letter in text):
            assert [*native.tokenize(text).tolist(), END] == qwen3.ours(text)
