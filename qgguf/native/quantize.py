"""Converts rows of floats to ggml's types, one native call per chunk. The calls release the GIL."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from qgguf.errors import NativeError
from qgguf.gguf_format.tensors import TENSOR_TYPES, row_bytes
from qgguf.native import binding

F32, F16, BF16 = 0, 1, 30
_WIDEN = {F16: "ggml_fp16_to_fp32_row", BF16: "ggml_bf16_to_fp32_row"}

# Type -> unsigned integer of its size, and the smallest bit pattern that is not finite, without the sign bit.
_NOT_FINITE = {F32: (np.uint32, 0x7F80_0000), F16: (np.uint16, 0x7C00), BF16: (np.uint16, 0x7F80)}


@dataclass(frozen=True)
class _Functions:
    """The functions of ggml that are used.

    widen   by half type: converts it to float32
    narrow  converts float32 to F16; None for a build without it
    """

    quantize: Any
    validate: Any
    widen: dict[int, Any]
    narrow: Any | None


@cache
def _functions() -> _Functions:
    library = binding.ggml()
    quantize = library.ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    validate = library.ggml_validate_row_data
    validate.restype = ctypes.c_bool
    validate.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    widen = {}
    for type_id, name in _WIDEN.items():
        widen[type_id] = getattr(library, name)
        widen[type_id].restype = None
        widen[type_id].argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    # 25 times as fast as ggml_quantize_chunk, which converts one number at a time. Both round to nearest even.
    narrow = getattr(binding.ggml_cpu(), "ggml_cpu_fp32_to_fp16", None)
    if narrow is not None:
        narrow.restype = None
        narrow.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return _Functions(quantize, validate, widen, narrow)


def load() -> None:
    """Load the library, which the first use would do otherwise."""
    _functions()


def is_finite(type_id: int, data: np.ndarray) -> bool:
    """Return whether F32, F16 or BF16 numbers hold neither NaN nor infinity.

    data  uint8, a whole number of elements
    """
    word, limit = _NOT_FINITE[type_id]
    bits = data.view(word)
    if not bits.size:
        return True
    # As integers, the largest number of each sign is the first to be out of range.
    sign = 1 << (8 * bits.itemsize - 1)
    signed = bits.view(np.int16 if bits.itemsize == 2 else np.int32)
    return int(np.max(signed)) < limit and int(np.max(bits)) < (sign | limit)


def quantize_rows(
    source_type: int, source: np.ndarray, n_columns: int, target_type: int, target: np.ndarray, buffer: np.ndarray
) -> bool:
    """Convert whole rows of F32, F16 or BF16 to any ggml type, a cache-sized block of rows at a time.

    source   uint8, rows * row_bytes(source_type, n_columns)
    target   uint8, at least rows * row_bytes(target_type, n_columns)
    buffer   float32, at least `n_columns`; as many rows as fit are converted at once
    returns  False where the result is not finite: a weight is too large for the type
    raises   NativeError: columns that are no multiple of a block, or too small an array; ggml would abort the process
    """
    name, block_elements, _ = TENSOR_TYPES[target_type]
    source_row, target_row = row_bytes(source_type, n_columns), row_bytes(target_type, n_columns)
    n_rows = source.nbytes // source_row
    if n_columns % block_elements or target.nbytes < n_rows * target_row or buffer.size < n_columns:
        raise NativeError(
            f"Rows of {n_columns} numbers cannot be converted to {name}: a multiple of {block_elements} is needed, and "
            f"{n_rows * target_row:,} bytes for the result (there are {target.nbytes:,})."
        )
    if source_type == target_type:
        target[: source.nbytes] = source
        return True
    functions = _functions()
    source_address, target_address, buffer_address = source.ctypes.data, target.ctypes.data, buffer.ctypes.data
    rows_at_once = buffer.size // n_columns
    for first in range(0, n_rows, rows_at_once):
        rows = min(rows_at_once, n_rows - first)
        values, result = source_address + first * source_row, target_address + first * target_row
        if source_type != F32:
            functions.widen[source_type](values, buffer_address, rows * n_columns)
            values = buffer_address
        if target_type == F16 and functions.narrow is not None:
            functions.narrow(values, result, rows * n_columns)
        else:
            functions.quantize(target_type, values, result, 0, rows, n_columns, None)
    converted = target[: n_rows * target_row]
    if target_type in _NOT_FINITE:
        return is_finite(target_type, converted)
    return bool(functions.validate(target_type, converted.ctypes.data, converted.nbytes))
