"""The values that options accept, where the Python API and the command line share one definition."""

PRECISIONS = ("float32", "int8", "binary", "ubinary")
"""Forms of a vector; `qgguf.vectors.to_precision` makes them."""

TRUNCATIONS = ("end", "error")
"""What happens to a text over the token limit: its end is cut off, or it is refused."""

LEAST_MAX_TOKENS = 4
"""The smallest token limit: a start token, an end token, and some text between them."""
