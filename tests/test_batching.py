import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qgguf.batching import plan_batches
from qgguf.errors import TextTooLongError


@given(st.lists(st.integers(1, 50)), st.integers(50, 200), st.integers(1, 9))
def test_every_text_once_within_budget_longest_first(lengths, max_tokens, max_texts):
    """Each index appears once, no batch is over its budget, and lengths never grow along the plan."""
    batches = plan_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)

    flat = [index for batch in batches for index in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[index] for index in flat] == sorted(lengths, reverse=True)
    for batch in batches:
        assert 1 <= len(batch) <= max_texts
        assert sum(lengths[index] for index in batch) <= max_tokens


@given(st.lists(st.integers(1, 50), min_size=1), st.integers(50, 200), st.integers(1, 9))
def test_a_batch_is_closed_only_when_the_next_text_does_not_fit(lengths, max_tokens, max_texts):
    """Nothing is left half empty: the first text of a batch did not fit the one before."""
    batches = plan_batches(lengths, max_tokens=max_tokens, max_texts=max_texts)

    for full, following in itertools.pairwise(batches):
        room = max_tokens - sum(lengths[index] for index in full)
        assert len(full) == max_texts or lengths[following[0]] > room


def test_a_text_over_the_budget_is_refused():
    """One text that no batch holds is named with both numbers."""
    with pytest.raises(TextTooLongError, match=r"Text 1 has 11 tokens; a batch holds 10"):
        plan_batches([3, 11], max_tokens=10, max_texts=4)


def test_no_texts_no_batches():
    """An empty list is an empty plan."""
    assert plan_batches([], max_tokens=10, max_texts=4) == []
