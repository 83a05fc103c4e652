"""Long lists: window after window, and nothing of it shows but that memory does not grow."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf import Embedder
from qgguf.errors import TextError
from qgguf.inference import inputs as text_lists
from qgguf.inference import pipeline as bulk
from tests.support.comparing import cosines

SMALL = {"WINDOW_TEXTS": 7, "WINDOW_CHARACTERS": 120}
MAX_TOKENS = 40


@pytest.fixture(scope="module")
def qwen3(small_qwen3: Path) -> Iterator[Embedder]:
    with Embedder(small_qwen3, max_tokens=MAX_TOKENS) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def poisoned(poisoned_qwen3: Path) -> Iterator[Embedder]:
    with Embedder(poisoned_qwen3) as embedder:
        yield embedder


some_texts = st.text("ab é한", max_size=2) | st.text(max_size=30) | st.sampled_from(["word " * 40, "word " * 50])


@settings(max_examples=30)
@given(st.lists(some_texts, max_size=60), st.sampled_from([{}, {"prompt_name": "query"}, {"truncate_dim": 32}]))
def test_many_windows_equal_one_by_one(qwen3: Embedder, texts: list[str], options: dict[str, object]):
    """Vectors, counts and cuts of a long list are each text's own; equal texts in different windows are equal."""
    with patch.multiple(text_lists, **SMALL):
        found = qwen3.embed((text for text in texts), **options)
    one_by_one = {text: qwen3.embed(text, **options) for text in texts}

    assert found.vectors.shape == (len(texts), options.get("truncate_dim", qwen3.dims))
    for index, text in enumerate(texts):
        own = one_by_one[text]
        assert cosines(found.vectors[index : index + 1], own.vectors)[0] >= 0.9999
        assert found.n_tokens[index] == own.n_tokens[0] and found.truncated[index] == own.truncated[0]
        np.testing.assert_array_equal(found.vectors[index], found.vectors[texts.index(text)])


@pytest.mark.parametrize("precision", ["float32", "int8", "binary", "ubinary"])
def test_windows_of_small_vectors(precision: str, qwen3: Embedder):
    """Shape and type are those of one window, an empty list included."""
    texts = [f"text {number} é" for number in range(30)]
    whole = qwen3.encode(texts, precision=precision)
    with patch.multiple(text_lists, **SMALL):
        assert len(list(text_lists.windows(texts))) > 3
        found, empty = qwen3.encode(texts, precision=precision), qwen3.encode([], precision=precision)

    assert (found.dtype, found.shape) == (whole.dtype, whole.shape)
    assert (empty.dtype, empty.shape) == (whole.dtype, (0, whole.shape[1]))
    if precision in ("float32", "int8"):
        assert cosines(found, whole).min() >= 0.999


# Of few texts, so that most come twice, and enough for several windows.
good_texts = st.builds(str.__add__, st.sampled_from(["good é", "x", "", "text " * 30]), st.sampled_from("abcdef"))


@settings(max_examples=40)
@given(st.lists(good_texts, max_size=40), st.data())
def test_a_bad_text_is_named_by_the_callers_place(poisoned: Embedder, texts: list[str], data: st.DataObject):
    """However many windows and equal texts are before it, and however many more there are."""
    for _ in range(data.draw(st.integers(1, 3))):
        texts.insert(data.draw(st.integers(0, len(texts))), data.draw(st.sampled_from(["\a", "sick \a", "é \a 한"])))
    first = next(index for index, text in enumerate(texts) if "\a" in text)

    with patch.multiple(text_lists, **SMALL), pytest.raises(TextError) as caught:
        poisoned.encode(texts)
    assert str(caught.value).startswith(f"Text {first} ({texts[first]!r}) gives a vector that is not finite")


def test_an_error_ends_the_tokenising_too(poisoned: Embedder):
    """Of the next window, which is under way: nobody waits for its megabytes."""
    texts = ["\a", *(f"text {number}" for number in range(50_000))]
    tokenizer, n_seen = poisoned._engine.tokenizer, 0
    ids = tokenizer.ids

    def counted(text: str) -> np.ndarray:
        nonlocal n_seen
        n_seen += 1
        return ids(text)

    tokenizer.ids = counted
    # The first window is the bad text alone.
    two_windows = patch.object(bulk, "windows", lambda texts: [(0, 1), (1, len(texts))])
    try:
        with two_windows, pytest.raises(TextError, match="Text 0 "):
            poisoned.encode(texts)
    finally:
        del tokenizer.ids
    assert n_seen < 40_000


# Progress


class Bars:
    """A context in which the progress bars of calls are kept, with the totals that they showed."""

    def __init__(self) -> None:
        self.bars: list[bulk.TokenBar] = []
        self.totals: list[float] = []

    def __enter__(self) -> "Bars":
        kept = self

        class Kept(bulk.TokenBar):
            def __init__(self, shown: bool, n_characters: int) -> None:
                super().__init__(shown, n_characters)
                kept.bars.append(self)

            def expect(self, n_characters: int, n_tokens: int) -> None:
                super().expect(n_characters, n_tokens)
                kept.totals.append(self._bar.total)

        self._patch = patch.object(bulk, "TokenBar", Kept)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


@settings(max_examples=30)
@given(st.lists(some_texts, max_size=60))
def test_the_bar_ends_at_its_total(qwen3: Embedder, texts: list[str]):
    """Which is the tokens that are computed: of different texts, after the cut, whatever windows there are."""
    different = list(dict.fromkeys(texts))
    with patch.multiple(text_lists, **SMALL), Bars() as seen:
        qwen3.encode(texts, show_progress_bar=True)
        spans = list(text_lists.windows(different))
    expected = 0
    for start, stop in spans:
        # Equal ids in one window are computed once.
        ids = [qwen3.token_ids(text) for text in different[start:stop]]
        expected += sum(map(len, {tuple(one[: min(len(one), MAX_TOKENS) - 1] + one[-1:]) for one in ids}))

    (bar,) = seen.bars
    assert bar._bar.n == expected
    assert bar._bar.total == (expected if different else None)


def test_the_total_is_estimated_from_the_first_window(qwen3: Embedder):
    """Texts alike: the first guess is near the truth."""
    texts = [f"The harbour office, page {number}." for number in range(100)]
    with patch.multiple(text_lists, **SMALL), Bars() as seen:
        qwen3.encode(texts, show_progress_bar=True)

    assert len(seen.totals) > 10
    assert all(abs(total - seen.totals[-1]) < 0.1 * seen.totals[-1] for total in seen.totals)


def test_a_quick_call_shows_no_bar(qwen3: Embedder, capfd: pytest.CaptureFixture[str]):
    """Nothing is printed, asked for or not, where it would be gone at once."""
    qwen3.encode(["é"])
    qwen3.encode(["é"], show_progress_bar=True)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# Memory


def test_no_more_than_two_windows_are_tokenised(qwen3: Embedder):
    """The one that is computed and the next, however long the list."""
    tokenizer, lane = qwen3._engine.tokenizer, qwen3._engine._lanes[0]
    ids, vectors = tokenizer.ids, lane.vectors
    n_seen, n_computed, ahead = 0, 0, []

    def counted(text: str) -> np.ndarray:
        nonlocal n_seen
        n_seen += 1
        return ids(text)

    def looking(batch: list[np.ndarray], *others: object) -> np.ndarray:
        nonlocal n_computed
        time.sleep(0.005)  # tokenising would get ahead, if it could
        ahead.append(n_seen - n_computed)
        n_computed += len(batch)
        return vectors(batch, *others)

    tokenizer.ids, lane.vectors = counted, looking
    try:
        with patch.multiple(text_lists, WINDOW_TEXTS=10):
            qwen3.encode([f"text {number}" for number in range(300)])
    finally:
        del tokenizer.ids, lane.vectors
    assert len(ahead) == 30
    assert max(ahead) == 20


def test_memory_does_not_grow_with_the_number_of_windows(qwen3: Embedder):
    """Beside the texts and the vectors that are given back, ten times the texts take no more."""

    def peak_of(n_texts: int) -> int:
        texts = [f"text {number} of many" for number in range(n_texts)]
        gc.collect()
        tracemalloc.start()
        try:
            vectors = qwen3.encode(texts, truncate_dim=32)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # What each text has for the whole call: its row, its number of tokens, its place, its entry in a dict.
        return peak - vectors.nbytes - 150 * n_texts

    with patch.multiple(text_lists, WINDOW_TEXTS=100):
        peak_of(100)
        few, many = peak_of(200), peak_of(2000)
    assert many < 1.5 * few
