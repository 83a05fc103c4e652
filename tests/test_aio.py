"""The asynchronous methods: the vectors of the plain ones, batches shared by tasks, work that stops when cancelled."""

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf import Embedder
from qgguf.errors import NativeError, TextError, TextTooLongError
from qgguf.inference import inputs
from qgguf.inference.aio import MOST_ASYNC_CALLS, THREAD_NAME_PREFIX
from qgguf.inference.call import Call
from qgguf.model.prompts import Prompt
from qgguf.tokenization.tokenizer import Tokenizer
from tests.support.comparing import cosines
from tests.support.lanes import WatchedLanes
from tests.support.waiting import until

FORMS = ["encode", "encode_query", "encode_document", "embed"]
TEXTS = ["é 한 😉", "x", "The harbour office, 1897.", "x"]
MANY = [f"word {number} é " * 60 for number in range(200)]


@pytest.fixture
def qwen3(small_qwen3: Path) -> Iterator[Embedder]:
    with Embedder(small_qwen3) as embedder:
        yield embedder


@pytest.fixture(scope="module")
def minilm(minilm_f16: Path) -> Iterator[Embedder]:
    with Embedder(minilm_f16) as embedder:
        yield embedder


async def happens(condition: Any) -> None:
    """Wait for a condition that another thread makes true, while the loop goes on."""
    await asyncio.to_thread(until, condition)


def async_threads() -> set[threading.Thread]:
    """Return the worker threads of asynchronous calls that are alive."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME_PREFIX)}


# As the plain forms


@pytest.mark.parametrize("form", FORMS)
def test_signature_and_docstring_are_those_of_the_plain_form(form: str):
    """An editor shows the arguments and their meaning, and inspect sees a coroutine function."""
    plain, awaited = getattr(Embedder, form), getattr(Embedder, f"a{form}")
    assert inspect.signature(awaited) == inspect.signature(plain)
    assert inspect.iscoroutinefunction(awaited)
    assert awaited.__name__ == f"a{form}" and awaited.__qualname__ == f"Embedder.a{form}"
    assert inspect.getdoc(awaited).startswith(inspect.getdoc(plain)) and "asynchronous form" in awaited.__doc__


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [{}, {"truncate_dim": 64, "prompt_name": "similarity", "precision": "int8"}])
def test_vectors_are_those_of_the_plain_form(form: str, options: dict[str, Any], qwen3: Embedder):
    """They are equal byte for byte, and a str gives one vector."""
    for texts in (TEXTS, "é", [], tuple(TEXTS)):
        found = asyncio.run(getattr(qwen3, f"a{form}")(iter(texts) if type(texts) is tuple else texts, **options))
        expected = getattr(qwen3, form)(texts, **options)
        for name in ("vectors", "n_tokens", "truncated") if form == "embed" else ("",):
            mine, theirs = (getattr(some, name) if name else some for some in (found, expected))
            assert mine.dtype == theirs.dtype
            np.testing.assert_array_equal(mine, theirs)


def test_errors_are_those_of_the_plain_form(qwen3: Embedder):
    """An error is raised in the task that caused it, and in no other."""

    async def main() -> list[Any]:
        return await asyncio.gather(
            qwen3.aencode(["a", 5]),
            qwen3.aencode("word " * 9000, truncate="error"),
            qwen3.aencode(TEXTS),
            return_exceptions=True,
        )

    not_text, too_long, found = asyncio.run(main())
    assert type(not_text) is TextError and "Text 1 is int" in str(not_text)
    assert type(too_long) is TextTooLongError
    assert cosines(found, qwen3.encode(TEXTS)).min() >= 0.9999


# Many tasks at once


@pytest.mark.parametrize("name", ["qwen3", "minilm"])
def test_many_tasks_share_batches(name: str, request: pytest.FixtureRequest):
    """Forty queries that come during a batch make one more batch per lane, and each gets its own vector."""
    model = request.getfixturevalue(name)
    texts = [f"task {number} é" for number in range(40)]

    async def main() -> list[np.ndarray]:
        tasks = [asyncio.create_task(model.aencode_query(text)) for text in texts]
        await happens(lambda: lanes.n_calls == len(texts))
        lanes.gate.set()
        return await asyncio.gather(*tasks)

    with WatchedLanes(model, is_open=False) as lanes:
        found = asyncio.run(main())

    assert len(lanes.batches) <= 2 * model.plan.settings.lanes
    assert sum(lanes.batches) == len(texts)
    assert cosines(np.stack(found), model.encode_query(texts)).min() >= 0.9999


def test_more_tasks_than_threads_all_get_vectors(qwen3: Embedder):
    """The tasks beyond the limit wait for a thread."""
    others = async_threads()
    texts = [f"task {number} é" for number in range(2 * MOST_ASYNC_CALLS + 9)]

    async def main() -> list[np.ndarray]:
        return await asyncio.gather(*(qwen3.aencode(text) for text in texts))

    assert cosines(np.stack(asyncio.run(main())), qwen3.encode(texts)).min() >= 0.9999
    assert 0 < len(async_threads() - others) <= MOST_ASYNC_CALLS < len(texts)


def test_query_does_not_wait_for_a_large_call(qwen3: Embedder):
    """It is in the next batch."""

    async def main() -> int:
        large = asyncio.create_task(qwen3.aencode_query(MANY))
        await happens(lambda: lanes.batches)
        before = len(lanes.batches)
        query = asyncio.create_task(qwen3.aencode_query("x"))
        await happens(lambda: lanes.n_calls == 2)
        lanes.gate.set()
        await query
        assert not large.done()
        large.cancel()
        return len(lanes.batches) - before

    with WatchedLanes(qwen3, is_open=False) as lanes:
        # One more may have begun before the query's task went on.
        assert asyncio.run(main()) <= 2


def test_two_loops_in_two_threads_share_batches(qwen3: Embedder):
    """One Embedder serves any number of event loops."""
    texts = [[f"loop {loop} task {number} é" for number in range(15)] for loop in range(2)]
    found: dict[int, np.ndarray] = {}

    async def main(loop: int) -> np.ndarray:
        return np.stack(await asyncio.gather(*(qwen3.aencode(text) for text in texts[loop])))

    def work(loop: int) -> None:
        found[loop] = asyncio.run(main(loop))

    threads = [threading.Thread(target=work, args=(loop,)) for loop in range(2)]
    with WatchedLanes(qwen3, is_open=False) as lanes:
        for thread in threads:
            thread.start()
        until(lambda: lanes.n_calls == 30)
        lanes.gate.set()
        for thread in threads:
            thread.join(60)

    assert len(lanes.batches) == 2
    for loop in range(2):
        assert cosines(found[loop], qwen3.encode(texts[loop])).min() >= 0.9999


# Cancelling


def test_cancelled_task_stops_its_work(qwen3: Embedder):
    """The rest of its texts is not computed, and the vectors of other tasks are right."""

    async def main() -> np.ndarray:
        large = asyncio.create_task(qwen3.aencode(MANY))
        await happens(lambda: lanes.batches)
        others = [asyncio.create_task(qwen3.aencode(text)) for text in TEXTS]
        await happens(lambda: lanes.n_calls == 5)
        large.cancel()
        with pytest.raises(asyncio.CancelledError):
            await large
        lanes.gate.set()
        return np.stack(await asyncio.gather(*others))

    with WatchedLanes(qwen3, is_open=False) as lanes:
        found = asyncio.run(main())
        until(lambda: not lanes.n_calls)

    assert len(lanes.batches) == 2, "the one under way, and the others'"
    assert cosines(found, qwen3.encode(TEXTS)).min() >= 0.9999


def test_task_cancelled_before_its_turn_computes_nothing(qwen3: Embedder):
    """It waits for a thread while all of them are in use."""

    async def main() -> None:
        first = [asyncio.create_task(qwen3.aencode(f"first {number}")) for number in range(MOST_ASYNC_CALLS)]
        await happens(lambda: lanes.n_calls == MOST_ASYNC_CALLS)
        last = asyncio.create_task(qwen3.aencode(MANY))
        await asyncio.sleep(0.05)
        last.cancel()
        with pytest.raises(asyncio.CancelledError):
            await last
        lanes.gate.set()
        await asyncio.gather(*first)

    with WatchedLanes(qwen3, is_open=False) as lanes:
        asyncio.run(main())
    assert sum(lanes.batches) == MOST_ASYNC_CALLS


def test_cancelling_stops_the_tokenising(qwen3: Embedder):
    """A thread does not go on through megabytes of text whose vectors are not needed any more."""
    seen, ids = [], Tokenizer.ids

    def counted(tokenizer: Tokenizer, text: str, *prompt: Prompt) -> np.ndarray:
        seen.append(len(text))
        return ids(tokenizer, text, *prompt)

    async def main() -> None:
        task = asyncio.create_task(qwen3.aencode([f"text {number}" for number in range(300_000)]))
        await happens(lambda: len(seen) > 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    one_window = patch.multiple(inputs, WINDOW_TEXTS=1_000_000, WINDOW_CHARACTERS=1_000_000_000)
    with patch.object(Tokenizer, "ids", counted), one_window:
        asyncio.run(main())
        until(lambda: qwen3.stats().calls == 0)
    assert len(seen) < 200_000


def test_timeout_stops_the_work(qwen3: Embedder):
    """asyncio.wait_for ends in time, the work stops, and the next call is computed."""

    async def main() -> np.ndarray:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(qwen3.aencode(MANY * 20), 0.05)
        await happens(lambda: not lanes.n_calls)
        return await asyncio.wait_for(qwen3.aencode(TEXTS), 60)

    with WatchedLanes(qwen3) as lanes:
        found = asyncio.run(main())
    np.testing.assert_array_equal(found, qwen3.encode(TEXTS))


def test_end_of_a_loop_cancels_its_tasks(qwen3: Embedder):
    """asyncio.run cancels what is left when main returns."""
    left = []

    async def main() -> None:
        left.append(asyncio.create_task(qwen3.aencode(MANY * 20)))
        await happens(lambda: lanes.batches)

    with WatchedLanes(qwen3) as lanes:
        asyncio.run(main())
        until(lambda: not lanes.n_calls)
    assert left[0].cancelled()
    assert sum(lanes.batches) < len(set(MANY))


def test_cancelled_call_frees_its_memory(qwen3: Embedder):
    """Its texts and rows are freed while the Embedder stays open."""

    async def main() -> list[weakref.ref]:
        task = asyncio.create_task(qwen3.aencode(MANY))
        await happens(lambda: len(lanes.batches) > 1)
        calls = [weakref.ref(call) for call in gc.get_objects() if isinstance(call, Call)]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return calls

    gc.collect()
    with WatchedLanes(qwen3) as lanes:
        calls = asyncio.run(main())
        until(lambda: not lanes.n_calls)
    assert calls
    until(lambda: gc.collect() is not None and all(call() is None for call in calls))


fates = st.sampled_from(["wait", "wait", "cancel", "cancel later", "timeout"])


@settings(max_examples=20)
@given(st.lists(st.tuples(st.sampled_from(FORMS[:3]), st.integers(1, 40), fates), min_size=1, max_size=25))
def test_cancelled_tasks_do_not_change_other_tasks(minilm: Embedder, tasks: list[tuple[str, int, str]]):
    """Tasks of all forms are cancelled at random: the others get their vectors, the cancelled ones CancelledError."""
    texts = [[f"{form} {number} é {index}" for index in range(n)] for number, (form, n, _) in enumerate(tasks)]

    async def one(number: int) -> Any:
        form, _, fate = tasks[number]
        task = asyncio.create_task(getattr(minilm, f"a{form}")(texts[number]))
        if fate == "timeout":
            return await asyncio.wait_for(task, 0.005)
        if fate == "cancel later":
            await asyncio.sleep(0.002 * (number % 4))
        if fate != "wait":
            task.cancel()
        return await task

    async def main() -> list[Any]:
        return await asyncio.gather(*map(one, range(len(tasks))), return_exceptions=True)

    for number, outcome in enumerate(asyncio.run(main())):
        if isinstance(outcome, np.ndarray):
            assert cosines(outcome, minilm.encode(texts[number])).min() >= 0.9999
        else:
            expected = asyncio.TimeoutError if tasks[number][2] == "timeout" else asyncio.CancelledError
            assert isinstance(outcome, expected) and tasks[number][2] != "wait"


# Closing


def test_closed_embedder_raises(small_qwen3: Path):
    """Every form raises NativeError, used before or not, and starts no thread for it."""
    others = async_threads()
    for used in (False, True):
        embedder = Embedder(small_qwen3)
        if used:
            asyncio.run(embedder.aencode("x"))
        embedder.close()
        until(lambda: not async_threads() - others)
        for form in FORMS:
            with pytest.raises(NativeError, match="closed"):
                asyncio.run(getattr(embedder, f"a{form}")("é"))
        assert not async_threads() - others


@pytest.mark.parametrize("from_the_loop", [False, True])
def test_closing_ends_all_tasks(from_the_loop: bool, small_qwen3: Path):
    """Tasks under way, tasks that wait for a thread and later ones get NativeError, and none hangs."""

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(embedder.aencode(MANY)) for _ in range(MOST_ASYNC_CALLS + 10)]
        await happens(lambda: len(lanes.batches) > 1)
        threads.update(async_threads() - others)
        if from_the_loop:
            embedder.close()
        else:
            closing = asyncio.create_task(asyncio.to_thread(embedder.close))
            for _ in range(20):
                tasks.append(asyncio.create_task(embedder.aencode("x")))
                await asyncio.sleep(0)
            await closing
        tasks.append(asyncio.create_task(embedder.aencode("x")))
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)

    others, embedder, threads = async_threads(), Embedder(small_qwen3), set()
    with WatchedLanes(embedder) as lanes:
        found = asyncio.run(main())
    assert {type(outcome) for outcome in found} <= {NativeError, np.ndarray}
    assert type(found[-1]) is NativeError
    assert sum(type(outcome) is NativeError for outcome in found) > MOST_ASYNC_CALLS
    until(lambda: not any(thread.is_alive() for thread in threads))
