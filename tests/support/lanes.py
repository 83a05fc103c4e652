"""What an Embedder gives its lanes to compute: watched from outside and held back, never replaced."""

import threading
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np

from qgguf import Embedder
from qgguf.inference.lane import NativeLane


class WatchedLanes:
    """A context in which an Embedder's batches are counted, and wait while the gate is closed.

    Only this Embedder may compute meanwhile.

    batches  number of texts in each batch that has begun
    gate     set: batches go on
    """

    def __init__(self, embedder: Embedder, *, is_open: bool = True) -> None:
        self._embedder = embedder
        self.batches: list[int] = []
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    @property
    def n_calls(self) -> int:
        """Calls that have come to the scheduler and not ended."""
        return self._embedder.stats().waiting_calls

    def __enter__(self) -> "WatchedLanes":
        vectors = NativeLane.vectors

        def watched(lane: NativeLane, texts: Sequence[np.ndarray], *others: Any) -> np.ndarray:
            self.batches.append(len(texts))
            assert self.gate.wait(60)
            return vectors(lane, texts, *others)

        self._patch = patch.object(NativeLane, "vectors", watched)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._patch.stop()
