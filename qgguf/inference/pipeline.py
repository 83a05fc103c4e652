"""Any number of texts through an engine, window after window, so that memory does not grow with their number."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from qgguf.batching import Ids, distinct_texts
from qgguf.errors import TextError
from qgguf.inference.aio import Cancellation
from qgguf.inference.engine import Engine
from qgguf.inference.inputs import windows


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be computed.

    texts         all different
    places        for each text of the caller, which of them it is
    before        prompt
    max_tokens    longer texts are cut to it, the end token kept
    finish        (n, native dims) float32 to the vectors that are wanted, a row each
    cancellation  stops it
    """

    texts: list[str]
    places: NDArray[np.intp]
    before: str
    max_tokens: int
    finish: Callable[[NDArray[np.float32]], NDArray[Any]]
    cancellation: Cancellation


def tokenize(engine: Engine, texts: Sequence[str], before: str) -> Iterator[Ids]:
    """Ids of each text with its prompt and frame, one at a time."""
    for text in texts:
        engine.check()
        yield engine.tokenizer.ids(before + text)


def compute(engine: Engine, job: Job, bar: "TokenBar") -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Finished vectors, and the tokens of each text before any cut.

    While one window is computed, the next is tokenised in a thread of its own: llama.cpp lets go of Python's lock.

    raises  TextError naming the caller's place of a text whose vector is not finite
    """
    spans = list(windows(job.texts))
    prompt = engine.tokenizer.prompt_ids(job.before)
    n_tokens = np.zeros(len(job.texts), np.int64)
    vectors = job.finish(np.empty((0, engine.dims), np.float32))
    if len(spans) > 1:
        vectors = np.empty((len(job.texts), vectors.shape[1]), vectors.dtype)

    def tokenize_span(start: int, stop: int) -> Iterator[Ids]:
        for ids in tokenize(engine, job.texts[start:stop], job.before):
            job.cancellation.check()
            yield ids

    with _Ahead(tokenize_span, spans) as tokenized:
        for (start, stop), ids in tokenized:
            n_tokens[start:stop] = np.fromiter(map(len, ids), np.int64, len(ids))
            # Different texts may have equal ids: é written in two ways, long texts that begin alike.
            cut = [engine.tokenizer.truncate(one, job.max_tokens) for one in ids]
            different, rows = distinct_texts(cut)
            bar.expect(sum(map(len, job.texts[start:stop])), sum(map(len, different)))
            call = engine.call(different, prompt, bar.tokens)
            with job.cancellation.watching(engine, call):
                raw = engine.run(call)[rows]
            _check_finite(raw, job, start)
            if len(spans) == 1:
                return job.finish(raw), n_tokens
            vectors[start:stop] = job.finish(raw)
    return vectors, n_tokens


def _check_finite(raw: NDArray[np.float32], job: Job, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    if len(bad):
        index = start + int(bad[0])
        place = int(np.flatnonzero(job.places == index)[0])
        raise TextError(
            f"Text {place} ({job.texts[index][:40]!r}) gives a vector that is not finite, and {len(bad) - 1} others do "
            "too: the model's numbers overflow. Use a BF16, F32 or quantised file of it instead of F16."
        )


class _Ahead:
    """Collects what a function yields of each span, in order, one span ahead of whoever iterates."""

    def __init__(self, work: Callable[[int, int], Iterator[Ids]], spans: Sequence[tuple[int, int]]) -> None:
        self._work, self._spans = work, spans
        self._ended = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="qgguf-tokenize") if len(spans) > 1 else None

    def __enter__(self) -> Iterator[tuple[tuple[int, int], list[Ids]]]:
        return self._each()

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _each(self) -> Iterator[tuple[tuple[int, int], list[Ids]]]:
        if self._pool is None:
            for span in self._spans:
                yield span, self._collect(span)
            return
        coming = self._pool.submit(self._collect, self._spans[0])
        for number, span in enumerate(self._spans):
            done = coming.result()
            if number + 1 < len(self._spans):
                coming = self._pool.submit(self._collect, self._spans[number + 1])
            yield span, done

    def _collect(self, span: tuple[int, int]) -> list[Ids]:
        collected = []
        for ids in self._work(*span):
            if self._ended:
                break  # nobody waits for the rest
            collected.append(ids)
        return collected


class TokenBar:
    """A progress bar in tokens, on stderr; its total is estimated from the characters until all are tokenised."""

    def __init__(self, shown: bool, n_characters: int) -> None:
        self._lock = threading.Lock()
        self._characters_left, self._tokens_seen, self._characters_seen = n_characters, 0, 0
        self._bar = tqdm(total=None, unit="tok", unit_scale=True, delay=2, disable=not shown)

    def __enter__(self) -> "TokenBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, n_characters: int, n_tokens: int) -> None:
        """So many tokens come of so many characters."""
        with self._lock:
            self._characters_left -= n_characters
            self._characters_seen += n_characters
            self._tokens_seen += n_tokens
            share = self._tokens_seen / max(1, self._characters_seen)
            self._bar.total = self._tokens_seen + round(self._characters_left * share)

    def tokens(self, n_tokens: int) -> None:
        """So many more are done; from any thread."""
        with self._lock:
            self._bar.update(n_tokens)
