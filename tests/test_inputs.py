"""Texts that callers give: checked, without duplicates, in windows."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.errors import TextError
from qgguf.inference import inputs
from qgguf.inference.inputs import as_list, distinct, windows

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
