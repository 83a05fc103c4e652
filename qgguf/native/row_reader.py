"""The callback that reads the rows of a graph's final norm, then stops the graph."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from qgguf.errors import NativeError
from qgguf.native import binding
from qgguf.vectors import Vectors

NORM = b"result_norm"
"""llama.cpp's name of the final norm. It has one row for each token that is flagged as output."""

HEAD = b"result_output"
"""llama.cpp's name of the vocabulary projection."""


class RowReader:
    """Copies the rows of the final norm and stops the graph there, before the vocabulary projection.

    llama.cpp calls `callback` for each node with ask=True: is this node's result needed? At a node that is, llama.cpp
    computes the graph up to it, calls again with ask=False, and goes on only where that returns True.

    dims  length of a row
    stop  while it holds anything, the graph stops at the next node
    """

    def __init__(self, dims: int) -> None:
        self.dims = dims
        self.stop: Sequence[object] = ()
        self._blocks: list[Vectors] = []
        self._tensors = binding.tensors()
        self.callback = binding.llama().ggml_backend_sched_eval_callback(self._on_node)

    def _on_node(self, tensor: int, ask: bool, _data: Any) -> bool:
        if ask:
            if self.stop:
                return True
            name = self._tensors.name(tensor)
            if name == HEAD:
                # Where the rest of the graph is on a GPU, the head is a separate graph: it is computed although the
                # graph before it was stopped.
                self._tensors.remove_operation(tensor)
            return bool(name == NORM)
        if self.stop:
            return False
        n_rows = self._tensors.n_rows(tensor)
        if n_rows and self._tensors.n_elements(tensor) == n_rows * self.dims:
            rows = np.empty((n_rows, self.dims), np.float32)
            self._tensors.copy(tensor, rows.ctypes.data, 0, rows.nbytes)
            self._blocks.append(rows)
        return False

    def discard(self) -> None:
        """Drop rows that were read and not taken, as an interrupted call leaves them."""
        self._blocks = []

    def take(self, n_rows: int) -> Vectors:
        """Return the rows read since the last call.

        n_rows   number of rows expected
        returns  (n_rows, dims) float32
        raises   NativeError: another number of rows was read
        """
        blocks, self._blocks = self._blocks, []
        n_read = sum(map(len, blocks))
        if n_read != n_rows:
            raise NativeError(f"llama.cpp computed {n_read} last rows, {n_rows} were requested.")
        return np.concatenate(blocks) if blocks else np.empty((0, self.dims), np.float32)
