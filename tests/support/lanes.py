"""What an Embedder's lanes are given to compute: looked at from outside, and held back, never replaced."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qgguf import Embedder


class WatchedLanes:
    """A context in which an Embedder's batches are counted, and wait while the gate is closed.

    batches  number of texts in each batch that has begun
    gate     set: batches go on
    """

    def __init__(self, embedder: Embedder, *, is_open: bool = True) -> None:
        self.engine = embedder._engine
        self.batches: list[int] = []
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    @property
    def n_calls(self) -> int:
        """Calls that have come and not ended."""
        return len(self.engine._scheduler._calls)

    def __enter__(self) -> "WatchedLanes":
        for lane in self.engine._lanes:
            lane.vectors = self._watched(lane.vectors)
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        for lane in self.engine._lanes:
            del lane.vectors

    def _watched(self, vectors: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def watched(texts: Sequence[np.ndarray], *others: Any) -> np.ndarray:
            self.batches.append(len(texts))
            assert self.gate.wait(60)
            return vectors(texts, *others)

        return watched
