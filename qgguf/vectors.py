"""Operations on vectors after the model: unit length, cosine, small precisions. Uses numpy only."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qgguf.errors import DimensionError, OptionError
from qgguf.option_values import PRECISIONS

Vectors = NDArray[np.float32]

_INT8_DEVIATIONS = 8.0
_PACKED = {"binary": np.int8, "ubinary": np.uint8}


def check_dims(dims: int, smallest: int, largest: int) -> None:
    """Refuse dims outside smallest..largest.

    raises  DimensionError naming the range
    source  Matryoshka Representation Learning, arXiv:2205.13147: the first dims of a vector are a vector
    """
    if isinstance(dims, bool) or not isinstance(dims, int | np.integer) or not smallest <= dims <= largest:
        raise DimensionError(f"dims={dims!r}; this model makes vectors of {smallest} to {largest} dims.")


def normalize(vectors: Vectors) -> Vectors:
    """Bring each row to length 1; a row of zeros stays zeros, one with NaN or infinity becomes NaN.

    vectors  (n_texts, dims) float32
    returns  (n_texts, dims) float32

    >>> normalize(np.array([[3, 4], [0, 0]], np.float32))
    array([[0.6, 0.8],
           [0. , 0. ]], dtype=float32)
    """
    # float64: the squares of float32 rows overflow from 1e19 on and vanish below 1e-23.
    wide = vectors.astype(np.float64)
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # infinity by infinity
        unit: NDArray[np.float64] = np.divide(wide, length, out=np.zeros_like(wide), where=length != 0)
    return unit.astype(np.float32)


def similarity(
    a: ArrayLike,
    b: ArrayLike,
    *,
    precision: str | None = None,
    dims: int | None = None,
    model_dims: int | None = None,
) -> Vectors:
    """Return the cosine of every vector of `a` with every vector of `b`.

    For packed binary vectors it is the cosine of their signs, 1 - 2 h / dims with the Hamming distance h. Vectors in
    "binary" and "ubinary" compare with each other, as do those in "float32" and "int8".

    a, b        (n, width) and (m, width), or one vector (width,) each; float32, int8 codes of any length, packed signs
    precision   of both, where the arrays do not show it; int8 may be "int8" or "binary"
    dims        dims of packed vectors; default: 8 times the width
    model_dims  the largest dims of the model that made them, if known: int8 with more columns is not "binary"
    returns     (n, m) float32; 0 where a vector is all zeros
    raises      DimensionError: the dims differ; OptionError: packed signs with numbers, int8 that may be either

    >>> similarity([1, 0], [[1, 0], [0, 2]])
    array([[1., 0.]], dtype=float32)
    >>> similarity(np.array([0b11001100], np.uint8), np.array([0b11001111], np.uint8))
    array([[0.5]], dtype=float32)
    """
    left, right, n_signs = _comparable(a, b, precision, dims, model_dims)
    if n_signs is None:
        return _as_cosines(normalize(left) @ normalize(right).T)
    # A dot product of signs is the number of equal ones less that of others; the bits that fill a byte are all equal.
    return _as_cosines((left @ right.T - (left.shape[1] - n_signs)) / n_signs)


def similarity_pairwise(
    a: ArrayLike,
    b: ArrayLike,
    *,
    precision: str | None = None,
    dims: int | None = None,
    model_dims: int | None = None,
) -> Vectors:
    """Return the cosine of each vector of `a` with the vector of `b` at the same index: (n,) float32.

    See `similarity` for the arguments and errors; `a` and `b` hold the same number of vectors.

    >>> similarity_pairwise([[1, 0], [3, 4]], [[0, 1], [6, 8]])
    array([0., 1.], dtype=float32)
    """
    left, right, n_signs = _comparable(a, b, precision, dims, model_dims)
    if len(left) != len(right):
        raise DimensionError(f"{len(left)} and {len(right)} vectors make no pairs; give the same number of both.")
    if n_signs is None:
        left, right = normalize(left), normalize(right)
    products = np.einsum("ij,ij->i", left, right)
    return _as_cosines(products if n_signs is None else (products - (left.shape[1] - n_signs)) / n_signs)


def _as_cosines(values: NDArray[Any]) -> Vectors:
    return values.astype(np.float32, copy=False)


def _comparable(
    a: ArrayLike, b: ArrayLike, precision: str | None, dims: int | None, model_dims: int | None
) -> tuple[Vectors, Vectors, int | None]:
    """Return both as rows of numbers and None, or both as rows of signs (-1 and 1) and how many of these are dims."""
    if precision is not None and (not isinstance(precision, str) or precision not in PRECISIONS):
        raise OptionError(f"precision={precision!r}; use one of {', '.join(PRECISIONS)}.")
    left, right = _rows(a), _rows(b)
    left, right = _sized(left, right), _sized(right, left)
    precisions = [precision] * 2 if precision is not None else _precisions(left, right, model_dims)
    packed = [word in _PACKED for word in precisions]
    if packed[0] != packed[1]:
        raise OptionError(
            "Packed binary vectors are compared with such vectors only, not with float32 or int8. "
            'Make both with the same precision, such as "ubinary".'
        )
    widths = [rows.shape[1] * (8 if packed[0] else 1) for rows in (left, right)]
    if widths[0] != widths[1]:
        raise DimensionError(f"Vectors of {widths[0]} and {widths[1]} dims cannot be compared; use one dim.")
    if not packed[0]:
        return _numbers(left, precision), _numbers(right, precision), None
    n_signs = dims if dims is not None and 0 <= widths[0] - dims < 8 else widths[0]
    return _signs(left, precisions[0], model_dims), _signs(right, precisions[1], model_dims), n_signs


def _rows(vectors: ArrayLike) -> NDArray[Any]:
    try:
        rows = np.asarray(vectors)
    except ValueError as error:
        raise DimensionError("The vectors have different dims; give an array of (n, dims).") from error
    if rows.ndim not in (1, 2):
        raise DimensionError(f"An array of {rows.ndim} axes is not a list of vectors; give (n, dims) or (dims,).")
    if rows.dtype.kind not in "fiub":
        raise OptionError(f"An array of {rows.dtype} does not hold vectors. Give float32, int8 or uint8.")
    return np.atleast_2d(rows)


def _sized(rows: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Return no rows of the others' dims and type for an empty list, which is no vectors of any dims."""
    return rows if rows.shape != (1, 0) else others[:0]


def _precisions(left: NDArray[Any], right: NDArray[Any], model_dims: int | None) -> list[str]:
    """Return the precision of each array by its dtype and columns, and for int8 by the length of the rows.

    raises  OptionError: it may be "int8" or "binary"
    """
    unclear = []
    precisions = []
    for rows in (left, right):
        can_be_packed = model_dims is None or rows.shape[1] <= packed_width(model_dims)
        # A list of integers is a list of vectors, as in the example above; of a model, one of codes.
        is_unclear = rows.dtype == np.int8 or (rows.dtype.kind in "iu" and model_dims is not None)
        if rows.dtype == np.uint8:
            precisions.append("ubinary")
        elif is_unclear and can_be_packed:
            unclear.append(rows)
            precisions.append("")
        else:
            precisions.append("float32")
    if not unclear:
        return precisions
    are_codes = np.concatenate([_may_be_codes(rows) for rows in unclear])
    if are_codes.all() and not (len(are_codes) == 0 and "ubinary" in precisions):
        word = "int8"
    elif model_dims is not None and not are_codes.any() and all(rows.dtype == np.int8 for rows in unclear):
        word = "binary"
    else:
        width, dtype = unclear[0].shape[1], unclear[0].dtype
        raise OptionError(
            f'{dtype} vectors of {width} columns may be {width} numbers, in precision "int8", or {8 * width} packed '
            'signs, in "binary" or "ubinary". Name it, such as precision="binary".'
        )
    return [precision or word for precision in precisions]


def _may_be_codes(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Return for each row whether it can be the int8 code of a unit vector; packed signs hardly ever can.

    Such a code is as long as 1 / int8_scale, but for its rounding. It is shorter only where numbers were clipped, which
    does not occur in few dims.
    """
    width = rows.shape[1]
    length = np.linalg.norm(rows.astype(np.float64), axis=1)
    longest, rounding = 1 / int8_scale(width), 0.5 * np.sqrt(width) + 0.01
    shortest = longest if width <= _INT8_DEVIATIONS**2 else 0.0
    is_unit = (length >= shortest - rounding) & (length <= longest + rounding)
    result: NDArray[np.bool_] = (is_unit | (length == 0)) & (rows > -128).all(axis=1)
    return result


def _numbers(rows: NDArray[Any], precision: str | None) -> Vectors:
    if precision is not None and rows.dtype == np.uint8:
        raise OptionError(f'uint8 vectors are in precision "ubinary", not {precision!r}. Leave precision out.')
    return rows.astype(np.float32)


def _signs(rows: NDArray[Any], precision: str, model_dims: int | None) -> Vectors:
    """Return packed signs, in int8 as "binary" or in uint8 as "ubinary", as -1 and 1; other integers by `precision`."""
    if model_dims is not None and rows.shape[1] > packed_width(model_dims):
        raise OptionError(
            f"{rows.dtype} vectors of {rows.shape[1]} columns are not packed signs of this model: it makes "
            f"{packed_width(model_dims)} columns of them or fewer. Give the vectors that encode returned."
        )
    dtype = rows.dtype if rows.dtype in (np.int8, np.uint8) else np.dtype(_PACKED[precision])
    codes = rows.astype(dtype)
    if rows.dtype.kind not in "iu" or not np.array_equal(codes, rows):
        raise OptionError(
            f"{precision} vectors are {np.dtype(_PACKED[precision])}, these are {rows.dtype}. "
            "Give the vectors that encode returned."
        )
    packed = codes if dtype == np.uint8 else codes.view(np.uint8) ^ np.uint8(128)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def packed_width(dims: int) -> int:
    """Return the columns of packed signs: 8 in a byte.

    >>> packed_width(384), packed_width(100)
    (48, 13)
    """
    return -(-dims // 8)


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
