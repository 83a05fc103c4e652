"""Engine: an open model that computes for any number of threads, until it is closed."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from qgguf.background import BackgroundCall
from qgguf.batching import Ids
from qgguf.errors import DeviceError, DeviceMemoryError, QgError
from qgguf.gguf_format.reader import Header
from qgguf.hardware.cpu import types_to_repack
from qgguf.hardware.ram import host_memory
from qgguf.inference.call import Call
from qgguf.inference.lane import CoreShare, NativeLane
from qgguf.inference.placement import (
    Placement,
    Resources,
    choose_cpu_placement,
    choose_placement,
    compare_memory,
    needed_bytes,
    next_smaller,
)
from qgguf.inference.scheduler import Scheduler
from qgguf.inference.stats import EngineStats
from qgguf.inference.usage_gate import UsageGate
from qgguf.mapped_file import MappedFile
from qgguf.memory.planner import KEPT_TOKENS, ModelSizes, PlanRequest, Settings
from qgguf.model.from_gguf import sizes_of
from qgguf.model.spec import ModelSpec, Pooling
from qgguf.native.context import NativeContext
from qgguf.native.devices import list_backends, list_devices
from qgguf.native.model import NativeModel
from qgguf.native.strategy import Strategy
from qgguf.native.strategy_probe import check_strategy, choose_strategy
from qgguf.tokenization.hugging_face import hugging_face_tokenizer
from qgguf.tokenization.tokenizer import Tokenizer
from qgguf.units import in_gigabytes
from qgguf.vectors import Vectors

log = logging.getLogger("qgguf")

LEAST_SHARED = 8
"""Leading tokens that texts must share to be put into one batch for it."""


class Engine:
    """The weights, tokenizer and lanes of an open model.

    path, header, spec   the model's file, its header, and what the header states
    device               "auto", "cpu", "gpu" or "cuda"
    request              budgets, token limit, threads; see `choose_placement`
    pooling              how a text's vector is made
    strategy             a value of `Strategy`; None: chosen by a probe
    raises               ModelFileError, DeviceError, DeviceMemoryError, BudgetError, OptionError, NativeError

    placement   the device, and the plan that holds
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
        self._gate = UsageGate()
        self._path, self._spec, self._pooling = path, spec, pooling
        self._asked_device, self._request = device, request
        check_strategy(spec, pooling, strategy)
        # llama.cpp's own pooling of the last token makes the model output the rows of all tokens.
        self._last_rows = spec.pools_last_row(pooling) and strategy != Strategy.PLAIN.value
        sizes = replace(sizes_of(header, spec), last_rows=self._last_rows, means=pooling is Pooling.MEAN)
        self._file = MappedFile(path)
        # Building it takes half as long as loading a small model, and llama.cpp loads without the GIL.
        tokenizer = BackgroundCall(lambda: hugging_face_tokenizer(header.metadata), name="qgguf-tokenizer").start()
        try:
            self.placement = self._open(sizes, strategy)
        except BaseException:
            self._file.close()
            raise
        try:
            self.tokenizer = Tokenizer(self._model, header.metadata, tokenizer.result())
        except QgError:
            self._free()
            self._file.close()
            raise
        self.dims = spec.dims
        self._shares_prefixes = self.strategy is Strategy.LAST_ROWS
        self._scheduler = Scheduler(
            self._lanes,
            max_tokens=self.placement.plan.settings.batch_tokens,
            max_texts=self.placement.plan.max_texts,
            sort_batches=self._shares_prefixes,
            check=self._gate.check,
        )

    @property
    def device(self) -> str:
        """Kind of the device that the model runs on: "cpu" or "gpu"."""
        return "gpu" if self._model.device.is_gpu else "cpu"

    # Opening

    def _open(self, sizes: ModelSizes, strategy: str | None) -> Placement:
        """Load the model where it fits, and return that placement.

        On out-of-memory, retry once with a smaller plan. If "auto" chose a GPU that is gone or full, use the CPU.
        """
        resources = current_resources()
        placement = choose_placement(sizes, self._asked_device, self._request, resources)
        try:
            return self._load_or_retry(placement, sizes, resources, strategy)
        except DeviceError as error:
            if self._asked_device != "auto" or not placement.device.is_gpu:
                raise
            log.warning("%s", error)
            why = "the GPU has too little room" if isinstance(error, DeviceMemoryError) else "the GPU is gone"
        on_cpu = choose_cpu_placement(sizes, self._request, resources, why)
        return self._load_or_retry(on_cpu, sizes, resources, strategy)

    def _load_or_retry(
        self, placement: Placement, sizes: ModelSizes, resources: Resources, strategy: str | None
    ) -> Placement:
        """Load a placement, or where its memory does not suffice the next smaller one; return the one that holds."""
        try:
            self._load(placement, strategy)
            return placement
        except DeviceMemoryError as error:
            retry = next_smaller(sizes, self._request, resources, placement)
            if retry is None:
                raise
            first, second = in_gigabytes(needed_bytes(placement)), in_gigabytes(needed_bytes(retry))
            log.warning("%s A plan of %s failed; trying one of %s.", error, first, second)
        try:
            self._load(retry, strategy)
        except DeviceMemoryError as error:
            raise DeviceMemoryError(f"{error} Plans of {first} and of {second} both failed.") from None
        return retry

    def _load(self, placement: Placement, strategy: str | None) -> None:
        device, settings = placement.device, placement.plan.settings
        self._model = NativeModel(
            self._path,
            self._spec,
            device,
            gpu_layers=settings.n_gpu_layers,
            head=self._spec.is_decoder and not self._last_rows,
            repack=settings.repack,
        )
        self._lanes: list[NativeLane] = []
        try:
            threads = self._request.threads
            self.strategy = choose_strategy(self._model, threads=threads, pooling=self._pooling, asked=strategy)
            least_cells = settings.cells
            if not device.is_gpu:
                # A text that needs more cells makes its lane open a larger context; few texts do.
                least_cells = settings.batch_tokens + KEPT_TOKENS
            open_context = partial(self._open_context, settings)
            cores = CoreShare(threads)
            most_cells = max(settings.cells, least_cells)
            self._lanes += [NativeLane(open_context, cores, least_cells, most_cells) for _ in range(settings.lanes)]
            if device.is_gpu:
                for lane in self._lanes:
                    lane.open()
                compare_memory(placement, list_devices())
        except BaseException:
            self._free()
            raise

    def _open_context(self, settings: Settings, cells: int) -> NativeContext:
        return NativeContext(
            self._model,
            cells=cells,
            threads=self._request.threads,
            pooling=self._pooling,
            strategy=self.strategy,
            micro_batch=settings.micro_batch,
            kv_type=settings.kv_type,
        )

    # Computing

    def call(self, texts: Sequence[Ids], prompt: Ids, on_tokens: Callable[[int], None] | None = None) -> Call:
        """Return a call to `run`.

        texts      ids of each text
        prompt     ids that the texts may begin with
        on_tokens  called with the number of tokens computed since its last call
        """
        return Call(
            texts,
            prompt,
            self.dims,
            least_shared=LEAST_SHARED if self._shares_prefixes else None,
            kept_tokens=KEPT_TOKENS if self._shares_prefixes else 0,
            on_tokens=on_tokens,
        )

    def run(self, call: Call) -> Vectors:
        """Return the vectors of a call's texts, in their order: (n_texts, native dims) float32, not normalised.

        raises  NativeError: llama.cpp failed, or the engine was closed; CallCancelledError
        """
        return self._scheduler.run(call)

    def cancel(self, call: Call) -> None:
        """Cancel a call that another thread runs."""
        self._scheduler.cancel(call)

    def check(self) -> None:
        """Raise NativeError when the engine is closed, or about to be."""
        self._gate.check()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep the model's memory inside the block. Everything that uses the model runs in one.

        raises  NativeError: the model is closed; ModelFileError: a program wrote into its file
        """
        with self._gate.in_use():
            self._file.check()
            yield

    def stats(self) -> EngineStats:
        """Return what the engine has done, does now and holds."""
        plan = self.placement.plan
        return EngineStats(
            batches=self._scheduler.n_batches,
            tokens=sum(lane.computed_tokens for lane in self._lanes),
            calls=self._gate.n_calls,
            waiting_calls=self._scheduler.n_calls,
            ram_bytes=plan.ram_bytes,
            vram_bytes=plan.vram_bytes,
        )

    def close(self) -> None:
        """Free the memory once the calls under way have left; they raise NativeError."""
        if self._gate.close():
            self._scheduler.wait()
            self._free()
            self._file.close()

    def _free(self) -> None:
        for lane in self._lanes:
            lane.close()
        self._model.close()


def current_resources() -> Resources:
    """Return the devices and the memory that are free now."""
    return Resources(list_devices(), list_backends(), host_memory(), types_to_repack())
