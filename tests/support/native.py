"""Parts of an open model that tests drive directly: weights, contexts, an engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from qgguf import Embedder
from qgguf.gguf_format.reader import read_header
from qgguf.inference.engine import Engine
from qgguf.memory.planner import PlanRequest
from qgguf.model.from_gguf import spec_of
from qgguf.model.spec import Pooling
from qgguf.native.context import NativeContext
from qgguf.native.devices import choose_device, list_backends, list_devices
from qgguf.native.model import NativeModel


@contextmanager
def open_model(path: Path) -> Iterator[NativeModel]:
    """Open the weights of a GGUF file on the CPU."""
    device, _ = choose_device("cpu", list_devices(), list_backends())
    model = NativeModel(path, spec_of(read_header(path), path), device, gpu_layers=0, head=True, repack=False)
    try:
        yield model
    finally:
        model.close()


@contextmanager
def open_engine(path: Path, request: PlanRequest, strategy: str | None = None) -> Iterator[Engine]:
    """Open an engine for a model with last-token pooling on the CPU."""
    header = read_header(path)
    spec = spec_of(header, path)
    engine = Engine(path, header, spec, "cpu", request, pooling=Pooling.LAST, strategy=strategy)
    try:
        yield engine
    finally:
        engine.close()


def context_of(embedder: Embedder) -> NativeContext:
    """Return the context in which an Embedder computes its next batch."""
    contexts: list[NativeContext] = []
    vectors = NativeContext.vectors

    def noted(context: NativeContext, texts: Sequence[np.ndarray], *others: Any) -> np.ndarray:
        contexts.append(context)
        return vectors(context, texts, *others)

    with patch.object(NativeContext, "vectors", noted):
        embedder.encode("")
    return contexts[-1]
