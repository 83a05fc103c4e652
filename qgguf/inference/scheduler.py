"""Scheduler: puts the texts of many calls into shared batches, and has them computed in the threads of the callers.

No thread owns the model. A caller that finds a lane free computes in it, for itself and for all that wait. A single
caller runs in its own thread; the overhead is a few lock acquisitions per batch.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from qgguf.batching import Ids
from qgguf.errors import NativeError
from qgguf.inference.call import Call, CallCancelledError, CallSlice
from qgguf.vectors import Vectors

Between = Callable[[int, int], None]
"""Called between two native calls with the tokens computed and the batch's total; raises to stop."""


class Lane(Protocol):
    """Computes batches, in one thread at a time."""

    def vectors(self, texts: Sequence[Ids], prompt: Ids, between: Between) -> Vectors:
        """Return (n_texts, dims) float32, one row for each text. The texts are distinct."""


class Scheduler:
    """Gives batches to lanes, and rows to the calls.

    lanes         lanes over one model
    max_tokens    tokens in a batch; a longer text is a batch by itself
    max_texts     texts in a batch
    sort_batches  give a lane the texts of a batch in the order of their ids, so that shared beginnings are neighbours
    check         raises when the model is to be closed; called between native calls

    Each batch begins with the call that has waited longest for one. Its room is divided evenly among the waiting calls
    that have the same prompt, so that a query does not wait for all batches of a large call with its prompt.

    The states of a caller's thread::

        run -> _serve --> sleeping ----------- its call has ended ----------> rows or error
                  |          |  ^                                                 ^
                  |     _settle |  no lane free, or no text waits                 |
                  |          v  |                                                 |
                  +------> holds a lane: _step (one batch for all that wait) -----+
                                |
                                +-- any exception: _leave gives back its lane and its texts

    A helper thread is started for a lane that no caller uses while texts wait. It computes batches until none do.

    The states of a call are drawn in `Call`. The attributes hold:

    _calls      calls that have not ended
    _sleeping   those of them whose threads wait
    _holders    who computes in each lane
    _under_way  the slices that are being computed in each lane
    _helpers    helper threads

    Ctrl-C may come between any two steps of a thread that computes for others too. So each fact is stored once and
    changes in one step: who holds a lane, what is under way in it, which texts are done. `_leave` runs each step
    of the clean-up again, because an interrupt may have stopped it halfway; each step is safe to repeat.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        max_tokens: int,
        max_texts: int,
        sort_batches: bool = False,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._max_tokens, self._max_texts, self._check = max_tokens, max_texts, check
        self._sort_batches = sort_batches
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._turns = itertools.count()
        # Calls that have not ended, those whose callers sleep, and helper threads; each in the order they came.
        self._calls: dict[Call, None] = {}
        self._sleeping: dict[Call, None] = {}
        self._helpers: dict[threading.Thread, None] = {}
        # Who computes in a lane: a call's own thread, a helper, or None.
        self._holders: dict[Lane, Call | threading.Thread | None] = dict.fromkeys(lanes)
        self._under_way: dict[Lane, list[CallSlice]] = {}
        self._n_batches = 0

    @property
    def n_batches(self) -> int:
        """Number of batches computed so far."""
        return self._n_batches

    @property
    def n_calls(self) -> int:
        """Number of calls that have come and not ended."""
        return len(self._calls)

    @property
    def n_sleeping(self) -> int:
        """Number of calls whose threads wait for others to compute."""
        return len(self._sleeping)

    @property
    def is_idle(self) -> bool:
        """Whether no call is known, and no thread computes or is about to."""
        with self._lock:
            return not (self._calls or self._sleeping or self._helpers or self._under_way) and not any(
                self._holders.values()
            )

    def run(self, call: Call) -> Vectors:
        """Compute a call, together with the calls of other threads.

        returns  (n_texts, dims) float32, in the order of its texts
        raises   what the computation raised; CallCancelledError after `cancel`
        """
        if not call.ended:
            try:
                # `_serve` is a function because in Python 3.13 a `try` around a loop does not catch an interrupt at the
                # loop's jump back.
                self._serve(call)
            except BaseException as error:
                self._leave(call, error)
                raise
        if call.error is not None:
            raise _copied(call.error)
        return call.vectors()

    def cancel(self, call: Call) -> None:
        """End a call that another thread runs: what is not computed yet will not be."""
        with self._lock:
            call.fail(CallCancelledError())
            self._settle()

    def wait(self) -> None:
        """Wait until nothing is computed any more. No call may come meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    # Who computes. The caller of these methods holds the lock, unless a docstring states that the method takes it.

    def _serve(self, call: Call) -> None:
        """Compute batches until the call has ended. Takes the lock."""
        with self._lock:
            if call.ended:
                # Cancelled since `run` looked. `_settle` has run for it already and would not forget it again.
                return
            call.turn = next(self._turns)
            self._calls[call] = None
        while (lane := self._lane_for(call)) is not None:
            if not call.ended:
                self._step(lane)
            self._release(lane)

    def _lane_for(self, call: Call) -> Lane | None:
        """Sleep until the call has a lane with something to compute, or has ended (None). Takes the lock."""
        while True:
            with self._lock:
                lane = self._lane_of(call)
                if lane is None and not call.ended:
                    lane = self._claim(call)
                if lane is not None or call.ended:
                    self._sleeping.pop(call, None)
                    return lane
                self._sleeping[call] = None
            call.wake.get()

    def _lane_of(self, holder: Call | threading.Thread | None) -> Lane | None:
        return next((lane for lane, other in self._holders.items() if other is holder), None)

    def _claim(self, holder: Call | threading.Thread) -> Lane | None:
        """Give this holder a free lane, when there is one and a text waits."""
        lane = self._lane_of(None) if self._has_work() else None
        if lane is not None:
            self._holders[lane] = holder
        return lane

    def _has_work(self) -> bool:
        return any(call.has_work for call in self._calls)

    def _settle(self) -> None:
        """Forget ended calls, give free lanes to sleeping callers while texts wait, and wake those concerned."""
        for call in [call for call in self._calls if call.ended]:
            del self._calls[call]
        for call in self._sleeping:
            if call.ended or self._lane_of(call) is not None or self._claim(call) is not None:
                call.wake.put(None)

    def _release(self, lane: Lane) -> None:
        """Free a lane. Takes the lock."""
        with self._lock:
            self._free(lane)
            self._settle()

    def _free(self, lane: Lane) -> None:
        """Take the lane from its holder; the texts under way in it wait again."""
        for taken in self._under_way.get(lane, ()):
            taken.call.give_back(taken)
        self._under_way.pop(lane, None)
        self._holders[lane] = None
        self._changed.notify_all()

    def _leave(self, call: Call, error: BaseException) -> None:
        """End a call whose thread was interrupted anywhere; no text of another call may be lost. Takes the lock."""
        with self._lock:
            call.fail(error)
            self._sleeping.pop(call, None)
            while (lane := self._lane_of(call)) is not None:
                self._free(lane)
            self._settle()

    def _start_helpers(self) -> None:
        """Start a thread for each lane that no caller is there to use, while texts wait."""
        n_coming = sum(helper.is_alive() and self._lane_of(helper) is None for helper in self._helpers)
        n_free = sum(holder is None for holder in self._holders.values())
        for _ in range(n_free - n_coming if self._has_work() else 0):
            # Not a daemon: the interpreter must not end, nor free the model, under a native call.
            helper = threading.Thread(target=self._help, name="qgguf-lane")
            self._helpers[helper] = None
            try:
                helper.start()
            except RuntimeError:
                # The system has no more threads. Fewer lanes give the same vectors.
                self._helpers.pop(helper, None)
                break

    def _help(self) -> None:
        """Compute batches in a helper thread until no text waits. Takes the lock."""
        helper = threading.current_thread()
        while True:
            with self._lock:
                lane = self._claim(helper)
                if lane is None:
                    self._helpers.pop(helper, None)
                    return
            try:
                self._step(lane)
            finally:
                self._release(lane)

    # What is computed

    def _step(self, lane: Lane) -> None:
        """Compute one batch. Exceptions are stored on the affected calls, not raised in this thread. Takes the lock."""
        slices: list[CallSlice] = []
        with self._lock:
            self._under_way[lane] = slices
            self._take(slices)
            self._settle()
            self._start_helpers()
        if not slices:
            return
        reported = dict.fromkeys(slices, 0)

        def between(done: int, total: int) -> None:
            self._check()
            if all(taken.call.error is not None for taken in reported):
                raise CallCancelledError
            self._report(reported, done / total)

        try:
            rows = self._vectors(lane, slices, between)
            self._report(reported, 1.0)
        except Exception as error:
            with self._lock:
                shared = len({taken.call for taken in slices}) > 1
                for taken in slices:
                    self._failed(taken, error, shared=shared)
                self._under_way.pop(lane)
                self._settle()
        else:
            with self._lock:
                for taken, own in zip(slices, rows, strict=True):
                    taken.call.put(taken, own)
                self._n_batches += 1
                self._under_way.pop(lane)
                self._settle()
        finally:
            # The lane may keep `between` until its next batch; the calls must not live as long.
            reported.clear()

    def _take(self, slices: list[CallSlice]) -> None:
        """Fill the next batch. The lock is held."""
        queue = sorted((call for call in self._calls if call.has_work), key=lambda call: call.turn)
        if not queue:
            return
        first = queue[0]
        calls = [first] if first.alone else [call for call in queue if _may_share(first, call)]
        tokens_left, texts_left = self._max_tokens, self._max_texts
        # First an even share of the room for each call, then what is left to the calls in their order.
        shares = [(call, len(calls) - index) for index, call in enumerate(calls)] + [(call, 1) for call in calls]
        for call, part in shares:
            taken = call.take(slices, tokens_left // part, max(1, texts_left // part))
            if taken is not None:
                tokens_left -= taken.cost
                texts_left -= taken.stop - taken.start
            if tokens_left <= 0 or texts_left <= 0:
                break
        for call in dict.fromkeys(taken.call for taken in slices):
            call.turn = next(self._turns)

    def _vectors(self, lane: Lane, slices: list[CallSlice], between: Between) -> list[Vectors]:
        """Compute the distinct texts of a batch; return the rows of each slice. The lock is not held."""
        self._check()
        keys = [[taken.call.keys[index] for index in taken.indices] for taken in slices]
        texts = {taken.call.keys[index]: taken.call.texts[index] for taken in slices for index in taken.indices}
        order = sorted(texts) if self._sort_batches else list(texts)
        rows = lane.vectors([texts[key] for key in order], slices[0].call.prompt, between)
        row_of = {key: row for row, key in enumerate(order)}
        return [rows[[row_of[key] for key in own]] for own in keys]

    def _failed(self, taken: CallSlice, error: Exception, *, shared: bool) -> None:
        """Store the failure of a batch on one call that had texts in it. The lock is held."""
        if shared:
            # Another call's text may be the cause: compute this one again, alone.
            taken.call.alone = True
            taken.call.give_back(taken)
        else:
            taken.call.fail(error)

    def _report(self, reported: dict[CallSlice, int], part: float) -> None:
        """Report to each call its computed tokens, when this part of the batch is computed. May take the lock."""
        for taken, before in reported.items():
            done = int(taken.n_tokens * part)
            if done > before and taken.call.on_tokens is not None and not taken.call.ended:
                try:
                    taken.call.on_tokens(done - before)
                except Exception as error:
                    with self._lock:
                        taken.call.fail(error)
            reported[taken] = max(done, before)


def _may_share(first: Call, other: Call) -> bool:
    """Return whether a batch that begins with `first` may hold texts of `other`."""
    return other is first or (not other.alone and first.prompt.tobytes() == other.prompt.tobytes())


def _copied(error: BaseException) -> BaseException:
    """Copy the exception before it is raised in several threads: raising changes its traceback."""
    if isinstance(error, NativeError):
        return NativeError(str(error), error.code)
    return error
