"""Engine: a model that is open to compute, for any number of threads, until it is closed."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from qgguf.batching import Ids
from qgguf.errors import DeviceError, DeviceMemoryError, NativeError, QgError
from qgguf.gguf_format.reader import Header
from qgguf.hardware.cpu import types_to_repack
from qgguf.hardware.ram import host_memory
from qgguf.inference.placement import Resources, needed, next_smaller, place, place_on_cpu
from qgguf.inference.scheduler import Between, Call, Scheduler
from qgguf.memory.planner import KEPT_TOKENS, ModelSizes, PlanRequest
from qgguf.model.from_gguf import sizes_of
from qgguf.model.spec import ModelSpec, Pooling
from qgguf.native.context import NativeContext
from qgguf.native.devices import list_backends, list_devices
from qgguf.native.model import NativeModel
from qgguf.native.strategy import Strategy
from qgguf.native.strategy_probe import check_strategy, choose_strategy
from qgguf.tokenization.tokenizer import Tokenizer
from qgguf.units import in_gigabytes
from qgguf.vectors import Vectors

log = logging.getLogger("qgguf")

LEAST_SHARED = 8
"""Tokens that texts must begin with alike to be put into one batch for it."""

_MAX_INT = 2**31 - 1


class Engine:
    """Weights, tokenizer and places to compute.

    path, header, spec   the model's file and what it says
    device               "auto", "cpu", "gpu" or "cuda"
    request              budgets, token limit, threads; see `place`
    pooling              how a text's vector is made
    strategy             a word of `Strategy`; None: found by trying
    raises               ModelFileError, DeviceError, DeviceMemoryError, BudgetError, OptionError, NativeError

    placement   where it runs, and the plan that holds
    """

    def __init__(
        self,
        path: Path,
        header: Header,
        spec: ModelSpec,
        device: str,
        request: PlanRequest,
        *,
        pooling: Pooling,
        strategy: str | None,
    ) -> None:
        self._life = _Life()
        self._path, self._spec, self._pooling = path, spec, pooling
        self._asked_device, self._request = device, request
        check_strategy(spec, pooling, strategy)
        # llama.cpp's own pooling of the last token takes all of a text's rows out of the model.
        self._last_rows = spec.pools_last_row(pooling) and strategy != Strategy.PLAIN.value
        sizes = replace(sizes_of(header, spec), last_rows=self._last_rows, means=pooling is Pooling.MEAN)
        self._open(sizes, strategy)
        try:
            self.tokenizer = Tokenizer(self._model, header, path)
        except QgError:
            self._free()
            raise
        self.dims = spec.dims
        self._shares = self.strategy is Strategy.LAST_ROWS
        self._scheduler = Scheduler(
            self._lanes,
            max_tokens=self.placement.plan.settings.batch_tokens,
            max_texts=self.placement.plan.max_texts,
            check=self._life.check,
        )

    @property
    def device(self) -> str:
        """ "cpu" or "gpu"."""
        return "gpu" if self._model.device.is_gpu else "cpu"

    # Opening

    def _open(self, sizes: ModelSizes, strategy: str | None) -> None:
        """Load the model. On out-of-memory, retry once with a smaller plan and log a warning."""
        resources = resources_now()
        self.placement = place(sizes, self._asked_device, self._request, resources)
        try:
            self._load(strategy)
            return
        except DeviceMemoryError as error:
            smaller = next_smaller(sizes, self._request, resources, self.placement)
            if smaller is None:
                raise
            tried = in_gigabytes(needed(self.placement))
            log.warning("%s A plan of %s failed; trying one of %s.", error, tried, in_gigabytes(needed(smaller)))
            self.placement = smaller
        except DeviceError as error:
            if self._asked_device != "auto" or not self.placement.device.is_gpu:
                raise
            log.warning("%s", error)
            self.placement = place_on_cpu(sizes, self._request, resources, "the GPU is gone")
            self._load(strategy)
            return
        try:
            self._load(strategy)
        except DeviceMemoryError as error:
            raise DeviceMemoryError(
                f"{error} Plans of {tried} and of {in_gigabytes(needed(self.placement))} both failed."
            ) from None

    def _load(self, strategy: str | None) -> None:
        device, settings = self.placement.device, self.placement.plan.settings
        self._model = NativeModel(
            self._path,
            self._spec,
            device,
            gpu_layers=settings.n_gpu_layers,
            head=self._spec.causal and not self._last_rows,
            repack=settings.repack,
        )
        self._lanes: list[_Lane] = []
        try:
            threads = self._request.threads
            self.strategy = choose_strategy(self._model, threads=threads, pooling=self._pooling, asked=strategy)
            least = settings.cells
            if not device.is_gpu:
                # A text that needs more makes its lane larger; few do.
                least = settings.batch_tokens + KEPT_TOKENS
            cores = _Cores(threads)
            self._lanes += [
                _Lane(self._context, cores, least, max(settings.cells, least)) for _ in range(settings.lanes)
            ]
            if device.is_gpu:
                for lane in self._lanes:
                    lane.open()
                self._compare_memory()
        except BaseException:
            self._free()
            raise

    def _compare_memory(self) -> None:
        """Compare planned with actual memory use. Only log the difference."""
        before = self.placement.device
        after = next((device for device in list_devices() if device.name == before.name), before)
        if after.free_bytes == before.free_bytes:  # some backends know the total only
            return
        taken, planned = before.free_bytes - after.free_bytes, self.placement.plan.vram_bytes
        less = in_gigabytes(max(taken, 0))
        says = f"{before.name} has {less} less free than before; {in_gigabytes(planned)} were planned."
        if taken > planned:
            log.warning("%s Other programs may take memory too.", says)
        elif taken < planned // 2:
            log.warning("%s The layers may not be on it: see `qgguf doctor`.", says)
        else:
            log.info("%s", says)

    # Computing

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
        """Vectors of a call's texts, in their order: (n_texts, native dims) float32, not normalised.

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
            self._scheduler.wait()
            self._free()

    # Inside

    def _free(self) -> None:
        for lane in self._lanes:
            lane.close()
        self._model.close()

    def _context(self, cells: int) -> NativeContext:
        settings = self.placement.plan.settings
        return NativeContext(
            self._model,
            cells=cells,
            threads=self._request.threads,
            pooling=self._pooling,
            strategy=self.strategy,
            micro_batch=settings.micro_batch,
            kv_type=settings.kv_type,
        )


def resources_now() -> Resources:
    """Devices and memory as they are now."""
    return Resources(list_devices(), list_backends(), host_memory(), types_to_repack())


class _Cores:
    """The threads that lanes share: all for one that computes alone, an equal part when several do."""

    def __init__(self, threads: int) -> None:
        self._threads, self._busy = threads, 0
        self._lock = threading.Lock()

    @contextmanager
    def share(self) -> Iterator[int]:
        """How many threads one more lane may use."""
        with self._lock:
            self._busy += 1
            busy = self._busy
        try:
            yield max(1, self._threads // busy)
        finally:
            with self._lock:
                self._busy -= 1


class _Lane:
    """A native context, made when it is first needed, and anew when a longer text comes than it has cells for."""

    def __init__(
        self, open_context: Callable[[int], NativeContext], cores: _Cores, least_cells: int, most_cells: int
    ) -> None:
        self._open, self._cores, self._least, self._most = open_context, cores, least_cells, most_cells
        self._context: NativeContext | None = None

    def vectors(self, texts: Sequence[Ids], prompt: Ids, between: Between) -> Vectors:
        """As the scheduler asks; texts that spoil their batch with NaN are computed once more, alone."""
        context = self._with_cells(max(self._least, *map(len, texts)))
        with self._cores.share() as threads:
            context.use_threads(threads)
            rows = context.vectors(texts, prompt, between)
            if len(texts) > 1:
                for index in np.flatnonzero(~np.isfinite(rows).all(axis=1)):
                    rows[index] = context.vectors([texts[int(index)]], prompt, between)[0]
        return rows

    def open(self) -> None:
        """Take all the memory that will be needed now.

        raises  DeviceMemoryError, NativeError
        """
        self._with_cells(self._least)

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
