"""Rows of floats to ggml's types and back, one call per chunk; the calls release Python's lock."""

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from qgguf.errors import NativeError
from qgguf.gguf_format.reader import TENSOR_TYPES, row_bytes
from qgguf.native import binding

F32, F16, BF16 = 0, 1, 30
_WIDEN = {F16: "ggml_fp16_to_fp32_row", BF16: "ggml_bf16_to_fp32_row"}

# The lowest bit pattern of a number that is not finite, by the type's bytes and exponent; signs apart.
_NOT_FINITE = {F32: (np.uint32, 0x7F80_0000), F16: (np.uint16, 0x7C00), BF16: (np.uint16, 0x7F80)}


@dataclass(frozen=True)
class _Calls:
    """What is called in ggml.

    widen   each half type to float32
    narrow  float32 to F16; None where the build has no such call
    """

    quantize: Any
    validate: Any
    widen: dict[int, Any]
    narrow: Any | None


@cache
def _calls() -> _Calls:
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
    # ggml_quantize_chunk makes F16 one number at a time; this one uses the processor's instruction, 25 times faster,
    # and both round to nearest even.
    narrow = getattr(binding.ggml_cpu(), "ggml_cpu_fp32_to_fp16", None)
    if narrow is not None:
        narrow.restype = None
        narrow.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    return _Calls(quantize, validate, widen, narrow)


def load() -> None:
    """Load the library and its calls; done by the first use otherwise."""
    _calls()


def is_finite(type_id: int, data: np.ndarray) -> bool:
    """Whether F32, F16 or BF16 numbers hold neither NaN nor infinity.

    data  uint8, a whole number of elements; read as integers, where the largest of each sign tells
    """
    word, limit = _NOT_FINITE[type_id]
    bits = data.view(word)
    if not bits.size:
        return True
    sign = 1 << (8 * bits.itemsize - 1)
    signed = bits.view(np.int16 if bits.itemsize == 2 else np.int32)
    return int(np.max(signed)) < limit and int(np.max(bits)) < (sign | limit)


def quantize_rows(
    source_type: int, source: np.ndarray, n_columns: int, target_type: int, target: np.ndarray, scratch: np.ndarray
) -> bool:
    """Convert whole rows of F32, F16 or BF16 to any ggml type, a cache-sized block of rows at a time.

    source   uint8, rows * row_bytes(source_type, n_columns)
    target   uint8, at least rows * row_bytes(target_type, n_columns)
    scratch  float32, at least `n_columns`; as many rows as fit are converted at once
    returns  False where the result is not finite: a weight too large for the type
    raises   NativeError: rows that are no multiple of a block (ggml would abort the process)
    """
    name, block_elements, _ = TENSOR_TYPES[target_type]
    source_row, target_row = row_bytes(source_type, n_columns), row_bytes(target_type, n_columns)
    n_rows = source.nbytes // source_row
    if n_columns % block_elements or target.nbytes < n_rows * target_row or scratch.size < n_columns:
        raise NativeError(f"{n_columns} columns cannot be made {name}: blocks of {block_elements} are needed.")
    if source_type == target_type:
        target[: source.nbytes] = source
        return True
    calls = _calls()
    source_at, target_at, scratch_at = source.ctypes.data, target.ctypes.data, scratch.ctypes.data
    rows_at_once = scratch.size // n_columns
    for first in range(0, n_rows, rows_at_once):
        rows = min(rows_at_once, n_rows - first)
        numbers, made_at = source_at + first * source_row, target_at + first * target_row
        if source_type != F32:
            calls.widen[source_type](numbers, scratch_at, rows * n_columns)
            numbers = scratch_at
        if target_type == F16 and calls.narrow is not None:
            calls.narrow(numbers, made_at, rows * n_columns)
        else:
            calls.quantize(target_type, numbers, made_at, 0, rows, n_columns, None)
    made = target[: n_rows * target_row]
    if target_type in _NOT_FINITE:
        return is_finite(target_type, made)
    return bool(calls.validate(target_type, made.ctypes.data, made.nbytes))
