"""Chooses a model's strategy: the fastest whose vectors equal those of the plain strategy."""

import logging
from functools import cache

import numpy as np

from qgguf.batching import Ids, sort_key
from qgguf.errors import NativeError, OptionError
from qgguf.model.spec import ModelSpec, Pooling
from qgguf.native.context import NativeContext
from qgguf.native.model import NativeModel
from qgguf.native.strategy import LEAST_COSINE, LEAST_COSINE_ROUNDED, ROUNDING_FACTOR, STRATEGY_NAMES, Strategy
from qgguf.vectors import Vectors

log = logging.getLogger("qgguf")

PROBE_CELLS = 256


def choose_strategy(model: NativeModel, *, threads: int, pooling: Pooling, asked: str | None = None) -> Strategy:
    """Choose the fastest strategy whose vectors of three short texts equal the plain strategy's, and log the choice.

    asked   name of a strategy to use without a comparison
    raises  OptionError: the strategy asked for does not fit the model
    """
    if asked is not None:
        check_strategy(model.spec, pooling, asked)
        return Strategy(asked)
    if not model.spec.pools_last_row(pooling):
        log.debug("Plain strategy: the model pools over all tokens.")
        return Strategy.PLAIN
    texts = _probe_texts(model)
    expected = _compute(model, Strategy.PLAIN, texts, threads)
    rounded = cache(lambda: _least_by_rounding(model, texts, expected, threads))
    found = []
    for strategy in (Strategy.LAST_ROWS, Strategy.TWO_CALLS):
        try:
            vectors = _compute(model, strategy, texts, threads)
        except NativeError as error:
            log.info("Strategy %s does not work for this model: %s", strategy.value, error)
            found.append(f"{strategy.value} does not work")
            continue
        nearest = _least_cosine(vectors, expected)
        least = LEAST_COSINE if nearest >= LEAST_COSINE else rounded()
        if nearest >= least:
            log.info("Strategy %s: cosine %.6f or more to llama.cpp's own pooling.", strategy.value, nearest)
            return strategy
        log.info("Strategy %s: other vectors than llama.cpp's own pooling (cosine %.4f).", strategy.value, nearest)
        found.append(f"{strategy.value} has cosine {nearest:.4f}, needed is {least:.4f}")
    log.warning(
        "Using the plain strategy: no faster one gives the right vectors for this model (%s).", "; ".join(found)
    )
    return Strategy.PLAIN


def _least_by_rounding(model: NativeModel, texts: list[Ids], expected: Vectors, threads: int) -> float:
    """Return the cosine that a right strategy must reach, given how far the plain strategy itself is from `expected`.

    A GPU has other kernels for few rows than for many, and each rounds quantised weights and activations differently.
    What the plain strategy gives for one text alone differs by that much from what it gives in a batch.
    """
    alone = np.concatenate([_compute(model, Strategy.PLAIN, [text], threads) for text in texts])
    difference = 1 - _least_cosine(alone, expected)
    log.info("The plain strategy itself: cosine %.6f between a text in a batch and alone.", 1 - difference)
    return min(LEAST_COSINE, max(LEAST_COSINE_ROUNDED, 1 - ROUNDING_FACTOR * difference))


def check_strategy(spec: ModelSpec, pooling: Pooling, asked: str | None) -> None:
    """Check that a strategy fits a model.

    raises  OptionError: there is no such strategy, or the model cannot use it
    """
    if asked is None:
        return
    if asked not in STRATEGY_NAMES:
        *others, last = STRATEGY_NAMES
        raise OptionError(f"strategy={asked!r} is not a strategy. Use {', '.join(others)} or {last}.")
    if asked != Strategy.PLAIN.value and not spec.pools_last_row(pooling):
        raise OptionError(f"strategy={asked!r} is for causal models with last-token pooling. Use 'plain'.")


def _probe_texts(model: NativeModel) -> list[Ids]:
    """Return texts of 9, 1 and 5 tokens, sorted, for any vocabulary: what is compared is arithmetic, not meaning."""
    middle = model.spec.vocab_size // 2
    end = model.special_tokens.suffix_ids[-1:] or (0,)
    texts = [np.array([*range(middle, middle + n), *end], np.int32) % model.spec.vocab_size for n in (8, 0, 4)]
    return sorted(texts, key=sort_key)


def _compute(model: NativeModel, strategy: Strategy, texts: list[Ids], threads: int) -> Vectors:
    context = NativeContext(model, cells=PROBE_CELLS, threads=threads, pooling=Pooling.LAST, strategy=strategy)
    try:
        return context.vectors(texts)
    finally:
        context.close()


def _least_cosine(a: Vectors, b: Vectors) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(np.min((a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1)))
