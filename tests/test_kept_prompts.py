"""A prompt that stays in the KV cache is never stale, and is computed again only where it had to make room."""

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
from tests.support.waiting import until

TEXTS = ["é 한 😉", "x", "The harbour office, 1897."]


@pytest.fixture
def qwen3(small_qwen3: Path) -> Iterator[Embedder]:
    """A new one for each test: nothing is kept in it."""
    with Embedder(small_qwen3) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def plain(small_qwen3: Path) -> Iterator[Embedder]:
    """The oracle, which keeps nothing."""
    with Embedder(small_qwen3, strategy="plain") as embedder:
        yield embedder


def context_of(embedder: Embedder) -> NativeContext:
    context = embedder._engine._lanes[0]._context
    assert context is not None
    return context


class SeenTokens:
    """A context in which the tokens are counted that llama.cpp is given."""

    def __init__(self, embedder: Embedder) -> None:
        self._context, self.n_tokens = context_of(embedder), 0

    def __enter__(self) -> "SeenTokens":
        compute = self._context._compute

        def counted(batch: object, start: int, stop: int) -> None:
            self.n_tokens += stop - start
            compute(batch, start, stop)

        self._context._compute = counted
        return self

    def __exit__(self, *_: object) -> None:
        del self._context._compute


# What may come between two calls with one prompt


def nothing(embedder: Embedder) -> None:
    pass


def other_instructions(embedder: Embedder) -> None:
    for number in range(KEPT_PREFIXES + 2):
        embedder.encode_query(TEXTS, instruction=f"Task {number} é")


def no_prompt(embedder: Embedder) -> None:
    embedder.encode(["no prompt at all", *TEXTS])


def a_long_text(embedder: Embedder) -> None:
    """The context is made anew for it, larger."""
    embedder.encode("word é " * 700)


def stopped(embedder: Embedder) -> None:
    """What is raised between two native calls of one batch, with this prompt and with another."""

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    context = context_of(embedder)
    for before in (embedder.prompts["query"], "another prompt of some words: "):
        ids = np.array(embedder.token_ids(before + "word " * 340), np.int32)
        with pytest.raises(KeyboardInterrupt):
            context.vectors([ids], embedder._engine.tokenizer.prompt_ids(before), stop)


def refused(embedder: Embedder) -> None:
    """More tokens than there is room for: an error after the prompt was looked up."""
    context = context_of(embedder)
    prompt = embedder._engine.tokenizer.prompt_ids(embedder.prompts["query"])
    with pytest.raises(NativeError, match="tokens; 768 are allowed"):
        context.vectors([np.concatenate([prompt, np.arange(context.cells + 1, dtype=np.int32) % 99])], prompt)


def cancelled(embedder: Embedder) -> None:
    """An awaited call that is given up while its texts are computed."""

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
def test_the_same_bytes_whatever_came_between(
    between: Callable[[Embedder], None] | None, qwen3: Embedder, plain: Embedder, other_qwen3: Path
):
    """Computed anew or kept, after whatever: the second call has the bytes of the first, and they are right."""
    first = qwen3.encode_query(TEXTS)
    assert cosines(first, plain.encode_query(TEXTS)).min() >= 0.9999

    if between is not None:
        between(qwen3)
    else:
        # Another model, of equal ids.
        with Embedder(other_qwen3) as other:
            assert cosines(other.encode_query(TEXTS), first).max() < 0.9

    assert qwen3.encode_query(TEXTS).tobytes() == first.tobytes()


def test_two_models_in_turns(qwen3: Embedder, other_qwen3: Path):
    """Equal ids of equal prompts in two caches at the same time."""
    with Embedder(other_qwen3) as other, Embedder(other_qwen3, strategy="plain") as other_plain:
        first, others = qwen3.encode_query(TEXTS), other.encode_query(TEXTS)
        for _ in range(3):
            np.testing.assert_array_equal(qwen3.encode_query(TEXTS), first)
            np.testing.assert_array_equal(other.encode_query(TEXTS), others)
        assert cosines(others, other_plain.encode_query(TEXTS)).min() >= 0.9999


@pytest.mark.parametrize("strategy", ["last_rows", "two_calls"])
@pytest.mark.parametrize("bad_prompt", [False, True])
def test_a_text_that_fails_spoils_nothing(bad_prompt: bool, strategy: str, poisoned_qwen3: Path, plain: Embedder):
    """NaN in a text, or in a prompt that is kept, reaches neither the other texts of its batch nor later ones.

    Not by way of cells either that are free again: a masked NaN is NaN still.
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


def test_an_interrupt_stops_the_graph_at_the_next_node(small_qwen3: Path, plain: Embedder):
    """Ctrl-C between two nodes: llama.cpp asks about no more of them, and what comes after is right."""
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


def test_rows_of_an_interrupted_call_are_nobodys(small_qwen3: Path, plain: Embedder):
    """Ctrl-C when they have been read already: the next call gets its own."""
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


# What is kept


def test_the_most_lately_used_prompts_are_kept(qwen3: Embedder):
    """As many as there is room for: one more than that puts out the one that was used longest ago."""
    instructions = [f"Sort these words, task {number} é" for number in range(KEPT_PREFIXES + 1)]

    def cost(number: int) -> int:
        with SeenTokens(qwen3) as seen:
            qwen3.encode_query("x", instruction=instructions[number])
        return seen.n_tokens

    qwen3.encode("")
    whole = cost(0)
    assert [cost(number) == whole for number in range(KEPT_PREFIXES)] == [False, *[True] * (KEPT_PREFIXES - 1)]
    tail = cost(0)
    assert tail < 5 < 12 < whole
    assert cost(KEPT_PREFIXES) == whole
    # 0 was used after 1.
    assert [cost(0), cost(1)] == [tail, whole]


def test_prompts_keep_within_their_room(qwen3: Embedder, plain: Embedder):
    """Two that are together longer than what may be kept put each other out; a third, short one stays or comes back."""
    long = [f"word {letter} " * (KEPT_TOKENS // 5) for letter in "ab"]
    assert KEPT_TOKENS // 2 < plain.count_tokens(long[0])[0] < KEPT_TOKENS
    for prompt in (long[0], long[1], "a short prompt: ", long[0], "a short prompt: ", long[1], long[1] * 2):
        found, expected = qwen3.encode(TEXTS, prompt=prompt), plain.encode(TEXTS, prompt=prompt)
        assert cosines(found, expected).min() >= 0.9999
        assert sum(map(len, context_of(qwen3)._kept.values())) <= KEPT_TOKENS


def test_a_prompt_that_begins_with_another(qwen3: Embedder, plain: Embedder):
    """The longer one is computed though the shorter is kept; the shorter is not where the longer is kept."""
    short, long = "word é " * 8, "word é " * 20

    def cost(prompt: str) -> int:
        with SeenTokens(qwen3) as seen:
            found = qwen3.encode(TEXTS, prompt=prompt)
        assert cosines(found, plain.encode(TEXTS, prompt=prompt)).min() >= 0.9999
        return seen.n_tokens

    qwen3.encode("")
    alone = int(plain.count_tokens(TEXTS).sum())
    assert cost(short) > cost(short)
    assert cost(long) > int(plain.count_tokens(long)[0])
    assert cost(long) <= alone + 2
    assert cost(short) <= alone + 2

    with SeenTokens(qwen3) as seen:
        qwen3.encode("y", prompt="word é " * 14)
    assert seen.n_tokens < 8, "the longer one serves any beginning of it"
