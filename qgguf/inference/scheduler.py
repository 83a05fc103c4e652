"""Scheduler: the texts of many calls in shared batches, computed in the threads of those who call.

No thread owns the model. A caller that finds a lane free computes, for itself and for all that wait. A single caller
runs in its own thread; the overhead is two lock acquisitions.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from qgguf.batching import Ids, common_length, distinct_texts, order_texts, take_batch
from qgguf.errors import NativeError
from qgguf.vectors import Vectors

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
    on_tokens     told how many tokens of the texts have been computed more; what it raises ends the call
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
        self.turn = 0
        self.wake: SimpleQueue[None] = SimpleQueue()
        self._next = 0
        self._again: list[tuple[int, int]] = []
        self._done: dict[int, int] = {}
        self._missing = len(texts)

    @property
    def ended(self) -> bool:
        """All rows are there, or none will come."""
        return self._missing == 0 or self.error is not None

    @property
    def has_work(self) -> bool:
        """Some texts are not yet in anybody's hands."""
        return self.error is None and (self._next < len(self.order) or bool(self._again))

    def take(self, pieces: "list[_Piece]", max_tokens: int, max_texts: int) -> "_Piece | None":
        """Add the next texts that fit to a batch's pieces; the first of a batch always fit, however long."""
        first = not pieces
        if self._again:
            start, stop = self._again[-1]
            if not first and (stop - start > max_texts or sum(self.lengths[start:stop]) > max_tokens):
                return None
            piece = _Piece(self, start, stop)
            pieces.append(piece)
            self._again.pop()
            return piece
        start = self._next
        if start == len(self.order):
            return None
        kept = common_length(self.kept, self.texts[self.order[start]])
        if not first and self.lengths[start] - kept > max_tokens:
            return None
        budget = max(max_tokens + kept, self.lengths[start])
        stop = take_batch(self.lengths, self.costs, start, max_tokens=budget, max_texts=max_texts)
        piece = _Piece(self, start, stop, kept)
        pieces.append(piece)
        self._next = stop
        return piece

    def give_back(self, piece: "_Piece") -> None:
        """Texts whose batch came to nothing, to be taken again; nothing where they are back already."""
        place = piece.start, piece.stop
        if not self.ended and piece.start < self._next and piece.start not in self._done and place not in self._again:
            self._again.append(place)

    def put(self, piece: "_Piece", rows: Vectors) -> None:
        """The rows of a piece; nothing where they are there already."""
        if piece.start not in self._done:
            self.rows[piece.places] = rows
            self._done[piece.start] = piece.stop - piece.start
        self._missing = len(self.texts) - sum(self._done.values())

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

    Ctrl-C may come between any two steps of a thread that computes for others too. So each fact stands in one place and
    changes in one step: who holds a lane, what is under way in it, which texts are done. `_leave` does again what an
    interrupt left half done, and what was done already stays as it is.
    """

    def __init__(
        self, lanes: Sequence[Lane], *, max_tokens: int, max_texts: int, check: Callable[[], None] = lambda: None
    ) -> None:
        self._max_tokens, self._max_texts, self._check = max_tokens, max_texts, check
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._turns = itertools.count()
        # Calls that have not ended, those whose callers sleep, threads that help; each in the order they came.
        self._calls: dict[Call, None] = {}
        self._sleeping: dict[Call, None] = {}
        self._helpers: dict[threading.Thread, None] = {}
        # Who computes in a lane: a call's own thread, a helper, or nobody.
        self._holders: dict[Lane, Call | threading.Thread | None] = dict.fromkeys(lanes)
        self._under_way: dict[Lane, list[_Piece]] = {}

    def run(self, call: Call) -> Vectors:
        """Have a call computed, and help with that: (n_texts, dims) float32, in the order of its texts.

        raises  what the computation raised; CallCancelledError after `cancel`
        """
        if not call.ended:
            try:
                # A function of its own: an interrupt as a loop jumps back is past `except` in Python 3.13.
                self._serve(call)
            except BaseException as error:
                self._leave(call, error)
                raise
        if call.error is not None:
            raise _own(call.error)
        return call.rows

    def cancel(self, call: Call) -> None:
        """Give a call up: what is not computed yet will not be."""
        with self._lock:
            call.fail(CallCancelledError())
            self._settle()

    def wait(self) -> None:
        """Wait until nothing computes any more. No call may come meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    # Who computes. The lock is held where a docstring does not say otherwise.

    def _serve(self, call: Call) -> None:
        """Compute whatever there is until the call has ended. Takes the lock."""
        with self._lock:
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
        """A free lane for this holder, where there is one and something to compute."""
        lane = self._lane_of(None) if self._has_work() else None
        if lane is not None:
            self._holders[lane] = holder
        return lane

    def _has_work(self) -> bool:
        return any(call.has_work for call in self._calls)

    def _settle(self) -> None:
        """Ended calls go, free lanes come to those who sleep, as long as there is work; and whom it concerns wakes."""
        for call in [call for call in self._calls if call.ended]:
            del self._calls[call]
        for call in self._sleeping:
            if call.ended or self._lane_of(call) is not None or self._claim(call) is not None:
                call.wake.put(None)

    def _release(self, lane: Lane) -> None:
        """Takes the lock."""
        with self._lock:
            self._free(lane)
            self._settle()

    def _free(self, lane: Lane) -> None:
        """Nobody computes in the lane; what is under way in it will be taken again."""
        for piece in self._under_way.get(lane, ()):
            piece.call.give_back(piece)
        self._under_way.pop(lane, None)
        self._holders[lane] = None
        self._changed.notify_all()

    def _leave(self, call: Call, error: BaseException) -> None:
        """The caller goes, interrupted wherever it was: others' texts must not be lost for it. Takes the lock."""
        with self._lock:
            call.fail(error)
            self._sleeping.pop(call, None)
            while (lane := self._lane_of(call)) is not None:
                self._free(lane)
            self._settle()

    def _get_help(self) -> None:
        """Threads for lanes that no caller is there to use, as long as there is work."""
        coming = sum(helper.is_alive() and self._lane_of(helper) is None for helper in self._helpers)
        n_free = sum(holder is None for holder in self._holders.values())
        for _ in range(n_free - coming if self._has_work() else 0):
            # Not a daemon: the interpreter must not end, nor free the model, under a native call.
            helper = threading.Thread(target=self._help, name="qgguf-lane")
            self._helpers[helper] = None
            try:
                helper.start()
            except RuntimeError:
                # The system has no thread for us: fewer lanes are as right.
                self._helpers.pop(helper, None)
                break

    def _help(self) -> None:
        """What a helper does until there is nothing to compute. Takes the lock."""
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
        """Compute one batch. Its exceptions are stored on the affected calls, not raised in the computing thread."""
        pieces: list[_Piece] = []
        with self._lock:
            self._under_way[lane] = pieces
            self._take(pieces)
            self._settle()
            self._get_help()
        if not pieces:
            return
        told = dict.fromkeys(pieces, 0)

        def between(done: int, total: int) -> None:
            self._check()
            if all(piece.call.error is not None for piece in told):
                raise CallCancelledError
            self._tell(told, done / total)

        try:
            rows = self._vectors(lane, pieces, between)
            self._tell(told, 1.0)
        except Exception as error:
            with self._lock:
                shared = len({piece.call for piece in pieces}) > 1
                for piece in pieces:
                    self._failed(piece, error, shared=shared)
                self._under_way.pop(lane)
                self._settle()
        else:
            with self._lock:
                for piece, own in zip(pieces, rows, strict=True):
                    piece.call.put(piece, own)
                self._under_way.pop(lane)
                self._settle()
        finally:
            # The lane may keep `between` until its next batch, and that is not to keep the calls.
            told.clear()

    def _take(self, pieces: list[_Piece]) -> None:
        """Fill the next batch. The lock is held."""
        queue = sorted((call for call in self._calls if call.has_work), key=lambda call: call.turn)
        if not queue:
            return
        head = queue[0]
        company = [head] if head.alone else [other for other in queue if self._joins(head, other)]
        tokens_left, texts_left = self._max_tokens, self._max_texts
        # Everybody's share first, then whatever fits, in the order they came.
        shares = [*range(len(company), 0, -1), *[1] * len(company)]
        for call, share in zip(company * 2, shares, strict=True):
            piece = call.take(pieces, tokens_left // share, max(1, texts_left // share))
            if piece is not None:
                tokens_left -= piece.cost
                texts_left -= piece.stop - piece.start
            if tokens_left <= 0 or texts_left <= 0:
                break
        for call in dict.fromkeys(piece.call for piece in pieces):
            call.turn = next(self._turns)

    @staticmethod
    def _joins(head: Call, other: Call) -> bool:
        return other is head or (not other.alone and np.array_equal(head.prompt, other.prompt))

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
        if shared:
            # It may be another's text that is at fault: once more, alone.
            piece.call.alone = True
            piece.call.give_back(piece)
        else:
            piece.call.fail(error)

    def _tell(self, told: dict[_Piece, int], part: float) -> None:
        """Tell each call how many of its tokens are done, that part of the batch being done."""
        for piece, before in told.items():
            done = int(piece.n_tokens * part)
            if done > before and piece.call.on_tokens is not None and not piece.call.ended:
                try:
                    piece.call.on_tokens(done - before)
                except Exception as error:
                    with self._lock:
                        piece.call.fail(error)
            told[piece] = max(done, before)


def _own(error: BaseException) -> BaseException:
    """Copy the exception before it is raised in several threads: raising changes its traceback."""
    if isinstance(error, NativeError):
        return NativeError(str(error), error.code)
    return error
