"""Which texts are computed together: lengths in, groups of indices out. Pure."""

from collections.abc import Sequence

from qgguf.errors import TextTooLongError


def plan_batches(lengths: Sequence[int], *, max_tokens: int, max_texts: int) -> list[list[int]]:
    """Group texts so that each batch holds at most `max_tokens` tokens and `max_texts` texts.

    Longest first: neighbours are of like length, and if memory does not do, the first batch says so.

    lengths     tokens of each text, end token included; index i is text i
    returns     batches of text indices; every index once; equal lengths keep their order
    raises      TextTooLongError when one text alone exceeds max_tokens

    >>> plan_batches([3, 9, 4, 5], max_tokens=10, max_texts=8)
    [[1], [3, 2], [0]]
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    if order and lengths[order[0]] > max_tokens:
        raise TextTooLongError(f"Text {order[0]} has {lengths[order[0]]:,} tokens; a batch holds {max_tokens:,}.")
    batches: list[list[int]] = []
    room = 0
    for index in order:
        if not batches or lengths[index] > room or len(batches[-1]) == max_texts:
            batches.append([])
            room = max_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches
