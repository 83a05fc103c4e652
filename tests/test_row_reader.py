"""Access to tensors of ggml, and the callback that reads the final norm's rows."""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from qgguf.errors import NativeError
from qgguf.native import binding, tensors
from qgguf.native.row_reader import HEAD, NORM, RowReader

DIMS, N_ROWS = 3, 5


class Tensors:
    """Tensors made by ggml: the products of a (2, DIMS) and a (2, N_ROWS) matrix of ones."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(binding.ggml()._name)
        for name in ("ggml_init", "ggml_new_tensor_2d", "ggml_mul_mat", "ggml_set_name", "ggml_op_desc"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.ggml_op_desc.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.ggml_init(tensors._InitParameters(1 << 16, None, False)))

    def product(self, name: bytes) -> int:
        """Return the address of a product that has this name."""
        sides = []
        for length in (DIMS, N_ROWS):
            side = self._library.ggml_new_tensor_2d(self._context, 0, ctypes.c_int64(2), ctypes.c_int64(length))
            sides.append(ctypes.c_void_p(side))
        product: int = self._library.ggml_mul_mat(self._context, *sides)
        self._library.ggml_set_name(ctypes.c_void_p(product), name)
        return product

    def operation(self, tensor: int) -> bytes:
        """Return the name of the operation that computes a tensor."""
        operation: bytes = self._library.ggml_op_desc(ctypes.c_void_p(tensor))
        return operation

    def close(self) -> None:
        self._library.ggml_free(self._context)


@pytest.fixture
def made() -> Iterator[Tensors]:
    made = Tensors()
    yield made
    made.close()


def test_tensor_is_described(made: Tensors):
    """Name and size are those that it was made with."""
    access, tensor = binding.tensors(), made.product(b"attn_norm-3")
    assert (access.name(tensor), access.n_rows(tensor), access.n_elements(tensor)) == (b"attn_norm-3", 5, 15)


@pytest.mark.parametrize(
    ("name", "is_needed", "operation"),
    [(NORM, True, b"MUL_MAT"), (HEAD, False, b"NONE"), (b"attn_norm-3", False, b"MUL_MAT"),
     (NORM + b"-1", False, b"MUL_MAT")],
)  # fmt: skip
def test_vocabulary_projection_is_removed(made: Tensors, name: bytes, is_needed: bool, operation: bytes):
    """On a GPU it can be a separate graph, which is computed although the graph before it was stopped."""
    reader, tensor = RowReader(dims=DIMS), made.product(name)
    assert reader._on_node(tensor, True, None) is is_needed
    assert made.operation(tensor) == operation


def test_stop_ends_the_graph_at_any_node(made: Tensors):
    """While a signal is noted, each node is needed, and the graph does not go on after it."""
    reader, tensor = RowReader(dims=DIMS), made.product(b"attn_norm-3")
    reader.stop = ["a signal"]
    assert reader._on_node(tensor, True, None) is True
    assert reader._on_node(tensor, False, None) is False


def test_wrong_number_of_rows_is_refused():
    """No rows are taken for the rows of a text."""
    reader = RowReader(dims=DIMS)
    reader._blocks = [np.zeros((2, DIMS), np.float32)]
    with pytest.raises(NativeError, match="computed 2 last rows, 3 were requested"):
        reader.take(3)
    assert reader.take(0).shape == (0, DIMS)


@pytest.mark.parametrize("offset", [76, 84, 16, 256])
def test_another_layout_is_refused(offset: int, monkeypatch: pytest.MonkeyPatch):
    """Where the operation is not at the offset that is written, the binding is refused when it is loaded."""
    monkeypatch.setattr(tensors, "_OP_OFFSET", offset)
    with pytest.raises(NativeError, match=r"another layout: a probe gave .*MUL_MAT.*NONE.* is needed"):
        tensors.TensorAccess(binding.ggml())


def test_missing_function_is_refused():
    """A build that does not export a function is named as the reason."""

    class Library(ctypes.CDLL):
        def __getitem__(self, name: Any) -> Any:
            if name == "ggml_backend_tensor_get":
                raise AttributeError(name)
            return super().__getitem__(name)

    with pytest.raises(NativeError, match="lacks a function of ggml: ggml_backend_tensor_get"):
        tensors.TensorAccess(Library(binding.ggml()._name))
