"""Scheduler: the texts of many calls in shared batches, computed in the threads of those who call.

There is no thread that owns the model. A caller who finds a lane free computes, for itself and for all who wait; a lone
caller is never handed to another thread, and pays two locks for the company it does not have.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qgguf.batching import Ids, common_length, distinct_texts, order_texts, take_batch
from qgguf.errors import NativeError

Vectors = NDArray[np.float32]
Between = Callable[[int, int], None]
"""Called between two native calls with the tokens done and those in all; raises to stop."""


class Lane(Protocol):
    """A place to compute, used by one thread at a time."""

    def vectors(self, texts: Sequence[Ids], prompt: Ids, between: Between) -> Vectors:
        """(n_texts, dims) float32, one row for each text; the texts are all different."""


class CallCancelledError(Exception):
    """The call was given up by the one who made it."""


class Call:
    """The texts of one call, and what has become of them.

    texts         ids, all different
    prompt        ids that texts may begin with; calls of one prompt share batches
    dims          length of a vector
    least_shared  tokens that texts must begin with alike to be put into one batch for it
    kept_tokens   the prompt's first tokens that stay in the KV cache, and so cost nothing
    on_tokens     told how many tokens of the texts have been computed more
    """

    def __init__(
        self,
        texts: Sequence[Ids],
        prompt: Ids,
        dims: int,
        *,
        least_shared: int,
        kept_tokens: int = 0,
        on_tokens: Callable[[int], None] | None = None,
    ) -> None:
        self.texts, self.prompt, self.kept = texts, prompt, prompt[:kept_tokens]
        self.rows = np.empty((len(texts), dims), np.float32)
        self.order, self.costs = order_texts(texts, least_shared=least_shared)
        self.lengths = [len(texts[index]) for index in self.order]
        self.on_tokens = on_tokens
        self.error: BaseException | None = None
        self.alone = False
        self._next = 0
        self._again: list[tuple[int, int]] = []
        self._missing = len(texts)
        self._told_tokens = 0
        self.lane: Lane | None = None
        self.wake = threading.Event()

    @property
    def ended(self) -> bool:
        """All rows are there, or none will come."""
        return self._missing == 0 or self.error is not None

    @property
    def has_work(self) -> bool:
        """Some texts are not yet in anybody's hands."""
        return self.error is None and (self._next < len(self.order) or bool(self._again))

    def take(self, max_tokens: int, max_texts: int, *, first: bool) -> "_Piece | None":
        """The next texts that fit; the first of a batch always does, however long."""
        if self._again:
            start, stop = self._again[-1]
            if not first and (stop - start > max_texts or sum(self.lengths[start:stop]) > max_tokens):
                return None
            self._again.pop()
            return _Piece(self, start, stop)
        start = self._next
        if start == len(self.order) or max_texts < 1:
            return None
        kept = common_length(self.kept, self.texts[self.order[start]])
        if not first and self.lengths[start] - kept > max_tokens:
            return None
        budget = max(max_tokens + kept, self.lengths[start])
        self._next = take_batch(self.lengths, self.costs, start, max_tokens=budget, max_texts=max_texts)
        return _Piece(self, start, self._next, kept)

    def give_back(self, piece: "_Piece") -> None:
        """Texts whose batch came to nothing, to be taken again."""
        self._again.append((piece.start, piece.stop))

    def put(self, piece: "_Piece", rows: Vectors) -> None:
        self.rows[piece.places] = rows
        self._missing -= piece.stop - piece.start

    def fail(self, error: BaseException) -> None:
        if not self.ended:
            self.error = error


@dataclass(frozen=True, slots=True)
class _Piece:
    """Neighbours in a call's order that are computed together."""

    call: Call
    start: int
    stop: int
    n_kept: int = 0

    @property
    def places(self) -> list[int]:
        return self.call.order[self.start : self.stop]

    @property
    def texts(self) -> list[Ids]:
        return [self.call.texts[index] for index in self.places]

    @property
    def n_tokens(self) -> int:
        return sum(self.call.lengths[self.start : self.stop])

    @property
    def cost(self) -> int:
        """Tokens to compute, those in the KV cache left out."""
        return self.call.lengths[self.start] - self.n_kept + sum(self.call.costs[self.start + 1 : self.stop])


class Scheduler:
    """Gives the lanes work: batches of whoever waits, in the order they came.

    lanes       places to compute, all over one model
    max_tokens  tokens in a batch; a longer text is a batch of its own
    max_texts   texts in a batch
    check       raises when the model is to be closed; asked between native calls

    Each batch begins with the call that has waited longest for one, and the room is shared out evenly among those who
    wait, so that a query never waits for more than the batch under way and the next.
    """

    def __init__(
        self, lanes: Sequence[Lane], *, max_tokens: int, max_texts: int, check: Callable[[], None] = lambda: None
    ) -> None:
        self._max_tokens, self._max_texts, self._check = max_tokens, max_texts, check
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._free = list(lanes)
        self._queue: deque[Call] = deque()
        self._waiting: deque[Call] = deque()
        self._under_way: dict[Lane, list[_Piece]] = {}

    def run(self, call: Call) -> Vectors:
        """Have a call computed, and help with that: (n_texts, dims) float32, in the order of its texts.

        raises  what the computation raised; CallCancelledError after `cancel`
        """
        if not call.ended:
            with self._lock:
                self._queue.append(call)
            try:
                while not call.ended:
                    lane = self._lane_for(call)
                    if lane is not None:
                        try:
                            if not call.ended:
                                self._step(lane)
                        finally:
                            self._release(lane)
            except BaseException as error:
                self._withdraw(call, error)
                raise
        if call.error is not None:
            raise _own(call.error)
        return call.rows

    def cancel(self, call: Call) -> None:
        """Give a call up: what is not computed yet will not be."""
        self._withdraw(call, CallCancelledError())

    def wait(self) -> None:
        """Wait until nothing computes any more. No call may come meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    # Inside

    def _lane_for(self, call: Call) -> Lane | None:
        """Wait until there is a lane and something to compute in it, or the call has ended (None)."""
        with self._lock:
            if call.ended:
                return None
            if self._queue and self._free:
                return self._free.pop()
            call.wake.clear()
            self._waiting.append(call)
        call.wake.wait()
        with self._lock:
            lane, call.lane = call.lane, None
        return lane

    def _release(self, lane: Lane) -> None:
        with self._lock:
            for piece in self._under_way.pop(lane, ()):
                # Ctrl-C came between two of our own lines: others' texts must not be lost for it.
                self._again(piece)
            self._free.append(lane)
            self._hand_out()
            self._changed.notify_all()

    def _hand_out(self) -> None:
        """Free lanes to waiting callers as long as there is work. The lock is held."""
        while self._free and self._queue and self._waiting:
            waiting = self._waiting.popleft()
            waiting.lane = self._free.pop()
            waiting.wake.set()

    def _withdraw(self, call: Call, error: BaseException) -> None:
        with self._lock:
            call.fail(error)
            self._forget(call)
            if call.lane is not None:
                self._free.append(call.lane)
                call.lane = None
            self._hand_out()

    def _forget(self, call: Call) -> None:
        """An ended call leaves the queue, and its caller wakes. The lock is held."""
        if call in self._queue:
            self._queue.remove(call)
        if call in self._waiting:
            self._waiting.remove(call)
            call.wake.set()

    def _step(self, lane: Lane) -> None:
        """Compute one batch. What goes wrong in it is told to those it concerns, not to who computes."""
        with self._lock:
            pieces = self._under_way[lane] = self._take()
            if self._queue:
                self._hand_out()
            helpers = [self._free.pop() for _ in range(len(self._free) if self._queue else 0)]
        for helper in helpers:
            # Not a daemon: the interpreter must not end, nor free the model, under a native call.
            threading.Thread(target=self._help, args=(helper,), name="qgguf-lane").start()
        if not pieces:
            return
        told = dict.fromkeys(pieces, 0)

        def between(done: int, total: int) -> None:
            self._check()
            if all(piece.call.error is not None for piece in pieces):
                raise CallCancelledError
            _tell(told, done / total)

        try:
            rows = self._vectors(lane, pieces, between)
        except Exception as error:
            with self._lock:
                shared = len({piece.call for piece in pieces}) > 1
                for piece in self._under_way.pop(lane):
                    self._failed(piece, error, shared=shared)
            return
        with self._lock:
            for piece, own in zip(self._under_way.pop(lane), rows, strict=True):
                piece.call.put(piece, own)
                if piece.call.ended:
                    self._forget(piece.call)
        _tell(told, 1.0)

    def _help(self, lane: Lane) -> None:
        """A thread for a lane that no caller is there to use; it ends when there is nothing to take."""
        try:
            while self._queue:
                self._step(lane)
        finally:
            self._release(lane)

    def _take(self) -> list[_Piece]:
        """The next batch. The lock is held."""
        while self._queue and not self._queue[0].has_work:
            self._queue.popleft()
        if not self._queue:
            return []
        head = self._queue[0]
        company = [head] if head.alone else [other for other in self._queue if self._joins(head, other)]
        pieces: list[_Piece] = []
        tokens_left, texts_left = self._max_tokens, self._max_texts
        # Everybody's share first, then whatever fits, in the order they came.
        shares = [*range(len(company), 0, -1), *[1] * len(company)]
        for call, share in zip(company * 2, shares, strict=True):
            piece = call.take(tokens_left // share, max(1, texts_left // share), first=not pieces)
            if piece is not None:
                pieces.append(piece)
                tokens_left -= piece.cost
                texts_left -= piece.stop - piece.start
            if tokens_left <= 0 or texts_left <= 0:
                break
        for call in dict.fromkeys(piece.call for piece in pieces):
            self._queue.remove(call)
            if call.has_work:
                self._queue.append(call)
        return pieces

    @staticmethod
    def _joins(head: Call, other: Call) -> bool:
        return other is head or (not other.alone and other.has_work and np.array_equal(head.prompt, other.prompt))

    def _vectors(self, lane: Lane, pieces: list[_Piece], between: Between) -> list[Vectors]:
        self._check()
        if len(pieces) == 1:
            return [lane.vectors(pieces[0].texts, pieces[0].call.prompt, between)]
        texts = [text for piece in pieces for text in piece.texts]
        different, places = distinct_texts(texts)
        rows = lane.vectors(different, pieces[0].call.prompt, between)[places]
        return np.split(rows, np.cumsum([piece.stop - piece.start for piece in pieces])[:-1])

    def _failed(self, piece: _Piece, error: Exception, *, shared: bool) -> None:
        """What a failed batch means for one call that had texts in it. The lock is held."""
        if shared and not piece.call.ended:
            # It may be another's text that is at fault: once more, alone.
            piece.call.alone = True
            self._again(piece)
        else:
            piece.call.fail(error)
            self._forget(piece.call)

    def _again(self, piece: _Piece) -> None:
        """Texts whose batch came to nothing go back into the queue. The lock is held."""
        if not piece.call.ended:
            piece.call.give_back(piece)
            if piece.call not in self._queue:
                self._queue.append(piece.call)


def _tell(told: dict[_Piece, int], part: float) -> None:
    """Tell each call how many of its tokens are done, that part of the batch being done."""
    for piece, before in told.items():
        done = int(piece.n_tokens * part)
        if piece.call.on_tokens is not None and done > before:
            piece.call.on_tokens(done - before)
        told[piece] = max(done, before)


def _own(error: BaseException) -> BaseException:
    """An error that several threads are told must not be one object: each raise writes into it."""
    if isinstance(error, NativeError):
        return NativeError(str(error), error.code)
    return error
