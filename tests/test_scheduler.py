"""Scheduler: every call gets its own rows, whatever shares its batches, fails, is cancelled or interrupted."""

import gc
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qgguf.errors import NativeError
from qgguf.inference.call import Call, CallCancelledError
from qgguf.inference.scheduler import Scheduler
from tests.support.waiting import until

DIMS = 4
NO_PROMPT = np.empty(0, np.int32)
# Few ids, so that texts of different calls are often equal or begin alike.
texts_of_ids = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9).map(tuple), max_size=20, unique=True)


def vector_of(ids):
    """Return what a lane computes for a text: a row that only this text has."""
    numbers = np.asarray(ids, np.float64)
    positions = np.arange(1, len(numbers) + 1)
    return np.array(
        [numbers.sum(), len(numbers), (numbers * positions).sum(), (numbers**2 * positions).sum()], np.float32
    )


class Lane:
    """A lane that computes with arithmetic, and records its batches. Like the real one it keeps the last `between`.

    seconds  time that a batch takes
    fail     called with the texts of each batch; may raise
    gate     a semaphore that each batch waits for
    """

    def __init__(self, seconds=0.0, fail=None, gate=None):
        self.batches, self.seconds, self.fail, self.gate = [], seconds, fail, gate
        self.busy = False

    def vectors(self, texts, prompt, between):
        assert not self.busy, "two threads in one lane"
        self.busy, self.between = True, between
        try:
            self.batches.append([tuple(text.tolist()) for text in texts])
            assert len(set(self.batches[-1])) == len(texts), "a batch has equal texts"
            assert self.gate is None or self.gate.acquire(timeout=30)
            for part in range(2):
                between(part, 2)
                time.sleep(self.seconds / 2)
            if self.fail is not None:
                self.fail(texts)
            return np.stack([vector_of(text) for text in texts])
        finally:
            self.busy = False


def call_of(texts, prompt=NO_PROMPT, **options):
    arrays = [np.array(text, np.int32) for text in texts]
    return Call(arrays, np.asarray(prompt, np.int32), DIMS, least_shared=2, **options)


def expected_of(texts):
    return np.array([vector_of(text) for text in texts], np.float32).reshape(len(texts), DIMS)


def begin(scheduler, calls):
    """Run each call in a thread, begun in order; return the threads and the list of outcomes."""
    outcomes = [None] * len(calls)

    def work(number):
        try:
            outcomes[number] = scheduler.run(calls[number])
        except BaseException as error:
            outcomes[number] = error

    threads = []
    for number in range(len(calls)):
        threads.append(threading.Thread(target=work, args=(number,), daemon=True))
        threads[-1].start()
    return threads, outcomes


def end(threads):
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "a call waits forever"


def run_all(scheduler, calls):
    """Run each call in a thread, begun in order; return what each call returned or raised."""
    threads, outcomes = begin(scheduler, calls)
    end(threads)
    return outcomes


def assert_idle(scheduler):
    """Assert that all lanes are free, and that no call is known."""
    # A helper gives its lane back first, and ends when no text waits.
    until(lambda: scheduler.is_idle)


@settings(max_examples=60)
@given(st.lists(texts_of_ids, min_size=1, max_size=8), st.integers(1, 3), st.integers(1, 40), st.integers(1, 6))
def test_every_call_gets_its_own_rows(calls, n_lanes, max_tokens, max_texts):
    """The rows of a call are those of its texts, in their order, for any mix of calls and any number of lanes."""
    lanes = [Lane() for _ in range(n_lanes)]
    scheduler = Scheduler(lanes, max_tokens=max_tokens, max_texts=max_texts)

    found = run_all(scheduler, [call_of(texts) for texts in calls])

    for texts, rows in zip(calls, found, strict=True):
        np.testing.assert_array_equal(rows, expected_of(texts))
    for batch in (batch for lane in lanes for batch in lane.batches):
        assert len(batch) <= max_texts
        assert len(batch) == 1 or sum(map(len, batch)) <= max_tokens + sum(len(text) - 1 for text in batch)


def test_single_call_stays_in_its_thread():
    """No other thread computes for it."""
    seen = set()
    lane = Lane(fail=lambda texts: seen.add(threading.get_ident()))

    Scheduler([lane], max_tokens=4, max_texts=4).run(call_of([(1,), (2, 2), (3, 3, 3)]))

    assert seen == {threading.get_ident()}


def test_calls_that_wait_share_a_batch():
    """Calls that come while a batch is computed are all in the next."""
    lane = Lane(seconds=0.2)
    scheduler = Scheduler([lane], max_tokens=100, max_texts=10)

    run_all(scheduler, [call_of([(number, number)]) for number in range(6)])

    assert [len(batch) for batch in lane.batches] == [1, 5]


def test_equal_texts_of_two_calls_are_computed_once():
    """Both calls get the row."""
    lane = Lane(seconds=0.1)
    scheduler = Scheduler([lane], max_tokens=100, max_texts=10)

    found = run_all(scheduler, [call_of([(9,)]), call_of([(1, 2), (3,)]), call_of([(3,), (1, 2)])])

    assert sorted(map(len, lane.batches)) == [1, 2]
    np.testing.assert_array_equal(found[1], found[2][::-1])


def test_calls_with_different_prompts_do_not_share():
    """A kept prompt is for texts that begin with it."""
    lane = Lane(seconds=0.1)
    scheduler = Scheduler([lane], max_tokens=100, max_texts=10)

    run_all(scheduler, [call_of([(9,)]), call_of([(1, 2, 3)], [1, 2]), call_of([(7, 8, 3)], [7, 8])])

    assert [len(batch) for batch in lane.batches] == [1, 1, 1]


def test_small_call_is_in_the_next_batch():
    """It waits only for the batch under way, however much a large call has left, and the room it leaves is used."""
    lane = Lane(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=10, max_texts=10)
    large, small = call_of([(number, number + 1) for number in range(200)]), call_of([(5, 5, 5)])
    threads, outcomes = begin(scheduler, [large, small])
    until(lambda: lane.batches and scheduler.n_calls == 2)
    lane.gate.release(1000)
    end(threads)

    assert len(lane.batches[0]) == 5
    assert (5, 5, 5) in lane.batches[1]
    assert len(lane.batches[1]) == 4
    np.testing.assert_array_equal(outcomes[1], expected_of([(5, 5, 5)]))


@pytest.mark.parametrize(("max_tokens", "max_texts"), [(24, 100), (1000, 12)])
def test_large_calls_share_a_batch_evenly(max_tokens, max_texts):
    """The tokens and texts of each batch are divided evenly among the calls that wait, and no room is left."""
    lane = Lane(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=max_tokens, max_texts=max_texts)
    threads, _ = begin(scheduler, [call_of([(call, number) for number in range(60)]) for call in range(3)])
    until(lambda: lane.batches and scheduler.n_calls == 3)
    lane.gate.release(1000)
    end(threads)

    for batch in lane.batches[1:12]:
        assert [sum(text[0] == call for text in batch) for call in range(3)] == [4, 4, 4]


def test_calls_that_cannot_share_take_turns():
    """Each batch is for the call that has waited longest for one, and there is one batch at a time."""
    lane = Lane(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=4, max_texts=2)
    calls = [call_of([(call, number) for number in range(20)], prompt=[call, call]) for call in range(3)]
    threads, _ = begin(scheduler, calls)
    until(lambda: lane.batches and scheduler.n_calls == 3)
    lane.gate.release(1000)
    end(threads)

    turns = [batch[0][0] for batch in lane.batches]
    assert len(turns) == 30
    assert all(set(turns[start : start + 3]) == {0, 1, 2} for start in range(1, 26, 3))


def beginnings_of(texts):
    return {text[:stop] for text in texts for stop in range(1, len(text) + 1)}


prompts = st.lists(st.integers(0, 1), max_size=6)


@settings(max_examples=150)
@given(
    st.lists(texts_of_ids, min_size=1, max_size=4), prompts, st.integers(0, 6), st.integers(1, 20), st.integers(1, 8)
)
def test_no_batch_exceeds_the_room_of_a_lane(calls, prompt, kept_tokens, max_tokens, max_texts):
    """A lane lays out each beginning once; with the kept prompt that is within the budget, or it is one long text."""
    lane = Lane(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=max_tokens, max_texts=max_texts)
    # Some texts begin with the prompt, some do not.
    calls = [[(*prompt, *text) if sum(text) % 3 else text for text in texts] for texts in calls]
    calls = [list(dict.fromkeys(texts)) for texts in calls]
    threads, found = begin(scheduler, [call_of(texts, prompt, kept_tokens=kept_tokens) for texts in calls])
    lane.gate.release(1000)
    end(threads)

    n_kept = min(len(prompt), kept_tokens)
    for texts, rows in zip(calls, found, strict=True):
        np.testing.assert_array_equal(rows, expected_of(texts))
    for batch in lane.batches:
        assert len(batch) <= max_texts
        assert len(beginnings_of(batch)) <= max(max_tokens + n_kept, *map(len, batch))


def test_failing_text_fails_its_call_only():
    """A batch that fails is computed again, call by call; only the call at fault gets the error."""

    def fail(texts):
        if any(13 in text for text in texts):
            raise NativeError("thirteen", 13)

    scheduler = Scheduler([Lane(seconds=0.1, fail=fail)], max_tokens=100, max_texts=10)

    found = run_all(scheduler, [call_of([(9,)]), call_of([(1,)]), call_of([(2,), (13,)]), call_of([(3,)])])

    assert isinstance(found[2], NativeError)
    assert found[2].code == 13
    for number, texts in ((0, [(9,)]), (1, [(1,)]), (3, [(3,)])):
        np.testing.assert_array_equal(found[number], expected_of(texts))


@pytest.mark.parametrize("interrupted", [0, 1, 2])
def test_interrupt_ends_one_call_only(interrupted):
    """After Ctrl-C in the thread that computes for all, its own call ends and other threads compute the rest."""
    n_seen = 0

    def fail(texts):
        nonlocal n_seen
        n_seen += 1
        if n_seen == interrupted + 1:
            raise KeyboardInterrupt

    scheduler = Scheduler([Lane(seconds=0.05, fail=fail)], max_tokens=4, max_texts=2)
    calls = [[(number, index) for index in range(5)] for number in range(3)]

    found = run_all(scheduler, [call_of(texts) for texts in calls])

    assert sum(isinstance(outcome, KeyboardInterrupt) for outcome in found) == 1
    for texts, outcome in zip(calls, found, strict=True):
        if not isinstance(outcome, KeyboardInterrupt):
            np.testing.assert_array_equal(outcome, expected_of(texts))


def test_cancelled_call_ends_soon():
    """Its thread gets CallCancelledError, the rest of its texts is not computed, and other calls go on."""
    lane = Lane(seconds=0.05)
    scheduler = Scheduler([lane], max_tokens=2, max_texts=1)
    first, second = call_of([(number, 1) for number in range(100)]), call_of([(1, 1), (2, 2)])
    threads, outcomes = begin(scheduler, [first, second])
    until(lambda: lane.batches)

    scheduler.cancel(first)
    end(threads)

    assert len(lane.batches) < 10
    assert isinstance(outcomes[0], CallCancelledError)
    np.testing.assert_array_equal(outcomes[1], expected_of([(1, 1), (2, 2)]))


def test_waiting_call_is_cancelled_at_once():
    """Its thread does not wait for the batch of another call that is under way."""
    lane = Lane(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=2, max_texts=1)
    first, second = call_of([(1, 1)]), call_of([(2, 2)])
    threads, outcomes = begin(scheduler, [first, second])
    until(lambda: lane.batches and scheduler.n_calls == 2 and scheduler.n_sleeping)

    waiting = 0 if first.has_work else 1
    scheduler.cancel([first, second][waiting])
    end(threads[waiting : waiting + 1])

    assert isinstance(outcomes[waiting], CallCancelledError)
    assert len(lane.batches) == 1
    lane.gate.release()
    end(threads)


@pytest.mark.parametrize("alone", [True, False])
def test_batch_stops_when_all_its_calls_are_cancelled(alone):
    """It stops at the next native call; with another call's texts in it, it is computed to the end."""

    class Long(Lane):
        def vectors(self, texts, prompt, between):
            if (9,) in map(tuple, texts):
                return super().vectors(texts, prompt, between)
            for part in range(100):
                parts.append(part)
                between(part, 100)
                if part == 3:
                    scheduler.cancel(calls[1])
            return np.stack([vector_of(text) for text in texts])

    parts, lane = [], Long(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=20, max_texts=10)
    calls = [call_of([(9,)]), call_of([(1,) * 5]), call_of([(2,) * 5] if not alone else [])]
    threads, outcomes = begin(scheduler, calls)
    until(lambda: lane.batches and scheduler.n_calls == 3 - alone)
    lane.gate.release()
    end(threads)

    assert isinstance(outcomes[1], CallCancelledError)
    assert len(parts) == (5 if alone else 100)
    np.testing.assert_array_equal(outcomes[2], expected_of([] if alone else [(2,) * 5]))


def test_call_cancelled_before_it_runs_computes_nothing():
    """It raises at once."""
    lane = Lane()
    scheduler, call = Scheduler([lane], max_tokens=2, max_texts=1), call_of([(1,)])
    scheduler.cancel(call)

    with pytest.raises(CallCancelledError):
        scheduler.run(call)
    assert lane.batches == []


def test_call_cancelled_after_its_end_has_its_rows():
    """A cancellation that comes too late changes nothing."""
    scheduler, call = Scheduler([Lane()], max_tokens=2, max_texts=1), call_of([(1,)])
    scheduler.run(call)
    scheduler.cancel(call)

    np.testing.assert_array_equal(scheduler.run(call), expected_of([(1,)]))


def test_closing_model_ends_every_call():
    """Each caller gets the error that `check` raises."""
    ended = threading.Event()

    def check():
        if ended.is_set():
            raise NativeError("closed")

    lane = Lane(seconds=0.02)
    scheduler = Scheduler([lane], max_tokens=2, max_texts=1, check=check)
    threading.Timer(0.1, ended.set).start()

    found = run_all(scheduler, [call_of([(number, index) for index in range(50)]) for number in range(3)])

    assert all(isinstance(outcome, NativeError) for outcome in found)


def test_lanes_work_side_by_side():
    """One call with several batches uses all lanes, and its helper threads end."""
    lanes = [Lane(seconds=0.05) for _ in range(3)]

    Scheduler(lanes, max_tokens=2, max_texts=1).run(call_of([(number, 0) for number in range(30)]))

    assert all(lane.batches for lane in lanes)
    for thread in threading.enumerate():
        if thread.name == "qgguf-lane":
            thread.join(10)
            assert not thread.is_alive()


def test_progress_adds_up_to_all_tokens():
    """The reported tokens are those of the texts, shared or not."""
    reported = []
    texts = [(1, 2, 3), (1, 2, 4), (5,)]

    Scheduler([Lane()], max_tokens=4, max_texts=2).run(call_of(texts, on_tokens=reported.append))

    assert sum(reported) == 7


def test_error_of_on_tokens_ends_its_own_call():
    """A broken progress bar ends the call that it belongs to, not the one whose thread computes."""

    def broken(n_tokens):
        raise BrokenPipeError

    lane = Lane(gate=threading.Semaphore(0))
    scheduler = Scheduler([lane], max_tokens=100, max_texts=10)
    calls = [call_of([(9,)]), call_of([(1,)]), call_of([(2,)], on_tokens=broken), call_of([(3,)])]
    threads, found = begin(scheduler, calls)
    until(lambda: lane.batches and scheduler.n_calls == 4)
    lane.gate.release(1000)
    end(threads)

    assert isinstance(found[2], BrokenPipeError)
    for number, text in ((0, (9,)), (1, (1,)), (3, (3,))):
        np.testing.assert_array_equal(found[number], expected_of([text]))
    assert len(lane.batches) == 2
    assert_idle(scheduler)


def test_system_without_threads_is_only_slower(monkeypatch):
    """The caller's thread computes all batches when no other can be started."""

    def start(thread):
        raise RuntimeError("can't start new thread")

    texts = [(number, 0) for number in range(10)]
    scheduler = Scheduler([Lane(), Lane()], max_tokens=2, max_texts=1)
    monkeypatch.setattr(threading.Thread, "start", start)

    np.testing.assert_array_equal(scheduler.run(call_of(texts)), expected_of(texts))
    assert_idle(scheduler)


def test_call_cancelled_before_it_is_known_is_not_kept():
    """A call that is cancelled between the start of `run` and its first wait leaves nothing in the scheduler."""

    class CancelledAfterOneLook(Call):
        @property
        def ended(self):
            ended = super().ended
            self.error = CallCancelledError()
            return ended

    scheduler = Scheduler([Lane()], max_tokens=2, max_texts=1)
    with pytest.raises(CallCancelledError):
        scheduler.run(CancelledAfterOneLook([np.array([1], np.int32)], NO_PROMPT, DIMS, least_shared=2))

    assert scheduler.is_idle


@pytest.mark.parametrize("n_lanes", [1, 3])
def test_ended_call_frees_its_memory(n_lanes):
    """Nothing holds its texts and rows, however it ended, though lanes keep their last arguments."""

    def fail(texts):
        if (13,) in map(tuple, texts):
            raise NativeError("thirteen")
        if (14,) in map(tuple, texts):
            scheduler.cancel(calls[2])

    lanes = [Lane(fail=fail) for _ in range(n_lanes)]
    scheduler = Scheduler(lanes, max_tokens=2, max_texts=1)
    calls = [call_of([(last,), *((last, number) for number in range(20))]) for last in (12, 13, 14)]
    found = run_all(scheduler, calls)
    assert [type(outcome) for outcome in found] == [np.ndarray, NativeError, CallCancelledError]
    assert_idle(scheduler)

    kept = [weakref.ref(call) for call in calls]
    del calls[:], found
    gc.collect()
    assert [reference() for reference in kept] == [None] * 3


class Story:
    """A repeatable sequence of events: what happens to some calls at which batch of their scheduler."""

    def __init__(self, calls, n_lanes, max_tokens, max_texts, events):
        self.n_batches, self.n_failed, self.n_interrupted, self.events = 0, 0, 0, dict(events)
        self.lock = threading.Lock()
        lanes = [Lane(fail=self.on_batch) for _ in range(n_lanes)]
        self.scheduler = Scheduler(lanes, max_tokens=max_tokens, max_texts=max_texts)
        self.texts = [texts for texts, _ in calls]
        self.calls = [call_of(texts, prompt) for texts, prompt in calls]

    def on_batch(self, texts):
        with self.lock:
            event = self.events.get(self.n_batches, "")
            self.n_batches += 1
            fails = event == "fail" or (event == "bad text" and any(3 in text for text in texts))
            interrupts = event == "interrupt" and threading.current_thread().name != "qgguf-lane"
            self.n_failed += fails
            self.n_interrupted += interrupts
        if fails:
            raise NativeError(event)
        if interrupts:
            raise KeyboardInterrupt
        if isinstance(event, int):
            self.scheduler.cancel(self.calls[event % len(self.calls)])

    def check(self):
        """Run the calls; assert that each ended with its own rows or its own error, and that no call is left."""
        cancelled = {event % len(self.calls) for event in self.events.values() if isinstance(event, int)}
        found = run_all(self.scheduler, self.calls)
        for number, (texts, outcome) in enumerate(zip(self.texts, found, strict=True)):
            if isinstance(outcome, np.ndarray):
                np.testing.assert_array_equal(outcome, expected_of(texts))
            elif isinstance(outcome, CallCancelledError):
                assert number in cancelled
            else:
                assert isinstance(outcome, NativeError | KeyboardInterrupt)
        # A batch that fails is one call's failure at most: several calls in it are computed again, each alone.
        assert sum(isinstance(outcome, NativeError) for outcome in found) <= self.n_failed
        assert sum(isinstance(outcome, KeyboardInterrupt) for outcome in found) == self.n_interrupted
        assert_idle(self.scheduler)


events = st.dictionaries(
    st.integers(0, 30), st.sampled_from(["fail", "interrupt", "bad text"]) | st.integers(0, 5), max_size=6
)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(texts_of_ids, prompts), min_size=1, max_size=6),
    st.integers(1, 3),
    st.integers(1, 30),
    st.integers(1, 6),
    events,
)
def test_no_call_is_lost(calls, n_lanes, max_tokens, max_texts, events):
    """With cancellations, failures and interrupts at any batch, a call ends with its rows or with its own error."""
    Story(calls, n_lanes, max_tokens, max_texts, events).check()


INTERRUPTED = """
import random, signal, time
from tests.test_scheduler import Scheduler, Lane, call_of, expected_of, until, np

armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

class Quick(Lane):
    def vectors(self, texts, prompt, between):
        between(0, 1)
        return np.stack([expected_of([text.tolist()])[0] for text in texts])

signal.signal(signal.SIGALRM, interrupt)
rng, texts, n_interrupts = random.Random(0), [(1, 2), (3,), (4, 5)], 0
scheduler = Scheduler([Quick()], max_tokens=4, max_texts=2)
ending = time.monotonic() + 2
while time.monotonic() < ending:
    call = call_of(texts)
    signal.setitimer(signal.ITIMER_REAL, 1e-6 + rng.random() * 300e-6)
    try:
        armed = True
        rows = scheduler.run(call)
        armed = False
        assert (rows == expected_of(texts)).all()
    except KeyboardInterrupt:
        armed = False
        n_interrupts += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    until(lambda: scheduler.is_idle)
print(n_interrupts)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timer that interrupts")
def test_interrupt_at_any_step_loses_no_lane():
    """After Ctrl-C between any two steps of the scheduler, some hundred times, the next call is computed."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_random_calls_of_many_threads_all_end():
    """Eight threads make random calls, with cancellations and failures, and none waits forever."""

    def fail(texts):
        if rng.random() < 0.02:
            raise NativeError("now and then")

    rng = random.Random(0)
    scheduler = Scheduler([Lane(fail=fail), Lane(fail=fail)], max_tokens=12, max_texts=5)
    n_right = [0] * 8

    def work(number):
        own = random.Random(number)
        for _ in range(150):
            texts = list({tuple(own.choices(range(4), k=own.randint(1, 6))) for _ in range(own.randint(0, 6))})
            call = call_of(texts)
            if own.random() < 0.1:
                threading.Timer(own.random() / 1000, scheduler.cancel, [call]).start()
            try:
                rows = scheduler.run(call)
            except (NativeError, CallCancelledError):
                continue
            np.testing.assert_array_equal(rows, expected_of(texts))
            n_right[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert min(n_right) > 50


@settings(max_examples=60)
@given(st.lists(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), max_size=12), max_size=4))
def test_sorted_batches_are_in_the_order_of_their_ids(calls):
    """A lane that shares beginnings gets sorted texts, and each call the rows of its texts, equal ones included."""
    lane = Lane()
    scheduler = Scheduler([lane], max_tokens=12, max_texts=5, sort_batches=True)

    found = run_all(scheduler, [call_of(texts) for texts in calls])

    assert all(batch == sorted(batch) for batch in lane.batches)
    for texts, rows in zip(calls, found, strict=True):
        np.testing.assert_array_equal(rows, expected_of(texts))
