"""A prompt that stays in the KV cache is never stale, and is computed again only after it was evicted."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.errors import NativeError, TextError
from qgguf.native.context import KEPT_PREFIXES, KEPT_TOKENS, NativeContext
from qgguf.native.row_reader import RowReader
from tests.support.comparing import cosines
from tests.support.lanes import WatchedLanes
from tests.support.native import context_of
from tests.support.waiting import until

TEXTS = ["é 한 😉", "x", "The harbour office, 1897."]


@pytest.fixture
def qwen3(small_qwen3: Path) -> Iterator[Embedder]:
    """A new Embedder for each test, with no prompt in its cache."""
    with Embedder(small_qwen3) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def plain(small_qwen3: Path) -> Iterator[Embedder]:
    """The reference, which keeps no prompts."""
    with Embedder(small_qwen3, strategy="plain") as embedder:
        yield embedder


class ComputedTokens:
    """A context in which the tokens that llama.cpp computes are counted."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder, self.n_tokens = embedder, 0

    def __enter__(self) -> "ComputedTokens":
        self._before = self._embedder.stats().tokens
        return self

    def __exit__(self, *_: object) -> None:
        self.n_tokens = self._embedder.stats().tokens - self._before


# Events between two calls with one prompt


def nothing(embedder: Embedder) -> None:
    pass


def other_instructions(embedder: Embedder) -> None:
    for number in range(KEPT_PREFIXES + 2):
        embedder.encode_query(TEXTS, instruction=f"Task {number} é")


def no_prompt(embedder: Embedder) -> None:
    embedder.encode(["no prompt at all", *TEXTS])


def a_long_text(embedder: Embedder) -> None:
    """Make the lane open a larger context."""
    embedder.encode("word é " * 700)


def stopped(embedder: Embedder) -> None:
    """Raise between two native calls of one batch, with this prompt and with another."""
    vectors = NativeContext.vectors

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    def stopping(context: NativeContext, texts: Any, prompt: Any, _between: Any) -> np.ndarray:
        return vectors(context, texts, prompt, stop)

    with patch.object(NativeContext, "vectors", stopping):
        for prompt in (embedder.prompts["query"], "another prompt of some words: "):
            with pytest.raises(KeyboardInterrupt):
                embedder.encode("word " * 340, prompt=prompt)


def refused(embedder: Embedder) -> None:
    """Give a context more tokens than its cells: an error after the prompt was looked up."""
    context = context_of(embedder)
    prompt = np.array(embedder.token_ids(embedder.prompts["query"])[:-1], np.int32)
    with pytest.raises(NativeError, match="tokens; 768 are allowed"):
        context.vectors([np.concatenate([prompt, np.arange(context.cells + 1, dtype=np.int32) % 99])], prompt)


def cancelled(embedder: Embedder) -> None:
    """Cancel an asynchronous call while its texts are computed."""

    async def begin_and_cancel() -> None:
        with WatchedLanes(embedder) as lanes:
            task = asyncio.create_task(embedder.aencode_query([f"word {number} " * 200 for number in range(50)]))
            await asyncio.to_thread(until, lambda: len(lanes.batches) > 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(until, lambda: not lanes.n_calls)
            assert len(lanes.batches) < 50

    asyncio.run(begin_and_cancel())


@pytest.mark.parametrize(
    "between", [nothing, other_instructions, no_prompt, a_long_text, stopped, refused, cancelled, None]
)
def test_second_call_gives_the_bytes_of_the_first(
    between: Callable[[Embedder], None] | None, qwen3: Embedder, plain: Embedder, other_qwen3: Path
):
    """The bytes are equal and right whether the prompt was kept or is computed again, after any event."""
    first = qwen3.encode_query(TEXTS)
    assert cosines(first, plain.encode_query(TEXTS)).min() >= 0.9999

    if between is not None:
        between(qwen3)
    else:
        # Another model, whose ids are equal.
        with Embedder(other_qwen3) as other:
            assert cosines(other.encode_query(TEXTS), first).max() < 0.9

    assert qwen3.encode_query(TEXTS).tobytes() == first.tobytes()


def test_two_models_in_turns_do_not_mix(qwen3: Embedder, other_qwen3: Path):
    """Two caches hold equal ids of equal prompts at the same time."""
    with Embedder(other_qwen3) as other, Embedder(other_qwen3, strategy="plain") as other_plain:
        first, others = qwen3.encode_query(TEXTS), other.encode_query(TEXTS)
        for _ in range(3):
            np.testing.assert_array_equal(qwen3.encode_query(TEXTS), first)
            np.testing.assert_array_equal(other.encode_query(TEXTS), others)
        assert cosines(others, other_plain.encode_query(TEXTS)).min() >= 0.9999


@pytest.mark.parametrize("strategy", ["last_rows", "two_calls"])
@pytest.mark.parametrize("bad_prompt", [False, True])
def test_text_with_nan_changes_no_other_text(bad_prompt: bool, strategy: str, poisoned_qwen3: Path, plain: Embedder):
    """NaN in a text, or in a kept prompt, reaches neither the other texts of its batch nor later ones.

    Nor does it through cells that are free again: a masked NaN is still NaN.
    """
    bad = {"prompt": "sick \a prompt of some words: "} if bad_prompt else {"prompt_name": "query"}
    later = [["x"], TEXTS, ["word " * 100, *TEXTS]]
    expected = [plain.encode(texts) for texts in later]
    good = plain.encode_query(TEXTS)
    with Embedder(poisoned_qwen3, strategy=strategy) as embedder:
        assert cosines(embedder.encode_query(TEXTS), good).min() >= 0.9999
        for texts, vectors in zip(later, expected, strict=True):
            with pytest.raises(TextError, match=r"Text [03] .*not finite"):
                embedder.encode([*TEXTS, "sick \a text " + "word " * 300], **bad)
            assert cosines(embedder.encode(texts), vectors).min() >= 0.9999
            assert cosines(embedder.encode_query(TEXTS), good).min() >= 0.9999


def test_interrupt_stops_the_graph_at_the_next_node(small_qwen3: Path, plain: Embedder):
    """After Ctrl-C between two nodes llama.cpp computes no more of them, and the next call is right."""
    nodes = 5  # from here on none is interrupted
    on_node = RowReader._on_node

    def watched(reader: RowReader, *node: Any) -> bool:
        nonlocal nodes
        nodes += 1
        if nodes == 5:
            signal.raise_signal(signal.SIGINT)
        return on_node(reader, *node)

    with patch.object(RowReader, "_on_node", watched), Embedder(small_qwen3) as embedder:
        before = nodes
        embedder.encode(TEXTS)
        n_usual = nodes - before
        nodes = 0
        with pytest.raises(KeyboardInterrupt):
            embedder.encode(TEXTS)
        assert nodes < 10 < 30 < n_usual
        assert cosines(embedder.encode(TEXTS), plain.encode(TEXTS)).min() >= 0.9999


def test_rows_of_an_interrupted_call_are_dropped(small_qwen3: Path, plain: Embedder):
    """Ctrl-C comes when rows have been read already; the next call gets its own rows."""
    armed = False
    on_node = RowReader._on_node

    def watched(reader: RowReader, tensor: int, ask: bool, data: Any) -> bool:
        goes_on = on_node(reader, tensor, ask, data)
        if armed and not ask:
            signal.raise_signal(signal.SIGINT)
        return goes_on

    with patch.object(RowReader, "_on_node", watched), Embedder(small_qwen3) as embedder:
        armed = True
        with pytest.raises(KeyboardInterrupt):
            embedder.encode(TEXTS)
        armed = False
        assert cosines(embedder.encode(TEXTS), plain.encode(TEXTS)).min() >= 0.9999


# Which prompts are kept


def test_most_recently_used_prompts_are_kept(qwen3: Embedder):
    """A prompt beyond the limit evicts the one that was used longest ago."""
    instructions = [f"Sort these words, task {number} é" for number in range(KEPT_PREFIXES + 1)]

    def cost(number: int) -> int:
        with ComputedTokens(qwen3) as computed:
            qwen3.encode_query("x", instruction=instructions[number])
        return computed.n_tokens

    qwen3.encode("")
    whole = cost(0)
    assert [cost(number) == whole for number in range(KEPT_PREFIXES)] == [False, *[True] * (KEPT_PREFIXES - 1)]
    tail = cost(0)
    assert tail < 5 < 12 < whole
    assert cost(KEPT_PREFIXES) == whole
    # 0 was used after 1.
    assert [cost(0), cost(1)] == [tail, whole]


def test_kept_prompts_stay_within_their_limit(qwen3: Embedder, plain: Embedder):
    """Two prompts that are together longer than the limit evict each other; a third, short one stays or comes back."""
    long = [f"word {letter} " * (KEPT_TOKENS // 5) for letter in "ab"]
    assert KEPT_TOKENS // 2 < plain.count_tokens(long[0])[0] < KEPT_TOKENS
    for prompt in (long[0], long[1], "a short prompt: ", long[0], "a short prompt: ", long[1], long[1] * 2):
        found, expected = qwen3.encode(TEXTS, prompt=prompt), plain.encode(TEXTS, prompt=prompt)
        assert cosines(found, expected).min() >= 0.9999
        assert context_of(qwen3).kept_tokens <= KEPT_TOKENS


def test_prompt_that_begins_with_another_is_computed(qwen3: Embedder, plain: Embedder):
    """The longer prompt is computed though the shorter is kept; the shorter is not when the longer is kept."""
    short, long = "word é " * 8, "word é " * 20

    def cost(prompt: str) -> int:
        with ComputedTokens(qwen3) as computed:
            found = qwen3.encode(TEXTS, prompt=prompt)
        assert cosines(found, plain.encode(TEXTS, prompt=prompt)).min() >= 0.9999
        return computed.n_tokens

    qwen3.encode("")
    alone = int(plain.count_tokens(TEXTS).sum())
    assert cost(short) > cost(short)
    assert cost(long) > int(plain.count_tokens(long)[0])
    assert cost(long) <= alone + 2
    assert cost(short) <= alone + 2

    with ComputedTokens(qwen3) as computed:
        qwen3.encode("y", prompt="word é " * 14)
    assert computed.n_tokens < 8, "the longer prompt is used for any beginning of it"
