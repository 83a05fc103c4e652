"""Lane: one native context that batches are computed in, and its share of the CPU threads."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from qgguf.batching import Ids
from qgguf.inference.scheduler import Between
from qgguf.native.context import NativeContext
from qgguf.vectors import Vectors


class CoreShare:
    """The CPU threads that lanes share: all for one that computes alone, an equal part each when several do."""

    def __init__(self, threads: int) -> None:
        self._threads, self._n_busy = threads, 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[int]:
        """Give the number of threads that one more lane may use inside the block."""
        with self._lock:
            self._n_busy += 1
            n_busy = self._n_busy
        try:
            yield max(1, self._threads // n_busy)
        finally:
            with self._lock:
                self._n_busy -= 1


class NativeLane:
    """A native context, opened when it is first needed, and opened anew for a text longer than its cells.

    open_context  opens one with this number of cells
    cores         threads shared with the other lanes
    least_cells   cells of a context, in tokens; more only for a longer text
    most_cells    upper limit of the cells
    """

    def __init__(
        self, open_context: Callable[[int], NativeContext], cores: CoreShare, least_cells: int, most_cells: int
    ) -> None:
        self._open_context, self._cores, self._least, self._most = open_context, cores, least_cells, most_cells
        self._context: NativeContext | None = None
        self._tokens_before = 0

    @property
    def computed_tokens(self) -> int:
        """Number of tokens computed so far, in all of its contexts."""
        return self._tokens_before + (self._context.computed_tokens if self._context else 0)

    def vectors(self, texts: Sequence[Ids], prompt: Ids, between: Between) -> Vectors:
        """Return the vectors of a batch; see `Lane`. Texts in a batch with NaN are computed once more, alone."""
        context = self._with_cells(max(self._least, *map(len, texts)))
        with self._cores.share() as threads:
            context.use_threads(threads)
            rows = context.vectors(texts, prompt, between)
            if len(texts) > 1:
                for index in np.flatnonzero(~np.isfinite(rows).all(axis=1)):
                    rows[index] = context.vectors([texts[int(index)]], prompt, between)[0]
        return rows

    def open(self) -> None:
        """Allocate now all the memory that batches need.

        raises  DeviceMemoryError, NativeError
        """
        self._with_cells(self._least)

    def close(self) -> None:
        """Free the context."""
        if self._context is not None:
            self._tokens_before += self._context.computed_tokens
            self._context.close()
            self._context = None

    def _with_cells(self, cells: int) -> NativeContext:
        if self._context is None or self._context.cells < cells:
            self.close()
            # To the next power of two, so that slowly growing texts do not each cost a new context.
            rounded = cells if cells == self._least else min(1 << (cells - 1).bit_length(), self._most)
            self._context = self._open_context(rounded)
        return self._context
