"""Type names that modules of several folders share. Those of arrays are in `batching` (Ids) and `vectors` (Vectors)."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with the amount done and the total, in the unit that the called function states."""
