"""Batches: shared beginnings are laid out once, in an order that a lane has room for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.batching import (
    common_length,
    flat_tokens,
    order_texts,
    share_prefixes,
    sort_key,
    take_batch,
)
from qgguf.errors import TextTooLongError

# Two ids and short texts: most texts begin like another, and some are the beginning of another.
ids = st.lists(st.integers(0, 1) | st.integers(0, 200_000), min_size=1, max_size=8).map(tuple)
texts_of_ids = st.lists(ids, min_size=1, max_size=30, unique=True)


def arrays(texts):
    return [np.array(text, np.int32) for text in texts]


@given(ids, ids)
def test_common_length_equals_a_loop(a, b):
    """Counting tokens one by one gives the same."""
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1

    assert common_length(*arrays([a, b])) == expected


@given(texts_of_ids)
def test_sort_keys_order_texts_as_their_ids(texts):
    """Texts that begin alike are neighbours: the order is that of the tuples."""
    assert sorted(texts, key=lambda text: sort_key(np.array(text, np.int32))) == sorted(texts)


@given(texts_of_ids, st.randoms())
def test_unsorted_batch_is_refused(texts, random):
    """A layout of unsorted or equal texts would give texts the tokens of others."""
    shuffled = [*texts, *texts[:1]]
    random.shuffle(shuffled)
    with pytest.raises(ValueError, match="sorted"):
        share_prefixes(arrays(shuffled if shuffled != sorted(set(shuffled)) else [*shuffled, shuffled[-1]]))


@given(texts_of_ids, st.lists(st.integers(0, 9), max_size=4))
def test_shared_layout_holds_each_beginning_once(texts, beginning):
    """Compared with the set of all beginnings: every token of every text is there, once, for its texts only."""
    texts = sorted((*beginning, *text) for text in texts)
    skip = len(beginning)

    layout = share_prefixes(arrays(texts), skip)

    expected = {text[: depth + 1] for text in texts for depth in range(skip, len(text))}
    found = {}
    rows = zip(layout.tokens, layout.positions, layout.first, layout.counts, strict=True)
    for token, position, first, count in rows:
        members = texts[first : first + count]
        start = members[0][: position + 1]
        assert start[-1] == token
        assert members == [text for text in texts if text[: position + 1] == start]
        assert start not in found
        # The tokens that it builds on were laid out before it.
        assert position == skip or start[:-1] in found
        found[start] = True
    assert set(found) == expected
    assert [texts[layout.first[end]] for end in layout.ends] == texts
    assert [layout.positions[end] + 1 for end in layout.ends] == [len(text) for text in texts]
    assert (np.diff(layout.ends) > 0).all()


@given(texts_of_ids)
def test_flat_layout_has_the_texts_one_after_another(texts):
    """Nothing shared, nothing reordered."""
    layout = flat_tokens(arrays(texts))

    assert layout.tokens.tolist() == [token for text in texts for token in text]
    assert layout.positions.tolist() == [position for text in texts for position in range(len(text))]
    assert layout.first.tolist() == [number for number, text in enumerate(texts) for _ in text]
    assert (layout.counts == 1).all()
    assert [layout.first[end] for end in layout.ends] == list(range(len(texts)))


@given(texts_of_ids)
def test_order_without_sharing_is_longest_first(texts):
    """Equally long texts are in the order of their ids, and each costs all its tokens."""
    given = arrays(texts)
    order, costs = order_texts(given, [sort_key(text) for text in given], least_shared=None)

    assert [texts[index] for index in order] == sorted(texts, key=lambda text: (-len(text), text))
    assert costs == [len(texts[index]) for index in order]


@given(texts_of_ids, st.integers(1, 5))
def test_order_is_longest_first_with_shared_beginnings_together(texts, least_shared):
    """Each text once; those that share enough follow each other; groups by their longest; costs less what is shared."""
    given = arrays(texts)
    order, costs = order_texts(given, [sort_key(text) for text in given], least_shared=least_shared)

    assert sorted(order) == list(range(len(texts)))
    groups, previous = [], ()
    for index, cost in zip(order, costs, strict=True):
        shared = common_length(*arrays([previous, texts[index]])) if previous else 0
        if previous and shared >= least_shared and previous < texts[index]:
            groups[-1].append(index)
            assert cost in (len(texts[index]) - shared, len(texts[index]))
        else:
            groups.append([index])
            assert cost == len(texts[index])
        previous = texts[index]
    longest = [max(len(texts[index]) for index in group) for group in groups]
    assert longest == sorted(longest, reverse=True)


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 49)), min_size=1), st.integers(50, 200), st.integers(1, 9))
def test_batches_keep_their_budget_and_are_full(pairs, max_tokens, max_texts):
    """No batch is over its tokens or texts, and none is closed before the next text does not fit."""
    lengths = [length for length, _ in pairs]
    costs = [max(1, length - shared) for length, shared in pairs]
    start = 0
    while start < len(lengths):
        stop = take_batch(lengths, costs, start, max_tokens=max_tokens, max_texts=max_texts)
        used = lengths[start] + sum(costs[start + 1 : stop])
        assert start < stop <= start + max_texts
        assert used <= max_tokens
        if stop < len(lengths):
            assert stop - start == max_texts or used + costs[stop] > max_tokens
        start = stop


def test_text_over_the_budget_is_refused():
    """One text that no batch holds is refused with both numbers."""
    with pytest.raises(TextTooLongError, match=r"11 tokens; a batch holds 10"):
        take_batch([11], [11], 0, max_tokens=10, max_texts=4)
