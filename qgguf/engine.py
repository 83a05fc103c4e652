"""Engine: a model that is open to compute, for any number of threads, until it is closed."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from qgguf.batching import Ids
from qgguf.errors import NativeError, QgError
from qgguf.gguf_file import Header
from qgguf.native.choice import choose_strategy
from qgguf.native.context import KEPT_TOKENS, NativeContext, Strategy, sequences_for
from qgguf.native.model import NativeModel
from qgguf.scheduler import Between, Call, Scheduler, Vectors
from qgguf.spec import ModelSpec, Pooling
from qgguf.tokenizer import Tokenizer

log = logging.getLogger("qgguf")

BATCH_TOKENS = {Strategy.LAST_ROWS: 2048, Strategy.TWO_CALLS: 2048, Strategy.PLAIN: 512}
"""Tokens computed together. In one pass of an encoder every token is compared with all of its batch: small is fast."""

LEAST_SHARED = 8
"""Tokens that texts must begin with alike to be put into one batch for it."""

_MAX_INT = 2**31 - 1


class Engine:
    """Weights, tokenizer and places to compute.

    path, header, spec   the model's file and what it says
    device               "auto", "cpu" or "cuda"
    threads              CPU threads in all
    pooling              how a text's vector is made
    strategy             a word of `Strategy`; None: found by trying
    max_tokens           longest text
    raises               ModelFileError, DeviceError, OptionError, NativeError
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        spec: ModelSpec,
        *,
        device: str,
        threads: int,
        pooling: Pooling,
        strategy: str | None,
        max_tokens: int,
    ) -> None:
        self._life = _Life()
        self._threads, self._pooling = threads, pooling
        self._model = NativeModel(path, spec, device)
        self.device = self._model.device
        self.dims = spec.dims
        self.tokenizer = Tokenizer(self._model, header, path)
        try:
            self.strategy = choose_strategy(self._model, threads=threads, pooling=pooling, asked=strategy)
        except QgError:
            self._model.close()
            raise
        self._shares = self.strategy is Strategy.LAST_ROWS
        batch_tokens = BATCH_TOKENS[self.strategy]
        most = max(max_tokens, batch_tokens) + KEPT_TOKENS
        self._lanes = [_Lane(self._context, batch_tokens + KEPT_TOKENS, most)]
        self._scheduler = Scheduler(
            self._lanes,
            max_tokens=batch_tokens,
            max_texts=sequences_for(spec).texts,
            check=self._life.check,
        )

    def call(self, texts: Sequence[Ids], prompt: Ids, on_tokens: Callable[[int], None] | None = None) -> Call:
        """A call to `run`: texts' ids, all different, and the ids that they may begin with."""
        return Call(
            texts,
            prompt,
            self.dims,
            least_shared=LEAST_SHARED if self._shares else _MAX_INT,
            kept_tokens=KEPT_TOKENS if self._shares else 0,
            on_tokens=on_tokens,
        )

    def run(self, call: Call) -> Vectors:
        """Vectors of a call's texts, in their order: (n_texts, native dims) float32, length not mended.

        raises  NativeError: llama.cpp failed, or the engine was closed; CallCancelledError
        """
        return self._scheduler.run(call)

    def cancel(self, call: Call) -> None:
        """Give up a call that another thread runs."""
        self._scheduler.cancel(call)

    def check(self) -> None:
        """raises  NativeError: the engine is closed, or about to be"""
        self._life.check()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Nothing is freed inside; to be held around everything that uses the model."""
        with self._life.in_use():
            yield

    def close(self) -> None:
        """Free the memory, once the calls under way have left; they raise NativeError."""
        if self._life.end():
            for lane in self._lanes:
                lane.close()
            self._model.close()

    def _context(self, cells: int) -> NativeContext:
        return NativeContext(
            self._model, cells=cells, threads=self._threads, pooling=self._pooling, strategy=self.strategy
        )


class _Lane:
    """A native context, made when it is first needed, and anew when a longer text comes than it has cells for."""

    def __init__(self, open_context: Callable[[int], NativeContext], least_cells: int, most_cells: int) -> None:
        self._open, self._least, self._most = open_context, least_cells, most_cells
        self._context: NativeContext | None = None

    def vectors(self, texts: Sequence[Ids], prompt: Ids, between: Between) -> Vectors:
        """As the scheduler asks; texts that spoil their batch with NaN are computed once more, alone."""
        context = self._with_cells(max(self._least, *map(len, texts)))
        rows = context.vectors(texts, prompt, between)
        if len(texts) > 1:
            for index in np.flatnonzero(~np.isfinite(rows).all(axis=1)):
                rows[index] = context.vectors([texts[int(index)]], prompt, between)[0]
        return rows

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def _with_cells(self, cells: int) -> NativeContext:
        if self._context is None or self._context.cells < cells:
            self.close()
            # To the next power of two, so that slowly growing texts do not each cost a new context.
            room = cells if cells == self._least else min(1 << (cells - 1).bit_length(), self._most)
            self._context = self._open(room)
        return self._context


class _Life:
    """Lets calls run until the end is asked for, and holds the end until they have left.

    Freed memory under a running native call is a crash, so the end waits; calls ask between two native calls whether to
    go on, so it waits for no more than one micro-batch.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_calls = 0
        self._ended = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        with self._changed:
            self.check()
            self._n_calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_calls -= 1
                self._changed.notify_all()

    def check(self) -> None:
        if self._ended:
            raise NativeError("This Embedder is closed. Open the model again: Embedder(...)")

    def end(self) -> bool:
        """True for the one caller who is to free the memory, after all calls have left."""
        with self._changed:
            if self._ended:
                return False
            self._ended = True
            self._changed.wait_for(lambda: self._n_calls == 0)
            return True
