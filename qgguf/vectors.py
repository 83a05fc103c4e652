"""Operations on vectors after the model: unit length, cosine, small precisions. Uses numpy only."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qgguf.errors import DimensionError, OptionError
from qgguf.option_values import PRECISIONS

Vectors = NDArray[np.float32]

_INT8_DEVIATIONS = 8.0


def check_dims(dims: int, smallest: int, largest: int) -> None:
    """Refuse dims outside smallest..largest.

    raises  DimensionError naming the range
    source  Matryoshka Representation Learning, arXiv:2205.13147: the first dims of a vector are a vector
    """
    if isinstance(dims, bool) or not isinstance(dims, int | np.integer) or not smallest <= dims <= largest:
        raise DimensionError(f"dims={dims!r}; this model makes vectors of {smallest} to {largest} dims.")


def normalize(vectors: Vectors) -> Vectors:
    """Bring each row to length 1; a row of zeros stays zeros.

    vectors  (n_texts, dims) float32
    returns  (n_texts, dims) float32

    >>> normalize(np.array([[3, 4], [0, 0]], np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    # float64: the squares of float32 rows overflow from 1e19 on and vanish below 1e-23.
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(wide, length, out=np.zeros_like(wide), where=length > 0)
    return unit.astype(np.float32)


def similarity(a: ArrayLike, b: ArrayLike) -> Vectors:
    """Return the cosine of every vector of `a` with every vector of `b`.

    a, b     (n, dims) and (m, dims), or one vector (dims,) each; float32 or int8 codes, of any length
    returns  (n, m) float32; 0 where a vector is all zeros
    raises   DimensionError when the dims differ, OptionError for packed binary vectors in uint8

    >>> similarity([1, 0], [[1, 0], [0, 2]])
    array([[1., 0.]], dtype=float32)
    """
    left, right = _rows(a), _rows(b)
    if left.shape[1] != right.shape[1]:
        raise DimensionError(f"Vectors of {left.shape[1]} and {right.shape[1]} dims cannot be compared; use one dim.")
    cosines: Vectors = normalize(left) @ normalize(right).T
    return cosines


def _rows(vectors: ArrayLike) -> Vectors:
    array = np.asarray(vectors)
    if array.dtype == np.uint8:
        raise OptionError("Packed binary vectors are compared by Hamming distance, not cosine. Use float32 or int8.")
    if array.ndim not in (1, 2):
        raise DimensionError(f"An array of {array.ndim} axes is not a list of vectors; give (n, dims) or (dims,).")
    return np.atleast_2d(array).astype(np.float32)


def int8_scale(dims: int) -> float:
    """Return the value of one step of an int8 code: the same for every text, run and machine, so codes compare.

    Coordinates of a unit vector scatter by 1/sqrt(dims). The 127 steps reach to 8 of these deviations (never past 1);
    what lies beyond is clipped.

    >>> round(int8_scale(1024) * 127, 3)
    0.25
    """
    return float(min(1.0, _INT8_DEVIATIONS / np.sqrt(dims))) / 127


def to_precision(vectors: Vectors, precision: str) -> NDArray[Any]:
    """Return unit vectors in a smaller form.

    vectors    (n_texts, dims) float32, rows of length 1 (or 0)
    precision  float32: unchanged
               int8: round(v / int8_scale(dims)), (n_texts, dims) int8
               ubinary: sign bits packed, most significant first, (n_texts, ceil(dims / 8)) uint8
               binary: the same minus 128, int8
    raises     OptionError for any other word
    source     sentence-transformers, quantize_embeddings (binary and ubinary are the same bytes there)

    >>> to_precision(np.array([[0.6, -0.8]], np.float32), "ubinary")
    array([[128]], dtype=uint8)
    """
    if precision == "float32":
        return vectors
    if precision == "int8":
        codes: NDArray[np.float32] = np.rint(vectors / np.float32(int8_scale(vectors.shape[1])))
        return np.clip(codes, -127, 127).astype(np.int8)
    if precision not in PRECISIONS:
        raise OptionError(f"precision={precision!r}; use one of {', '.join(PRECISIONS)}.")
    packed: NDArray[np.uint8] = np.packbits(vectors > 0, axis=1)
    return packed if precision == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8)
