"""Plans of batches: which tokens are computed together, and which are computed once for several texts. Pure."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qgguf.errors import TextTooLongError

Ids = NDArray[np.int32]
"""Token ids of one text, (n_tokens,) int32."""


@dataclass(frozen=True, slots=True)
class SharedTokens:
    """A batch as a tree: tokens that several texts begin with are in it once.

    tokens     (n_tokens,) int32
    positions  (n_tokens,) int32, index of the token in its texts
    first      (n_tokens,) int32, index of the first text that the token belongs to
    counts     (n_tokens,) int32; the token belongs to texts first .. first + count - 1
    ends       (n_texts,) int64, index in `tokens` of each text's last token; increasing
    """

    tokens: Ids
    positions: Ids
    first: Ids
    counts: Ids
    ends: NDArray[np.int64]


def common_length(a: Ids, b: Ids) -> int:
    """Return the number of leading tokens that two texts have in common.

    >>> common_length(np.array([5, 6, 7]), np.array([5, 6, 8, 9]))
    2
    """
    n = min(len(a), len(b))
    if n == 0 or a[0] != b[0]:  # true for most neighbours, and saves two numpy calls
        return 0
    differs = a[:n] != b[:n]
    index = int(differs.argmax())
    return index if differs[index] else n


def sort_key(text: Ids) -> bytes:
    """Return bytes that sort as the ids do, and are equal for equal texts only.

    Texts that share a beginning are neighbours when they are sorted by it.

    >>> sort_key(np.array([1, 2], np.int32)) < sort_key(np.array([1, 300], np.int32))
    True
    """
    return text.astype(">i4").tobytes()


def share_prefixes(texts: Sequence[Ids], skip: int = 0) -> SharedTokens:
    """Lay out a batch so that tokens which texts begin with alike are in it once.

    texts    distinct, sorted by `sort_key`, each longer than `skip`
    skip     number of leading tokens that all texts share and that are in the KV cache already
    returns  the layout, depth first: a text's tokens never come before those that they build on
    raises   ValueError: the texts are not sorted

    >>> share_prefixes([np.array([1, 2, 8]), np.array([1, 2, 9, 9])]).tokens.tolist()
    [1, 2, 8, 9, 9]
    """
    common = [skip, *(common_length(a, b) for a, b in itertools.pairwise(texts))]
    for shared, (a, b) in zip(common[1:], itertools.pairwise(texts), strict=True):
        # Unsorted texts would be laid out with tokens that belong to the wrong texts.
        if shared == len(b) or (shared < len(a) and a[shared] > b[shared]):
            raise ValueError("The texts of a batch must be distinct and sorted by their ids.")
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
    """Lay out a batch in which no tokens are shared, with the texts in the order given."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    stops = np.cumsum(lengths)
    return SharedTokens(
        tokens=np.concatenate(list(texts)).astype(np.int32, copy=False),
        positions=(np.arange(int(stops[-1])) - np.repeat(stops - lengths, lengths)).astype(np.int32),
        first=np.repeat(np.arange(len(texts), dtype=np.int32), lengths),
        counts=np.ones(int(stops[-1]), np.int32),
        ends=stops - 1,
    )


def order_texts(
    texts: Sequence[Ids], keys: Sequence[bytes], *, least_shared: int | None
) -> tuple[list[int], list[int]]:
    """Return the order in which texts are put into batches: longest first, texts that share a beginning together.

    texts         distinct
    keys          `sort_key` of each text
    least_shared  number of leading tokens that neighbours must share to be kept together; None: no texts are
    returns       indices of the texts in that order, and the cost of each after its predecessor: its tokens less the
                  shared ones

    >>> texts = [np.array(ids, np.int32) for ids in ([1], [7, 7, 3], [2, 2], [7, 7, 4])]
    >>> order_texts(texts, [sort_key(text) for text in texts], least_shared=2)
    ([1, 3, 2, 0], [3, 1, 2, 1])
    """
    by_ids = sorted(range(len(texts)), key=keys.__getitem__)
    groups: list[list[int]] = []
    costs: dict[int, int] = {}
    for index in by_ids:
        shared = 0
        if groups and least_shared is not None:
            shared = common_length(texts[groups[-1][-1]], texts[index])
        if groups and least_shared is not None and shared >= least_shared:
            groups[-1].append(index)
        else:
            groups.append([index])
            shared = 0
        costs[index] = len(texts[index]) - shared
    groups.sort(key=lambda group: -max(len(texts[index]) for index in group))
    order = [index for group in groups for index in group]
    return order, [costs[index] for index in order]


def take_batch(lengths: Sequence[int], costs: Sequence[int], start: int, *, max_tokens: int, max_texts: int) -> int:
    """Return where the batch ends that begins at index `start` of an order.

    lengths, costs  tokens of the texts in that order; the first text of a batch costs its whole length
    returns         index after the batch's last text; a batch has one text at least
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
