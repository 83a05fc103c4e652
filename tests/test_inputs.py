"""Texts that callers give: checked, without duplicates, in windows."""

from collections import UserDict, UserString
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.errors import TextError
from qgguf.inference import inputs
from qgguf.inference.inputs import as_list, distinct, one_text, windows

# Few texts, so that many are equal; surrogates are no text.
some_texts = st.lists(st.text("aé한😉", max_size=3) | st.text(max_size=30), max_size=40)


@given(some_texts, st.integers(1, 9), st.integers(1, 60))
def test_windows_cover_all_texts_within_their_limits(texts: list[str], most_texts: int, most_characters: int):
    """One after the other, none empty, none over a limit but for one long text, none closed while the next fits."""
    with patch.multiple(inputs, WINDOW_TEXTS=most_texts, WINDOW_CHARACTERS=most_characters):
        spans = list(windows(texts))

    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans)][: len(spans)]
    assert (spans[-1][1] if spans else 0) == len(texts)
    for start, stop in spans:
        n_characters = sum(map(len, texts[start:stop]))
        assert 1 <= stop - start <= most_texts
        assert n_characters <= most_characters or stop - start == 1
        if stop < len(texts):
            assert stop - start == most_texts or n_characters + len(texts[stop]) > most_characters


@given(some_texts)
def test_distinct_texts_give_back_all_texts(texts: list[str]):
    """Each is there once, in the order in which they first come; the indices give the original list."""
    different, indices = distinct(texts)

    assert [different[index] for index in indices] == texts
    assert different == list(dict.fromkeys(texts))
    assert indices.dtype == np.intp and len(indices) == len(texts)


@given(st.lists(st.text(max_size=20), max_size=20))
def test_any_iterable_of_texts_becomes_a_list(texts: list[str]):
    """A generator is read once, a tuple is a list of texts, a str is one text."""
    assert as_list(text for text in texts) == as_list(tuple(texts)) == as_list(texts) == texts
    assert as_list("".join(texts)) == ["".join(texts)]


@given(st.lists(st.text(max_size=5), max_size=6), st.integers(0, 0x7FF), st.text(max_size=5), st.text(max_size=5))
def test_lone_surrogate_is_refused(before: list[str], number: int, left: str, right: str):
    """The message names its index and its number."""
    surrogate = chr(0xD800 + number)
    with pytest.raises(TextError, match=rf"Text {len(before)} holds the lone surrogate U\+{0xD800 + number:04X}"):
        as_list([*before, left + surrogate + right, "fine"])


@pytest.mark.parametrize("item", [None, 3, b"x", ["x"], 1.5])
def test_item_that_is_not_a_text_is_refused(item: object):
    """The message names its index and its type."""
    with pytest.raises(TextError, match=f"Text 1 is {type(item).__name__}, not str"):
        as_list(["é", item])


class Column:
    """A column of a table, as far as its users know it: a shape, a length, items by iteration."""

    def __init__(self, items: list[object], axes: int = 1) -> None:
        self.items, self.shape, self.index = items, (len(items),) * axes, range(len(items))

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self):
        return iter(self.items)


class Rows:
    """A sequence by the older protocol: __getitem__ alone."""

    def __getitem__(self, index: int) -> str:
        return ["é", "한"][index]


@pytest.mark.parametrize(
    "texts",
    [
        ["é", "한"],
        Rows(),
        ("é", "한"),
        (text for text in ("é", "한")),
        np.array(["é", "한"]),
        np.array(["é", "한"], object),
        {"a": "é", "b": "한"}.values(),
        {"é": 1, "한": 2}.keys(),
        Column(["é", "한"]),
        [np.str_("é"), "한"],
    ],
    ids=lambda texts: type(texts).__name__,
)
def test_texts_in_any_order_keeping_form_are_read(texts: object):
    """Lists, generators, arrays, views of a dict, columns of tables."""
    assert as_list(texts) == ["é", "한"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (np.array("é"), "has 0 axes, 1 is needed"),
        (np.array(3), "has 0 axes"),
        (np.array([["é"], ["한"]]), "has 2 axes"),
        (Column(["text", "title"], axes=2), "Column has 2 axes"),
        ({"text": "é"}, r"not dict.*list\(texts\.values\(\)\)"),
        ({}, "not dict"),
        ({"é", "한"}, "no order.*sorted"),
        (frozenset(), "no order"),
        (b"abc", "not bytes"),
        (UserString("abc"), "Text 0 is UserString"),
        (UserDict(text="é"), "not UserDict"),
        (range(2), "Text 0 is int"),
        (bytearray(b"abc"), "not bytearray"),
        (memoryview(b"abc"), "memoryview"),
        (None, "not NoneType"),
        (3, "not int"),
        (float("nan"), "not float"),
        (Column(["é", None]), "Text 1 is NoneType"),
        (np.array(["é", float("nan")], object), "Text 1 is float"),
        (np.array([b"abc"]), "Text 0 is bytes_"),
    ],
)
def test_what_is_not_a_list_of_texts_is_refused(texts: object, message: str):
    """One line with its type: no array without axes, no table, no mapping, no set, no bytes."""
    with pytest.raises(TextError, match=message) as caught:
        as_list(texts)
    assert "\n" not in str(caught.value)


def test_one_text_is_a_str():
    """A list of two texts is not cut to the first."""
    assert one_text(np.str_("é")) == "é"
    for texts in (["é", "한"], [], None, b"x", np.array("é")):
        with pytest.raises(TextError, match="One text is needed"):
            one_text(texts)
