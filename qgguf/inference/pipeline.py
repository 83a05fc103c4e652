"""Pipeline: texts through an engine, window after window, so that memory does not grow with their number."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qgguf.background import BackgroundCall
from qgguf.batching import Ids
from qgguf.errors import TextError
from qgguf.inference.call import Cancellation
from qgguf.inference.engine import Engine
from qgguf.inference.inputs import windows
from qgguf.inference.token_bar import TokenBar
from qgguf.model.prompts import Prompt

_BYTES_PER_CHARACTER = 12
"""Most UTF-8 bytes that a character has after NFC: U+1D160 becomes three characters of four bytes each."""
_SPECIAL_TOKENS = 8
"""More than any model puts around a text."""


@dataclass(frozen=True, slots=True)
class EncodeTask:
    """The work of one `encode`.

    texts         distinct
    indices       (n_caller_texts,), for each text of the caller its index in `texts`
    prompt        put before each text
    max_tokens    longer texts are cut to it; the end token is kept
    finish        makes (n, native dims) float32 into the vectors that are returned, a row each
    cancellation  stops the work
    """

    texts: list[str]
    indices: NDArray[np.intp]
    prompt: Prompt
    max_tokens: int
    finish: Callable[[NDArray[np.float32]], NDArray[Any]]
    cancellation: Cancellation


def tokenize(engine: Engine, texts: Sequence[str], prompt: Prompt) -> Iterator[Ids]:
    """Yield the ids of each text with its prompt and special tokens."""
    for text in texts:
        engine.check()
        yield engine.tokenizer.ids(text, prompt)


def ids_of_long_texts(engine: Engine, task: EncodeTask) -> dict[int, Ids]:
    """Return index -> ids of all texts that may be longer than the limit; all others are not.

    A token stands for one byte at least, so most texts are known to be short without tokenising.
    """
    maybe_long = [
        index for index, text in enumerate(task.texts) if _most_tokens(task.prompt.text + text) > task.max_tokens
    ]
    tokenized = {}
    for index in maybe_long:
        task.cancellation.check()
        (tokenized[index],) = tokenize(engine, [task.texts[index]], task.prompt)
    return tokenized


def _most_tokens(text: str) -> int:
    return len(text) * (1 if text.isascii() else _BYTES_PER_CHARACTER) + _SPECIAL_TOKENS


def compute(
    engine: Engine, task: EncodeTask, bar: TokenBar, tokenized: Mapping[int, Ids]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the finished vectors of the task's texts, and the tokens of each text before any cut.

    While one window is computed, the next is tokenised in another thread: llama.cpp releases the GIL.

    tokenized  index -> ids of texts that are tokenised already
    returns    (n_texts, dims) of what `finish` makes, (n_texts,) int64
    raises     TextError naming the caller's index of a text without tokens, or whose vector is not finite
    """
    spans = list(windows(task.texts))
    prompt = engine.tokenizer.prompt_ids(task.prompt)
    n_tokens = np.zeros(len(task.texts), np.int64)
    vectors = task.finish(np.empty((0, engine.dims), np.float32))
    if len(spans) > 1:
        vectors = np.empty((len(task.texts), vectors.shape[1]), vectors.dtype)

    def tokenize_window(start: int, stop: int) -> Iterator[Ids]:
        for index in range(start, stop):
            task.cancellation.check()
            ready = tokenized.get(index)
            yield ready if ready is not None else next(tokenize(engine, [task.texts[index]], task.prompt))

    with Prefetcher(tokenize_window, spans) as ids_of_windows:
        for (start, stop), ids in ids_of_windows:
            n_tokens[start:stop] = np.fromiter(map(len, ids), np.int64, len(ids))
            _check_tokens(n_tokens[start:stop], task, start)
            cut = [engine.tokenizer.truncate(one, task.max_tokens) for one in ids]
            call = engine.call(cut, prompt, bar.add_tokens)
            bar.expect(sum(map(len, task.texts[start:stop])), call.n_tokens)
            with task.cancellation.watching(partial(engine.cancel, call)):
                raw = engine.run(call)
            _check_finite(raw, task, start)
            if len(spans) == 1:
                return task.finish(raw), n_tokens
            vectors[start:stop] = task.finish(raw)
    return vectors, n_tokens


def _check_tokens(n_tokens: NDArray[np.int64], task: EncodeTask, start: int) -> None:
    """Refuse a text without a token: of a model without special tokens, such as an empty one."""
    empty = np.flatnonzero(n_tokens == 0)
    if len(empty):
        index = start + int(empty[0])
        callers_index = int(np.flatnonzero(task.indices == index)[0])
        raise TextError(
            f"Text {callers_index} ({task.texts[index][:40]!r}) has no token, and this model adds none, so there is "
            "nothing to compute a vector from. Leave such texts out."
        )


def _check_finite(raw: NDArray[np.float32], task: EncodeTask, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    if len(bad):
        index = start + int(bad[0])
        callers_index = int(np.flatnonzero(task.indices == index)[0])
        raise TextError(
            f"Text {callers_index} ({task.texts[index][:40]!r}) gives a vector that is not finite, and {len(bad) - 1} "
            "others do too: the model's numbers overflow. Use a BF16, F32 or quantised file of it instead of F16."
        )


class Prefetcher:
    """Collects what a function yields for each span, in order, one span ahead of its consumer.

    produce  called with (start, stop) of each span, in a thread when there are several
    spans    as `inputs.windows` yields them
    """

    def __init__(self, produce: Callable[[int, int], Iterator[Ids]], spans: Sequence[tuple[int, int]]) -> None:
        self._produce, self._spans = produce, spans
        self._ended = False
        self._coming: BackgroundCall[list[Ids]] | None = None

    def __enter__(self) -> Iterator[tuple[tuple[int, int], list[Ids]]]:
        return self._each()

    def __exit__(self, *_: object) -> None:
        self._ended = True
        if self._coming is not None:
            self._coming.join()

    def _each(self) -> Iterator[tuple[tuple[int, int], list[Ids]]]:
        if len(self._spans) <= 1:
            for span in self._spans:
                yield span, self._collect(span)
            return
        coming = self._coming = self._call(self._spans[0])
        coming.start()
        for number, span in enumerate(self._spans):
            done = coming.result()
            if number + 1 < len(self._spans):
                coming = self._coming = self._call(self._spans[number + 1])
                coming.start()
            yield span, done

    def _call(self, span: tuple[int, int]) -> BackgroundCall[list[Ids]]:
        return BackgroundCall(lambda: self._collect(span), name="qgguf-tokenize")

    def _collect(self, span: tuple[int, int]) -> list[Ids]:
        collected = []
        for ids in self._produce(*span):
            if self._ended:
                break  # the consumer has left
            collected.append(ids)
        return collected
