"""Benchmark of a model: documents, queries, single queries, and llama.cpp's own prompt processing for comparison."""

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from qgguf.embedder import Embedder
from qgguf.errors import OptionError
from qgguf.evaluation import sample_texts
from qgguf.hardware.cores import usable_cores
from qgguf.hardware.machine import Machine, this_machine
from qgguf.hardware.process_memory import peak_resident_bytes
from qgguf.model.prompts import QUERY_PROMPT_NAMES
from qgguf.native.model import NativeModel
from qgguf.native.prompt_speed import PromptProcessing
from qgguf.settings import threads_setting
from qgguf.types import Progress

ROUNDS = 3
LEAST_TEXTS, MOST_TEXTS = 8, 8192
LEAST_QUERIES, MOST_QUERIES = 11, 500
# Shares of the time for documents, queries, single queries and llama.cpp's prompt processing.
SHARES = (0.4, 0.2, 0.15, 0.25)
# Documents and queries have a trial and rounds each, prompt processing too; the single queries are one step.
STEPS = 3 * (1 + ROUNDS) + 1


@dataclass(frozen=True, slots=True)
class Throughput:
    """Texts, tokens and seconds of several rounds.

    n_texts   of each round
    n_tokens  of each round, as computed: with prompts and end tokens, without truncated tokens
    seconds   of each round
    """

    n_texts: tuple[int, ...]
    n_tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def texts_per_second(self) -> float:
        """Texts per second, median of the rounds."""
        return statistics.median(n / s for n, s in zip(self.n_texts, self.seconds, strict=True))

    @property
    def tokens_per_second(self) -> float:
        """Tokens per second, median of the rounds."""
        return statistics.median(self.each_tokens_per_second)

    @property
    def each_tokens_per_second(self) -> tuple[float, ...]:
        """Tokens per second of each round."""
        return tuple(n / s for n, s in zip(self.n_tokens, self.seconds, strict=True))


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of each call with a single text."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """95th percentile in seconds."""
        return float(np.percentile(self.seconds, 95))


@dataclass(frozen=True, slots=True)
class Measurement:
    """The result of `measure`.

    model         name, quantization, file, size_bytes, n_params
    versions      package -> version
    threads, device, strategy   as used
    open_seconds  time to open the Embedder
    documents     texts without a prompt
    queries       texts with the model's query prompt
    query_prompt  None for a model without one
    one_query     queries in a call each, after the prompt was computed once
    raw           llama.cpp's own prompt processing, without embeddings
    peak_bytes    peak resident memory of the process, before `raw` was measured; None if unknown on this system
    """

    model: dict[str, Any]
    machine: Machine
    versions: dict[str, str]
    threads: int
    device: str
    strategy: str
    open_seconds: float
    documents: Throughput
    queries: Throughput
    query_prompt: str | None
    one_query: Latency
    raw: Throughput
    peak_bytes: int | None

    @property
    def raw_share(self) -> float:
        """Tokens per second of documents, divided by those of `raw`."""
        return self.documents.tokens_per_second / self.raw.tokens_per_second

    def as_dict(self) -> dict[str, Any]:
        """Return everything as values for JSON, derived values included."""
        values = asdict(self)
        for name in ("documents", "queries", "raw"):
            throughput: Throughput = getattr(self, name)
            values[name] |= {
                "texts_per_second": throughput.texts_per_second,
                "tokens_per_second": throughput.tokens_per_second,
            }
        del values["raw"]["texts_per_second"]
        values["one_query"] |= {"median": self.one_query.median, "p95": self.one_query.p95}
        return values | {"raw_share": self.raw_share}


def versions() -> dict[str, str]:
    """Return the versions that a measurement depends on, by package."""
    from qgguf._version import __version__

    names = ("llama-cpp-python", "numpy")
    return {"qgguf": __version__, "python": platform.python_version()} | {name: version(name) for name in names}


def measure(
    model: str | os.PathLike[str],
    *,
    texts: Sequence[str] | None = None,
    seconds: float = 10,
    device: str | None = None,
    threads: int | None = None,
    vram: int | str | None = None,
    ram: int | str | None = None,
    kv_type: str | None = None,
    strategy: str | None = None,
    pooling: str | None = None,
    attention: str | None = None,
    end_token: str | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Measurement:
    """Benchmark a model. Run it on an idle machine.

    texts        documents; as many of the first as the time allows, the same in each round. None: `sample_texts`
    seconds      time to spend after the model is open; a slow model takes longer, because each part has a minimum
    device, threads, vram, ram, kv_type, strategy, pooling, attention, end_token   as for Embedder
    on_progress  called with steps done and steps in all
    raises       OptionError: no texts, or invalid seconds; the errors of Embedder
    """
    if texts is not None and not texts:
        raise OptionError("texts is empty. Give at least one, or None for sample texts.")
    if not seconds > 0:
        raise OptionError(f"seconds is {seconds!r}; a number above 0 is needed.")
    steps = _Steps(on_progress)
    budgets = [share * seconds for share in SHARES]
    started = time.perf_counter()
    with Embedder(
        model,
        device=device,
        threads=threads,
        vram=vram,
        ram=ram,
        kv_type=kv_type,
        strategy=strategy,
        pooling=pooling,
        attention=attention,
        end_token=end_token,
    ) as embedder:
        open_seconds = time.perf_counter() - started
        documents = _throughput(embedder, _documents(texts), None, budgets[0], steps)
        prompt_name = next((name for name in QUERY_PROMPT_NAMES if name in embedder.prompts), None)
        questions = sample_texts.queries()
        queries = _throughput(embedder, lambda n: list(itertools.islice(questions, n)), prompt_name, budgets[1], steps)
        one_query = _latency(embedder, questions, budgets[2], steps)
        peak = peak_resident_bytes()
        spec, path, used_device, used_strategy = embedder.spec, embedder.path, embedder.device, embedder.strategy.value
        gpu_layers = embedder.plan.n_gpu_layers
    n_threads = threads_setting(threads) or usable_cores()
    # The embedder is closed by now, because two copies of a large model may not fit into memory.
    raw_model = NativeModel(path, spec, used_device, gpu_layers=gpu_layers)
    try:
        raw = _raw(raw_model, n_threads, budgets[3], steps)
    finally:
        raw_model.close()
    return Measurement(
        model={
            "name": spec.name,
            "quantization": spec.quantization,
            "file": path.name,
            "size_bytes": spec.size_bytes,
            "n_params": spec.n_params,
        },
        machine=this_machine(),
        versions=versions(),
        threads=n_threads,
        device=used_device,
        strategy=used_strategy,
        open_seconds=open_seconds,
        documents=documents,
        queries=queries,
        query_prompt=embedder.prompts[prompt_name] if prompt_name else None,
        one_query=one_query,
        raw=raw,
        peak_bytes=peak,
    )


class _Steps:
    """A counter of steps that reports its progress."""

    def __init__(self, on_progress: Progress) -> None:
        self._done, self._on_progress = 0, on_progress
        on_progress(0, STEPS)

    def advance(self) -> None:
        self._done += 1
        self._on_progress(self._done, STEPS)


def _documents(texts: Sequence[str] | None) -> Callable[[int], list[str]]:
    """Return a function for n texts: new sample texts at each call, or always the first of the user's."""
    if texts is not None:
        return lambda n: list(texts[:n])
    fresh = sample_texts.documents()
    return lambda n: list(itertools.islice(fresh, n))


def _throughput(
    embedder: Embedder, take: Callable[[int], list[str]], prompt_name: str | None, budget: float, steps: _Steps
) -> Throughput:
    embedder.embed(take(2), prompt_name=prompt_name)  # warm up: contexts, caches, the prompt
    n_trial, _, trial_seconds = _timed(embedder, take(LEAST_TEXTS), prompt_name)
    steps.advance()
    n = _clamped(LEAST_TEXTS, budget / ROUNDS * n_trial / trial_seconds, MOST_TEXTS)
    rounds = []
    for _ in range(ROUNDS):
        rounds.append(_timed(embedder, take(n), prompt_name))
        steps.advance()
    n_texts, n_tokens, seconds = zip(*rounds, strict=True)
    return Throughput(n_texts, n_tokens, seconds)


def _timed(embedder: Embedder, texts: list[str], prompt_name: str | None) -> tuple[int, int, float]:
    """Return (texts, tokens, seconds) of one call."""
    started = time.perf_counter()
    embeddings = embedder.embed(texts, prompt_name=prompt_name)
    seconds = time.perf_counter() - started
    return len(texts), int(np.minimum(embeddings.n_tokens, embedder.max_tokens).sum()), seconds


def _latency(embedder: Embedder, questions: Iterator[str], budget: float, steps: _Steps) -> Latency:
    def one_call() -> float:
        text = next(questions)
        started = time.perf_counter()
        embedder.encode_query(text)
        return time.perf_counter() - started

    one_call()
    n = _clamped(LEAST_QUERIES, budget / one_call(), MOST_QUERIES)
    seconds = tuple(one_call() for _ in range(n))
    steps.advance()
    return Latency(seconds)


def _raw(model: NativeModel, threads: int, budget: float, steps: _Steps) -> Throughput:
    processing = PromptProcessing(model, threads=threads)
    try:
        trial_seconds = processing.seconds()
        steps.advance()
        n = _clamped(1, budget / ROUNDS / trial_seconds, MOST_TEXTS)
        seconds = []
        for _ in range(ROUNDS):
            seconds.append(sum(processing.seconds() for _ in range(n)))
            steps.advance()
    finally:
        processing.close()
    return Throughput((n,) * ROUNDS, (n * processing.n_tokens,) * ROUNDS, tuple(seconds))


def _clamped(least: int, number: float, most: int) -> int:
    return round(min(max(number, least), most))
