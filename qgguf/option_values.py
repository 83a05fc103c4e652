"""The values that options accept, where the Python API and the command line share one definition."""

from numbers import Integral

PRECISIONS = ("float32", "int8", "binary", "ubinary")
"""Forms of a vector; `qgguf.vectors.to_precision` makes them."""

TRUNCATIONS = ("end", "error")
"""What happens to a text over the token limit: its end is cut off, or it is refused."""

LEAST_MAX_TOKENS = 4
"""The smallest token limit: a start token, an end token, and some text between them."""


def whole_number(value: object) -> int | None:
    """Return a whole number as int, also one of numpy; None for anything else, such as True or 2.0.

    >>> whole_number(64), whole_number(True), whole_number(64.0)
    (64, None, None)
    """
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
