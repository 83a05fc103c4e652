"""Long lists of texts: they are computed in windows, with the vectors of one window, and memory does not grow."""

import gc
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf import Embedder
from qgguf.errors import TextError, TextTooLongError
from qgguf.inference import inputs, pipeline
from qgguf.inference.lane import NativeLane
from qgguf.inference.token_bar import TokenBar
from qgguf.model.prompts import Prompt
from qgguf.tokenization.tokenizer import Tokenizer
from tests.support.comparing import cosines
from tests.support.processes import run_code

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


class CountedTexts:
    """A context in which the texts that are tokenised are counted."""

    def __init__(self) -> None:
        self.n_texts = 0

    def __enter__(self) -> "CountedTexts":
        ids = Tokenizer.ids

        def counted(tokenizer: Tokenizer, text: str, *prompt: Prompt) -> np.ndarray:
            self.n_texts += 1
            return ids(tokenizer, text, *prompt)

        self._patch = patch.object(Tokenizer, "ids", counted)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


some_texts = st.text("ab é한", max_size=2) | st.text(max_size=30) | st.sampled_from(["word " * 40, "word " * 50])


@settings(max_examples=30)
@given(st.lists(some_texts, max_size=60), st.sampled_from([{}, {"prompt_name": "query"}, {"truncate_dim": 32}]))
def test_many_windows_equal_single_texts(qwen3: Embedder, texts: list[str], options: dict[str, object]):
    """Each text of a long list has the vector, count and cut that it has alone; equal texts have equal vectors."""
    with patch.multiple(inputs, **SMALL):
        found = qwen3.embed((text for text in texts), **options)
    one_by_one = {text: qwen3.embed(text, **options) for text in texts}

    assert found.vectors.shape == (len(texts), options.get("truncate_dim", qwen3.dims))
    for index, text in enumerate(texts):
        own = one_by_one[text]
        assert cosines(found.vectors[index : index + 1], own.vectors)[0] >= 0.9999
        assert found.n_tokens[index] == own.n_tokens[0] and found.truncated[index] == own.truncated[0]
        np.testing.assert_array_equal(found.vectors[index], found.vectors[texts.index(text)])


@pytest.mark.parametrize("precision", ["float32", "int8", "binary", "ubinary"])
def test_precisions_are_kept_over_windows(precision: str, qwen3: Embedder):
    """Shape and dtype are those of one window, also for an empty list."""
    texts = [f"text {number} é" for number in range(30)]
    whole = qwen3.encode(texts, precision=precision)
    with patch.multiple(inputs, **SMALL):
        assert len(list(inputs.windows(texts))) > 3
        found, empty = qwen3.encode(texts, precision=precision), qwen3.encode([], precision=precision)

    assert (found.dtype, found.shape) == (whole.dtype, whole.shape)
    assert (empty.dtype, empty.shape) == (whole.dtype, (0, whole.shape[1]))
    if precision in ("float32", "int8"):
        assert cosines(found, whole).min() >= 0.999


# Few distinct texts, so that most come twice, and enough of them for several windows.
good_texts = st.builds(str.__add__, st.sampled_from(["good é", "x", "", "text " * 30]), st.sampled_from("abcdef"))


@settings(max_examples=40)
@given(st.lists(good_texts, max_size=40), st.data())
def test_bad_text_is_named_by_the_callers_index(poisoned: Embedder, texts: list[str], data: st.DataObject):
    """The index is right whatever windows and equal texts come before it."""
    for _ in range(data.draw(st.integers(1, 3))):
        texts.insert(data.draw(st.integers(0, len(texts))), data.draw(st.sampled_from(["\a", "sick \a", "é \a 한"])))
    first = next(index for index, text in enumerate(texts) if "\a" in text)

    with patch.multiple(inputs, **SMALL), pytest.raises(TextError) as caught:
        poisoned.encode(texts)
    assert str(caught.value).startswith(f"Text {first} ({texts[first]!r}) gives a vector that is not finite")


def test_error_stops_the_tokenising_of_the_next_window(poisoned: Embedder):
    """The next window is tokenised while the first is computed; after an error its rest is not needed."""
    texts = ["\a", *(f"text {number}" for number in range(50_000))]
    # The first window is the bad text alone.
    two_windows = patch.object(pipeline, "windows", lambda texts: [(0, 1), (1, len(texts))])
    with CountedTexts() as counted, two_windows, pytest.raises(TextError, match="Text 0 "):
        poisoned.encode(texts)
    assert counted.n_texts < 40_000


def test_refusing_long_texts_tokenises_each_once(qwen3: Embedder):
    """truncate="error" looks at the texts that may be too long before it computes, and keeps their ids."""
    texts = ["short", "한" * 10, "a b c d e f " * 3, "é" * 6]
    with CountedTexts() as counted:
        found = qwen3.encode(texts, truncate="error")
    assert counted.n_texts == len(texts)
    np.testing.assert_array_equal(found, qwen3.encode(texts))


@settings(max_examples=60)
@given(st.lists(st.text(max_size=60) | st.text("\U0001d160\ufb2c\u0344\u1fb7한\u0390", max_size=25), max_size=8))
def test_no_long_text_passes_the_refusal(qwen3: Embedder, texts: list[str]):
    """The bound that spares tokenising is true: also where NFC makes twelve bytes of one character."""
    n_tokens = qwen3.count_tokens(texts)
    if (n_tokens > MAX_TOKENS).any():
        with pytest.raises(TextTooLongError):
            qwen3.encode(texts, truncate="error")
    else:
        assert len(qwen3.encode(texts, truncate="error")) == len(texts)


# Progress


class Bars:
    """A context in which the progress bars of calls are recorded, with the totals that they showed."""

    def __init__(self) -> None:
        self.bars: list[TokenBar] = []
        self.totals: list[int | None] = []

    def __enter__(self) -> "Bars":
        record = self

        class RecordedBar(TokenBar):
            def __init__(self, shown: bool, n_characters: int) -> None:
                super().__init__(shown, n_characters)
                record.bars.append(self)

            def expect(self, n_characters: int, n_tokens: int) -> None:
                super().expect(n_characters, n_tokens)
                record.totals.append(self.total)

        self._patch = patch("qgguf.embedder.TokenBar", RecordedBar)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


@settings(max_examples=30)
@given(st.lists(some_texts, max_size=60))
def test_bar_ends_at_its_total(qwen3: Embedder, texts: list[str]):
    """The total is the tokens of distinct texts after the cut, whatever windows there are."""
    different = list(dict.fromkeys(texts))
    with patch.multiple(inputs, **SMALL), Bars() as seen:
        qwen3.encode(texts, show_progress_bar=True)
        spans = list(inputs.windows(different))
    expected = 0
    for start, stop in spans:
        # Equal ids in one window are computed once.
        ids = [qwen3.token_ids(text) for text in different[start:stop]]
        expected += sum(map(len, {tuple(one[: min(len(one), MAX_TOKENS) - 1] + one[-1:]) for one in ids}))

    (bar,) = seen.bars
    assert bar.n_tokens == expected
    assert bar.total == (expected if different else None)


def test_total_is_estimated_from_the_first_window(qwen3: Embedder):
    """For texts of one kind the first estimate is near the true total."""
    texts = [f"The harbour office, page {number}." for number in range(100)]
    with patch.multiple(inputs, **SMALL), Bars() as seen:
        qwen3.encode(texts, show_progress_bar=True)

    assert len(seen.totals) > 10
    assert all(abs(total - seen.totals[-1]) < 0.1 * seen.totals[-1] for total in seen.totals)


def test_quick_call_shows_no_bar(qwen3: Embedder, capfd: pytest.CaptureFixture[str]):
    """Nothing is printed for work that is over at once, with show_progress_bar or without."""
    qwen3.encode(["é"])
    qwen3.encode(["é"], show_progress_bar=True)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_interrupt_while_the_bar_is_drawn_ends_the_call(minilm_q8: Path, tmp_path: Path):
    """Ctrl-C at the very time of a drawing, five times: each call ends, and the next one computes."""
    code = """
import os, signal, sys
from qgguf import Embedder
from qgguf.inference import token_bar

class Terminal:
    encoding = "utf-8"
    def flush(self): pass
    def write(self, text):
        if "tok/s" in text and not self.sent:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)

token_bar.SECONDS_BEFORE_SHOWN = 0.05
sys.stderr = Terminal()
texts = [f"{number} 한 é 😉 " * 40 for number in range(2000)]
with Embedder(sys.argv[1], max_tokens=256) as embedder:
    for _ in range(5):
        sys.stderr.sent = False
        try:
            embedder.encode(texts, show_progress_bar=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    print(embedder.encode("é").shape)
"""
    done = run_code(code, str(minilm_q8), home=tmp_path)
    assert done.stdout.split() == ["interrupted"] * 5 + ["(384,)"], done.stderr


# Memory


def test_no_more_than_two_windows_are_tokenised(qwen3: Embedder):
    """They are the one that is computed and the next, however long the list."""
    vectors = NativeLane.vectors
    n_computed, ahead = 0, []

    def watched(lane: NativeLane, batch: list[np.ndarray], *others: Any) -> np.ndarray:
        nonlocal n_computed
        time.sleep(0.005)  # tokenising would get ahead, if it could
        ahead.append(counted.n_texts - n_computed)
        n_computed += len(batch)
        return vectors(lane, batch, *others)

    windows_of_ten, watch = patch.multiple(inputs, WINDOW_TEXTS=10), patch.object(NativeLane, "vectors", watched)
    with CountedTexts() as counted, windows_of_ten, watch:
        qwen3.encode([f"text {number}" for number in range(300)])
    assert len(ahead) == 30
    assert max(ahead) == 20


def test_memory_does_not_grow_with_the_number_of_windows(qwen3: Embedder):
    """Beside the texts and the returned vectors, ten times the texts take no more memory."""

    def peak_of(n_texts: int) -> int:
        texts = [f"text {number} of many" for number in range(n_texts)]
        gc.collect()
        tracemalloc.start()
        try:
            vectors = qwen3.encode(texts, truncate_dim=32)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # For the whole call each text has a row, a number of tokens, an index and an entry in a dict.
        return peak - vectors.nbytes - 150 * n_texts

    with patch.multiple(inputs, WINDOW_TEXTS=100):
        peak_of(100)
        few, many = peak_of(200), peak_of(2000)
    assert many < 1.5 * few
