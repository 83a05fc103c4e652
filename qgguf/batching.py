"""Which tokens are computed together, and which only once: ids in, plans out. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgguf.errors import TextTooLongError

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """A batch as a tree: each token once, for all texts that begin with the tokens up to it.

    tokens     (n_tokens,) int32
    positions  (n_tokens,) int32, place in its text
    first      (n_tokens,) int32, the first text it belongs to
    counts     (n_tokens,) int32, it belongs to texts first .. first + count - 1
    ends       (n_texts,) int64, where each text's last token stands in `tokens`; growing
    """

    tokens: Ids
    positions: Ids
    first: Ids
    counts: Ids
    ends: NDArray[np.int64]


def common_length(a: Ids, b: Ids) -> int:
    """Number of tokens that two texts begin with alike.

    >>> common_length(np.array([5, 6, 7]), np.array([5, 6, 8, 9]))
    2
    """
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:  # most neighbours; two numpy calls saved
        return 0
    unlike = a[:n] != b[:n]
    place = int(unlike.argmax())
    return place if unlike[place] else n


def distinct_texts(texts: Sequence[Ids]) -> tuple[list[Ids], NDArray[np.intp]]:
    """Texts of equal ids once, and for each text which one it is.

    >>> distinct, places = distinct_texts([np.array([1]), np.array([2]), np.array([1])])
    >>> len(distinct), places.tolist()
    (2, [0, 1, 0])
    """
    index_of: dict[bytes, int] = {}
    places = np.fromiter((index_of.setdefault(text.tobytes(), len(index_of)) for text in texts), np.intp, len(texts))
    first = np.unique(places, return_index=True)[1]
    return [texts[index] for index in first], places


def sort_order(texts: Sequence[Ids]) -> list[int]:
    """Indices of the texts in the order of their ids, so that texts that begin alike are neighbours."""
    keys = [text.astype(">i4").tobytes() for text in texts]
    return sorted(range(len(texts)), key=keys.__getitem__)


def share_prefixes(texts: Sequence[Ids], skip: int = 0) -> SharedTokens:
    """Lay out a batch so that tokens which texts begin with alike stand in it once.

    texts    distinct, sorted by ids (`sort_order`), each longer than `skip`
    skip     number of leading tokens shared by all texts and already in the KV cache
    returns  the layout; depth first, so that a text's tokens never come before those it builds on

    >>> share_prefixes([np.array([1, 2, 8]), np.array([1, 2, 9, 9])]).tokens.tolist()
    [1, 2, 8, 9, 9]
    """
    common = [skip, *(common_length(a, b) for a, b in itertools.pairwise(texts))]
    own = [text[start:] for text, start in zip(texts, common, strict=True)]
    lengths = np.fromiter(map(len, own), np.int64, len(own))
    stops = np.cumsum(lengths)
    starts = stops - lengths
    counts = np.ones(int(stops[-1]), np.int32)
    for index, start in enumerate(common):
        reach, following = len(texts[index]), index + 1
        while following < len(common) and (reach := min(reach, common[following])) > start:
            begin = int(starts[index])
            counts[begin : begin + reach - start] += 1
            following += 1
    depth = np.arange(int(stops[-1])) - np.repeat(starts - np.asarray(common), lengths)
    return SharedTokens(
        tokens=np.concatenate(own).astype(np.int32, copy=False),
        positions=depth.astype(np.int32),
        first=np.repeat(np.arange(len(texts), dtype=np.int32), lengths),
        counts=counts,
        ends=stops - 1,
    )


def flat_tokens(texts: Sequence[Ids]) -> SharedTokens:
    """Lay out a batch with nothing shared, texts in their order."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    stops = np.cumsum(lengths)
    return SharedTokens(
        tokens=np.concatenate(list(texts)).astype(np.int32, copy=False),
        positions=(np.arange(int(stops[-1])) - np.repeat(stops - lengths, lengths)).astype(np.int32),
        first=np.repeat(np.arange(len(texts), dtype=np.int32), lengths),
        counts=np.ones(int(stops[-1]), np.int32),
        ends=stops - 1,
    )


def order_texts(texts: Sequence[Ids], *, least_shared: int) -> tuple[list[int], list[int]]:
    """The order in which texts are put into batches: those that share a beginning together, longest first.

    texts         distinct
    least_shared  tokens that neighbours must have in common to be kept together
    returns       order of indices; and what each costs after its predecessor: its tokens less the shared ones

    >>> order_texts([np.array([1]), np.array([7, 7, 3]), np.array([2, 2]), np.array([7, 7, 4])], least_shared=2)
    ([1, 3, 2, 0], [3, 1, 2, 1])
    """
    by_ids = sort_order(texts)
    groups: list[list[int]] = []
    costs: dict[int, int] = {}
    for index in by_ids:
        shared = common_length(texts[groups[-1][-1]], texts[index]) if groups else 0
        if shared >= least_shared:
            groups[-1].append(index)
        else:
            groups.append([index])
            shared = 0
        costs[index] = len(texts[index]) - shared
    groups.sort(key=lambda group: -max(len(texts[index]) for index in group))
    order = [index for group in groups for index in group]
    return order, [costs[index] for index in order]


def take_batch(lengths: Sequence[int], costs: Sequence[int], start: int, *, max_tokens: int, max_texts: int) -> int:
    """How far a batch reaches that begins at place `start` of an order.

    lengths, costs  of the texts in that order; the first of a batch costs its whole length
    returns         the place after its last text; at least one text
    raises          TextTooLongError when the first text alone exceeds max_tokens

    >>> take_batch([9, 5, 4], [9, 5, 4], 1, max_tokens=10, max_texts=8)
    3
    """
    if lengths[start] > max_tokens:
        raise TextTooLongError(f"A text has {lengths[start]:,} tokens; a batch holds {max_tokens:,}.")
    used, stop = lengths[start], start + 1
    while stop < len(lengths) and stop - start < max_texts and used + costs[stop] <= max_tokens:
        used += costs[stop]
        stop += 1
    return stop
