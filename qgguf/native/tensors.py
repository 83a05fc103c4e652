"""Access to single tensors of ggml: name, size, values, and the operation that computes one."""

import ctypes
from collections.abc import Sequence
from typing import Any

from qgguf.errors import NativeError

# struct ggml_tensor: offset of the field `op`, which no function of ggml sets, and its value for "no operation".
_OP_OFFSET = 80
_OP_NONE = 0

_ROWS, _COLUMNS, _NAME = 5, 3, b"qgguf probe"


class TensorAccess:
    """ggml's functions on a tensor; each method takes the tensor's address.

    library  libggml-base
    raises   NativeError: a function is missing, or the field `op` is elsewhere in this release
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        # PyDLL keeps the GIL during a call: these take nanoseconds, and another thread could hold it for 5 ms after.
        fast = ctypes.PyDLL(library._name, handle=library._handle)
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        try:
            self.name = _function(fast, "ggml_get_name", ctypes.c_char_p, [pointer])
            self.n_rows = _function(fast, "ggml_nrows", ctypes.c_int64, [pointer])
            self.n_elements = _function(fast, "ggml_nelements", ctypes.c_int64, [pointer])
            self._op_name = _function(fast, "ggml_op_desc", ctypes.c_char_p, [pointer])
            # Waits for a GPU, so without the GIL.
            self.copy = _function(library, "ggml_backend_tensor_get", None, [pointer, pointer, size, size])
            _check(self, fast)
        except AttributeError as error:
            raise NativeError(f"This build of llama-cpp-python lacks a function of ggml: {error}.") from None

    def remove_operation(self, tensor: int) -> None:
        """Make the graph compute nothing for a tensor."""
        ctypes.c_int32.from_address(tensor + _OP_OFFSET).value = _OP_NONE


class _InitParameters(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _check(access: TensorAccess, library: ctypes.PyDLL) -> None:
    """Make a product of two tensors and check that it is described, and its operation removed, as expected.

    raises  NativeError
    """
    pointer, length = ctypes.c_void_p, ctypes.c_int64
    overhead = _function(library, "ggml_tensor_overhead", ctypes.c_size_t, [])
    start = _function(library, "ggml_init", pointer, [_InitParameters])
    end = _function(library, "ggml_free", None, [pointer])
    tensor_2d = _function(library, "ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, length, length])
    multiply = _function(library, "ggml_mul_mat", pointer, [pointer, pointer, pointer])
    set_name = _function(library, "ggml_set_name", pointer, [pointer, ctypes.c_char_p])
    context = start(_InitParameters(4 * overhead(), None, True))
    try:
        product = multiply(context, tensor_2d(context, 0, 2, _COLUMNS), tensor_2d(context, 0, 2, _ROWS))
        set_name(product, _NAME)
        seen = [access.name(product), access.n_rows(product), access.n_elements(product), access._op_name(product)]
        access.remove_operation(product)
        seen.append(access._op_name(product))
    finally:
        end(context)
    needed = [_NAME, _ROWS, _ROWS * _COLUMNS, b"MUL_MAT", b"NONE"]
    if seen != needed:
        raise NativeError(
            f"Tensors of this llama-cpp-python have another layout: a probe gave {seen}, {needed} is needed. "
            "Install a release that this qgguf supports: `qgguf doctor` shows the command."
        )


def _function(library: ctypes.CDLL, name: str, result: Any, arguments: Sequence[Any]) -> Any:
    """Return a new function object with these types. An attribute of the library would be shared with other code."""
    function = library[name]
    function.restype, function.argtypes = result, list(arguments)
    return function
