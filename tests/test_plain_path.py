"""All strategies give the plain path's vectors: llama.cpp's own pooling, each text alone, all its tokens as outputs.

The models are F16, where batches of another shape differ by rounding only.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf import Embedder, Embeddings
from qgguf.batching import sort_key
from qgguf.model.spec import Pooling
from qgguf.native.context import KEPT_PREFIXES, KEPT_TOKENS, NativeContext
from qgguf.native.model import NativeModel
from qgguf.native.strategy import Strategy
from tests.support.comparing import cosines
from tests.support.lanes import WatchedLanes
from tests.support.native import open_model
from tests.support.waiting import until

CELLS, MICRO_BATCH, VOCABULARY = 256, 96, 2074
Ids = tuple[int, ...]


def assert_equal_vectors(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert not len(actual) or cosines(actual, expected).min() >= 0.9999


def array(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def some_ids(n: int, alphabet: int, seed: int) -> Ids:
    return tuple(np.random.default_rng(seed).integers(0, alphabet, n).tolist())


class Plain:
    """Reference vectors: each text alone, by llama.cpp's pooling, computed once."""

    def __init__(self, model: NativeModel) -> None:
        self._context = context_of(model, Strategy.PLAIN, micro_batch=CELLS)
        self._known: dict[Ids, np.ndarray] = {}

    def __call__(self, texts: Sequence[Ids]) -> np.ndarray:
        for text in texts:
            if text not in self._known:
                self._known[text] = self._context.vectors([array(text)])[0]
        return np.array([self._known[text] for text in texts])


def context_of(model: NativeModel, strategy: Strategy, micro_batch: int = MICRO_BATCH) -> NativeContext:
    return NativeContext(
        model, cells=CELLS, threads=2, pooling=Pooling.LAST, strategy=strategy, micro_batch=micro_batch
    )


@pytest.fixture(scope="module")
def qwen3(small_qwen3: Path) -> Iterator[Embedder]:
    with Embedder(small_qwen3) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def model(small_qwen3: Path) -> Iterator[NativeModel]:
    with open_model(small_qwen3) as model:
        yield model


@pytest.fixture(scope="module")
def plain(model: NativeModel) -> Plain:
    return Plain(model)


# Batches in one context

# Too short to be kept, long enough, one that begins with another, and too long; more than are kept at once.
PROMPTS = [(), (7,), (7, 8, 9), (1, 2, 3, 4), some_ids(30, 9, 0), some_ids(30, 9, 0) + some_ids(25, 9, 1)]
PROMPTS += [(2,) * 40, some_ids(120, VOCABULARY, 2), some_ids(140, VOCABULARY, 3), some_ids(250, 3, 4)]
assert len(PROMPTS) > KEPT_PREFIXES and sum(map(len, PROMPTS)) > KEPT_TOKENS

tails = st.builds(
    some_ids,
    st.integers(0, 12) | st.integers(0, CELLS),
    st.sampled_from([1, 2, 3, VOCABULARY]),
    st.integers(0, 3),
)
# A text begins with the prompt or a part of it, or with a part of an earlier text; whole parts give duplicates.
branches = st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([0.0, 0.3, 0.99, 1.0, 1.0]), tails)


@dataclass(frozen=True)
class Batch:
    """Distinct texts of one native batch; where `stopped` is true, an exception from `between` ends the batch early."""

    texts: list[Ids]
    prompt: Ids
    stopped: bool


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    prompt = draw(st.sampled_from(PROMPTS))
    texts: list[Ids] = []
    for from_prompt, parent, part, tail in draw(st.lists(branches, min_size=1, max_size=12)):
        stem = prompt if from_prompt or not texts else texts[parent % len(texts)]
        text = (stem[: round(len(stem) * part)] + tail)[:CELLS]
        if text and text not in texts and sum(map(len, texts)) + len(text) <= CELLS:
            texts.append(text)
    return Batch(texts or [(5,)], prompt, draw(st.sampled_from([False] * 5 + [True])))


class Stop(Exception):
    """Raised between two native calls."""


def stop(_done: int, _total: int) -> None:
    raise Stop


@pytest.mark.parametrize(("strategy", "n_examples"), [(Strategy.LAST_ROWS, 80), (Strategy.TWO_CALLS, 20)])
def test_batches_equal_the_plain_path(
    strategy: Strategy, n_examples: int, qwen3: Embedder, model: NativeModel, plain: Plain
):
    """Each text has the vector that it has alone, whatever was computed in the context before: shared beginnings, texts
    that begin others, prompts kept, evicted, longer and shorter, and batches that were stopped."""

    @settings(max_examples=n_examples)
    @given(st.lists(batches(), min_size=1, max_size=6))
    def check(series: list[Batch]) -> None:
        context = context_of(model, strategy)
        try:
            for batch in series:
                texts, prompt = sorted(map(array, batch.texts), key=sort_key), array(batch.prompt)
                if batch.stopped:
                    try:
                        context.vectors(texts, prompt, stop)
                    except Stop:
                        continue
                assert_equal_vectors(context.vectors(texts, prompt), plain(sorted(batch.texts)))
        finally:
            context.close()

    check()


# Concurrent calls

MAX_TOKENS = 100
stems = st.sampled_from(["", "", "a", "a b", "é 한 😉 ", "The harbour office, 1897. ", "word " * 60, "word " * 200])
texts_alike = st.lists(st.tuples(stems, st.text(max_size=10)).map("".join) | stems, min_size=1, max_size=25)
prompts = st.sampled_from(
    [{}, {"prompt_name": "query"}, {"prompt_name": "similarity"}, {"instruction": "é"}, {"prompt": "word " * 30}]
)


@pytest.fixture(scope="module")
def short_and_plain(small_qwen3: Path) -> Iterator[tuple[Embedder, Embedder]]:
    """An Embedder with a low token limit, and one with the plain strategy."""
    with (
        Embedder(small_qwen3, max_tokens=MAX_TOKENS) as embedder,
        Embedder(small_qwen3, max_tokens=MAX_TOKENS, strategy="plain") as twin,
    ):
        assert embedder.strategy is Strategy.LAST_ROWS
        yield embedder, twin


def at_once(embedder: Embedder, calls: Sequence[tuple[list[str], dict[str, str]]]) -> list[Embeddings | BaseException]:
    """Run each call in a thread, all started together."""
    outcomes: list[Embeddings | BaseException] = [AssertionError("no outcome")] * len(calls)
    start = threading.Barrier(len(calls))

    def work(number: int) -> None:
        texts, options = calls[number]
        start.wait(60)
        try:
            outcomes[number] = embedder.embed(texts, **options)
        except BaseException as error:
            outcomes[number] = error

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "a call does not return"
    return outcomes


@settings(max_examples=30)
@given(st.lists(st.tuples(texts_alike, prompts), min_size=1, max_size=8))
def test_threads_equal_the_plain_path(
    short_and_plain: tuple[Embedder, Embedder], calls: list[tuple[list[str], dict[str, str]]]
):
    """Concurrent calls with many prompts and equal, similar and cut texts return the right vectors, counts and cuts."""
    embedder, twin = short_and_plain

    outcomes = at_once(embedder, calls)

    for (texts, options), embeddings in zip(calls, outcomes, strict=True):
        assert isinstance(embeddings, Embeddings), embeddings
        expected = twin.embed(texts, **options)
        assert_equal_vectors(embeddings.vectors, expected.vectors)
        np.testing.assert_array_equal(embeddings.n_tokens, expected.n_tokens)
        np.testing.assert_array_equal(embeddings.truncated, expected.truncated)


def test_concurrent_calls_share_batches(short_and_plain: tuple[Embedder, Embedder]):
    """All calls that arrive while a batch is computed go into the next one: 20 calls take 2 batches."""
    embedder, twin = short_and_plain
    texts = [f"thread {number} é" for number in range(20)]
    with WatchedLanes(embedder, is_open=False) as lanes:
        opener = threading.Thread(target=lambda: (until(lambda: lanes.n_calls == len(texts)), lanes.gate.set()))
        opener.start()
        outcomes = at_once(embedder, [([text], {"prompt_name": "query"}) for text in texts])
        opener.join()

    assert len(lanes.batches) == 2 and sum(lanes.batches) == 20
    vectors = np.concatenate([embeddings.vectors for embeddings in outcomes])
    assert_equal_vectors(vectors, twin.encode(texts, prompt_name="query"))
