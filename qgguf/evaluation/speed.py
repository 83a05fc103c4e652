"""How fast a model is here: documents, queries, one query, and the share of llama.cpp's raw rate that is reached."""

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
from qgguf.native.prompt_speed import RawPass
from qgguf.settings import threads_setting
from qgguf.types import Progress

ROUNDS = 3
LEAST_TEXTS, MOST_TEXTS = 8, 8192
LEAST_QUERIES, MOST_QUERIES = 11, 500
# Shares of the time, for documents, queries, single queries and raw passes.
SHARES = (0.4, 0.2, 0.15, 0.25)
# A pilot for documents and one for queries, their rounds, the single queries, the raw passes and one before them.
STEPS = 2 + 2 * ROUNDS + 1 + 1 + ROUNDS


@dataclass(frozen=True, slots=True)
class Rate:
    """Work done in rounds.

    n_texts, n_tokens  (rounds,) in each round; tokens as computed: prompt and end token in, what was cut off out
    seconds            (rounds,)
    """

    n_texts: tuple[int, ...]
    n_tokens: tuple[int, ...]
    seconds: tuple[float, ...]

    @property
    def texts_per_second(self) -> float:
        """Of the round in the middle."""
        return statistics.median(n / taken for n, taken in zip(self.n_texts, self.seconds, strict=True))

    @property
    def tokens_per_second(self) -> float:
        """Of the round in the middle."""
        return statistics.median(self.each_tokens_per_second)

    @property
    def each_tokens_per_second(self) -> tuple[float, ...]:
        """(rounds,)"""
        return tuple(n / taken for n, taken in zip(self.n_tokens, self.seconds, strict=True))


@dataclass(frozen=True, slots=True)
class Latency:
    """One text at a time: seconds of each call."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """95 of 100 calls took no longer."""
        return float(np.percentile(self.seconds, 95))


@dataclass(frozen=True, slots=True)
class Figures:
    """What `measure` found.

    model            name, quantization, file, size_bytes, n_params
    threads, device, strategy   how it ran
    open_seconds     from the name to an Embedder that can work
    documents        texts without a prompt
    queries          texts with the model's query prompt, where it has one (query_prompt)
    one_query        the same, one in each call; the prompt was computed before
    raw              passes of llama.cpp's own prompt processing, embeddings off
    peak_bytes       largest resident memory of the process, before the raw passes; None where the system does not say
    """

    model: dict[str, Any]
    machine: Machine
    versions: dict[str, str]
    threads: int
    device: str
    strategy: str
    open_seconds: float
    documents: Rate
    queries: Rate
    query_prompt: str | None
    one_query: Latency
    raw: Rate
    peak_bytes: int | None

    @property
    def raw_share(self) -> float:
        """Tokens of documents in a second, as a share of the raw rate."""
        return self.documents.tokens_per_second / self.raw.tokens_per_second

    def as_dict(self) -> dict[str, Any]:
        """All of it in words and numbers, for JSON."""
        values = asdict(self)
        for name in ("documents", "queries", "raw"):
            rate: Rate = getattr(self, name)
            values[name] |= {"texts_per_second": rate.texts_per_second, "tokens_per_second": rate.tokens_per_second}
        del values["raw"]["texts_per_second"]
        values["one_query"] |= {"median": self.one_query.median, "p95": self.one_query.p95}
        return values | {"raw_share": self.raw_share}


def versions() -> dict[str, str]:
    """What the figures depend on: package -> version."""
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
    on_progress: Progress = lambda done, total: None,
) -> Figures:
    """Benchmark a model. Run it on an idle machine.

    texts        documents; default: `sample_texts`. As many as the time allows are taken, the same in each round
    seconds      to spend, opening not counted; a large model takes longer for the least that tells anything
    device, threads, vram, ram, kv_type, strategy   as for Embedder
    on_progress  called with steps done and steps in all
    raises       OptionError; what Embedder raises
    """
    if texts is not None and not texts:
        raise OptionError("No texts to measure with. Give at least one.")
    if not seconds > 0:
        raise OptionError(f"seconds={seconds!r}; more than 0 are needed.")
    steps = _Steps(on_progress)
    budgets = [share * seconds for share in SHARES]
    started = time.perf_counter()
    with Embedder(
        model, device=device, threads=threads, vram=vram, ram=ram, kv_type=kv_type, strategy=strategy
    ) as embedder:
        open_seconds = time.perf_counter() - started
        documents = _rate(embedder, _documents(texts), None, budgets[0], steps)
        prompt_name = next((name for name in QUERY_PROMPT_NAMES if name in embedder.prompts), None)
        questions = sample_texts.queries()
        queries = _rate(embedder, lambda n: list(itertools.islice(questions, n)), prompt_name, budgets[1], steps)
        one_query = _latency(embedder, questions, budgets[2], steps)
        peak = peak_resident_bytes()
        spec, path, used, way = embedder.spec, embedder.path, embedder.device, embedder.strategy.value
        gpu_layers = embedder.plan.n_gpu_layers
    n_threads = threads_setting(threads) or usable_cores()
    # After the model is closed: two copies of a large one may be more than the machine has.
    raw_model = NativeModel(path, spec, used, gpu_layers=gpu_layers)
    try:
        raw = _raw(raw_model, n_threads, budgets[3], steps)
    finally:
        raw_model.close()
    return Figures(
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
        device=used,
        strategy=way,
        open_seconds=open_seconds,
        documents=documents,
        queries=queries,
        query_prompt=embedder.prompts[prompt_name] if prompt_name else None,
        one_query=one_query,
        raw=raw,
        peak_bytes=peak,
    )


class _Steps:
    def __init__(self, on_progress: Progress) -> None:
        self._done, self._on_progress = 0, on_progress
        on_progress(0, STEPS)

    def one(self) -> None:
        self._done += 1
        self._on_progress(self._done, STEPS)


def _documents(texts: Sequence[str] | None) -> Callable[[int], list[str]]:
    """A function that gives n texts: ever new ones, or always the first of the user's."""
    if texts is not None:
        return lambda n: list(texts[:n])
    fresh = sample_texts.documents()
    return lambda n: list(itertools.islice(fresh, n))


def _rate(
    embedder: Embedder, take: Callable[[int], list[str]], prompt_name: str | None, budget: float, steps: _Steps
) -> Rate:
    embedder.embed(take(2), prompt_name=prompt_name)  # what is done once: contexts, caches, the prompt
    pilot = _timed(embedder, take(LEAST_TEXTS), prompt_name)
    steps.one()
    n = _within(LEAST_TEXTS, budget / ROUNDS * pilot[0] / pilot[2], MOST_TEXTS)
    found = []
    for _ in range(ROUNDS):
        found.append(_timed(embedder, take(n), prompt_name))
        steps.one()
    n_texts, n_tokens, taken = zip(*found, strict=True)
    return Rate(n_texts, n_tokens, taken)


def _timed(embedder: Embedder, texts: list[str], prompt_name: str | None) -> tuple[int, int, float]:
    """(texts, tokens, seconds) of one call."""
    started = time.perf_counter()
    embeddings = embedder.embed(texts, prompt_name=prompt_name)
    taken = time.perf_counter() - started
    return len(texts), int(np.minimum(embeddings.n_tokens, embedder.max_tokens).sum()), taken


def _latency(embedder: Embedder, questions: Iterator[str], budget: float, steps: _Steps) -> Latency:
    def one() -> float:
        text = next(questions)
        started = time.perf_counter()
        embedder.encode_query(text)
        return time.perf_counter() - started

    one()
    n = _within(LEAST_QUERIES, budget / one(), MOST_QUERIES)
    found = tuple(one() for _ in range(n))
    steps.one()
    return Latency(found)


def _raw(model: NativeModel, threads: int, budget: float, steps: _Steps) -> Rate:
    passes = RawPass(model, threads=threads)
    try:
        first = passes.seconds()
        steps.one()
        n = _within(1, budget / ROUNDS / first, MOST_TEXTS)
        taken = []
        for _ in range(ROUNDS):
            taken.append(sum(passes.seconds() for _ in range(n)))
            steps.one()
    finally:
        passes.close()
    return Rate((n,) * ROUNDS, (n * passes.n_tokens,) * ROUNDS, tuple(taken))


def _within(least: int, wanted: float, most: int) -> int:
    return round(min(max(wanted, least), most))
