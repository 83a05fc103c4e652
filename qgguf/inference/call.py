"""Calls: the texts of one `encode`, what has been computed of them, and how the work is stopped."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np

from qgguf.batching import Ids, common_length, order_texts, sort_key, take_batch
from qgguf.vectors import Vectors


class CallCancelledError(Exception):
    """The call was cancelled by its owner."""


class Call:
    """The texts of one call, and what has been computed of them.

    texts         ids of each text; equal ones are computed once
    prompt        ids that texts may begin with; calls of one prompt share batches
    dims          length of a vector
    least_shared  leading tokens that texts must share to be put into one batch for it; None: nothing is shared
    kept_tokens   number of the prompt's first tokens that stay in the KV cache, and so cost nothing
    on_tokens     called with the number of tokens computed since its last call; what it raises ends the call

    Its states, for each slice of its texts and for the whole::

        slice:   waiting --take--> computing --put--> done
                    ^                  |
                    +----give_back-----+      the batch failed, or its thread was interrupted

        call:    has_work --all slices taken--> waiting for rows --last put--> ended, with rows
                    |                                |
                    +--------------fail--------------+------------------------> ended, with an error

    A slice may be put and given back again and again in any order, by threads that were interrupted: what is done stays
    done. The scheduler's lock is held around each method that changes a call.
    """

    def __init__(
        self,
        texts: Sequence[Ids],
        prompt: Ids,
        dims: int,
        *,
        least_shared: int | None,
        kept_tokens: int = 0,
        on_tokens: Callable[[int], None] | None = None,
    ) -> None:
        self.prompt, self._kept_ids = prompt, prompt[:kept_tokens]
        keys = [sort_key(text) for text in texts]
        distinct: dict[bytes, Ids] = dict(zip(keys, texts, strict=True))
        self.texts, self.keys = list(distinct.values()), list(distinct)
        row_of = {key: row for row, key in enumerate(self.keys)}
        self._row_of_text = [row_of[key] for key in keys]
        self._rows = np.empty((len(self.texts), dims), np.float32)
        self.order, self.costs = order_texts(self.texts, self.keys, least_shared=least_shared)
        self.lengths = [len(self.texts[index]) for index in self.order]
        self.on_tokens = on_tokens
        self.error: BaseException | None = None
        self.alone = False
        """Its texts are not put into a batch with those of other calls."""
        self.turn = 0
        """Number that is smaller for a call that has waited longer."""
        self.wake: SimpleQueue[None] = SimpleQueue()
        self._next = 0
        self._given_back: list[tuple[int, int]] = []
        self._done: dict[int, int] = {}
        self._missing = len(self.texts)

    @property
    def n_tokens(self) -> int:
        """Number of tokens in its distinct texts."""
        return sum(self.lengths)

    @property
    def ended(self) -> bool:
        """Whether all rows are computed, or none will be."""
        return self._missing == 0 or self.error is not None

    @property
    def has_work(self) -> bool:
        """Whether some of its texts are in no batch yet."""
        return self.error is None and (self._next < len(self.order) or bool(self._given_back))

    def vectors(self) -> Vectors:
        """Return the rows of the texts as they were given: (n_texts, dims) float32."""
        return self._rows if len(self._row_of_text) == len(self._rows) else self._rows[self._row_of_text]

    def take(self, slices: "list[CallSlice]", max_tokens: int, max_texts: int) -> "CallSlice | None":
        """Add the next texts that fit to a batch. The first slice of a batch always fits, however long its text is.

        The slice is appended to `slices` before the call changes: an interrupt in between loses no texts.
        """
        first = not slices
        if self._given_back:
            start, stop = self._given_back[-1]
            if not first and (stop - start > max_texts or sum(self.lengths[start:stop]) > max_tokens):
                return None
            again = CallSlice(self, start, stop)
            slices.append(again)
            self._given_back.pop()
            return again
        start = self._next
        if start == len(self.order):
            return None
        n_kept = common_length(self._kept_ids, self.texts[self.order[start]])
        if not first and self.lengths[start] - n_kept > max_tokens:
            return None
        budget = max(max_tokens + n_kept, self.lengths[start])
        stop = take_batch(self.lengths, self.costs, start, max_tokens=budget, max_texts=max_texts)
        taken = CallSlice(self, start, stop, n_kept)
        slices.append(taken)
        self._next = stop
        return taken

    def give_back(self, taken: "CallSlice") -> None:
        """Let the texts of a slice be taken again. Do nothing where they are done or were given back already."""
        span = taken.start, taken.stop
        was_taken = taken.start < self._next and taken.start not in self._done and span not in self._given_back
        if was_taken and not self.ended:
            self._given_back.append(span)

    def put(self, taken: "CallSlice", rows: Vectors) -> None:
        """Store the rows of a slice. Do nothing where it is done already."""
        if taken.start not in self._done:
            self._rows[taken.indices] = rows
            self._done[taken.start] = taken.stop - taken.start
        self._missing = len(self.texts) - sum(self._done.values())

    def fail(self, error: BaseException) -> None:
        """End the call with an error, unless it has ended."""
        if not self.ended:
            self.error = error


@dataclass(frozen=True, slots=True)
class CallSlice:
    """Neighbours in a call's order that are computed in one batch.

    start, stop  span of the call's order
    n_kept       leading tokens of its first text that are in the KV cache
    """

    call: Call
    start: int
    stop: int
    n_kept: int = 0

    @property
    def indices(self) -> list[int]:
        """Indices of its texts in the call."""
        return self.call.order[self.start : self.stop]

    @property
    def n_tokens(self) -> int:
        """Number of tokens in its texts."""
        return sum(self.call.lengths[self.start : self.stop])

    @property
    def cost(self) -> int:
        """Number of tokens to compute: without those in the KV cache, and each shared beginning once."""
        return self.call.lengths[self.start] - self.n_kept + sum(self.call.costs[self.start + 1 : self.stop])


class Cancellation:
    """Stops the work of one call from another thread, whether it tokenises, waits or computes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._cancel_running: Callable[[], None] | None = None

    @contextmanager
    def watching(self, cancel: Callable[[], None]) -> Iterator[None]:
        """Let `cancel` be called when this is cancelled inside the block.

        raises  CallCancelledError: it was cancelled before
        """
        with self._lock:
            self.check()
            self._cancel_running = cancel
        try:
            yield
        finally:
            with self._lock:
                self._cancel_running = None

    def check(self) -> None:
        """Raise CallCancelledError when this was cancelled."""
        if self._cancelled:
            raise CallCancelledError

    def cancel(self) -> None:
        """Stop the work. May be called from any thread."""
        with self._lock:
            self._cancelled = True
            if self._cancel_running is not None:
                self._cancel_running()
