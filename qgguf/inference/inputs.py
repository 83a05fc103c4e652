"""Validate, de-duplicate and window the input texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qgguf.errors import TextError

WINDOW_TEXTS = 4096
WINDOW_CHARACTERS = 4_000_000
"""Limits of a window. That many texts are enough to find shared beginnings, and small beside a model in memory."""


def as_list(texts: str | Iterable[str]) -> list[str]:
    """Return the texts as a list, each of them a str that has a UTF-8 form.

    raises  TextError naming the index of the text

    >>> as_list("é")
    ['é']
    """
    listed = [texts] if isinstance(texts, str) else _listed(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise TextError(f"Text {index} is {type(text).__name__}, not str.")
        if not text.isascii():
            _check_surrogates(index, text)
    return listed


def one_text(text: str) -> str:
    """Return one text that has a UTF-8 form.

    raises  TextError: not a str, or a lone surrogate in it
    """
    if not isinstance(text, str):
        raise TextError(f"One text is needed, a str; this is {type(text).__name__}.")
    return as_list(text)[0]


def _listed(texts: Iterable[str]) -> list[str]:
    """Return the items of a sequence, a generator, an array or a column of a table; refuse what is not one of texts.

    A table or an array of two axes would be read by its columns or rows, a mapping by its keys.
    """
    kind = type(texts).__name__
    shape = getattr(texts, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        raise TextError(f"Texts must be a str or a list of str; this {kind} has {len(shape)} axes, 1 is needed.")
    if isinstance(texts, Mapping):
        raise TextError(f"Texts must be a str or a list of str, not {kind}. Give its texts: list(texts.values())")
    if isinstance(texts, set | frozenset):
        raise TextError(
            f"Texts must be a str or a list of str; a {kind} has no order for the vectors. Sort it: sorted(texts)"
        )
    try:
        # Not by collections.abc.Iterable: a sequence may have only __getitem__.
        items = None if isinstance(texts, bytes | bytearray | memoryview) else iter(texts)
    except TypeError:
        items = None
    if items is None:
        raise TextError(f"Texts must be a str or a list of str, not {kind}.")
    return list(items)


def _check_surrogates(index: int, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"Text {index} holds the lone surrogate U+{ord(text[error.start]):04X}, which is not a character. "
            "Replace it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None


def distinct(texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Return each text once, and for every given text its index among those: (n_texts,).

    >>> texts, indices = distinct(["a", "b", "a"])
    >>> texts, indices.tolist()
    (['a', 'b'], [0, 1, 0])
    """
    index_of: dict[str, int] = {}
    indices = np.fromiter((index_of.setdefault(text, len(index_of)) for text in texts), np.intp, len(texts))
    return list(index_of), indices


def windows(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield consecutive windows (start, stop) that cover the texts: one text or more, within the two limits above.

    >>> list(windows(["a", "b"]))
    [(0, 2)]
    """
    start = n_characters = 0
    for index, text in enumerate(texts):
        n_characters += len(text)
        if index > start and (index - start == WINDOW_TEXTS or n_characters > WINDOW_CHARACTERS):
            yield start, index
            start, n_characters = index, len(text)
    if start < len(texts):
        yield start, len(texts)
