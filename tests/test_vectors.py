"""What is done with vectors after the model: unit length, cosine, small precisions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from qgguf.errors import DimensionError, OptionError
from qgguf.vectors import (
    _may_be_codes,
    check_dims,
    int8_scale,
    normalize,
    similarity,
    similarity_pairwise,
    to_precision,
)

finite = st.floats(-(2.0**100), 2.0**100, width=32)
matrices = np_st.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=finite)


@given(matrices)
def test_normalize_gives_unit_length_or_leaves_zeros(rows):
    """Every row has length 1, a row of zeros stays zeros; a loop over the numbers agrees."""
    unit = normalize(rows)

    assert unit.dtype == np.float32
    for row, found in zip(rows.tolist(), unit.tolist(), strict=True):
        length = sum(number * number for number in row) ** 0.5
        if length == 0:
            assert found == [0.0] * len(row)
        else:
            assert found == pytest.approx([number / length for number in row], abs=1e-6)


@pytest.mark.parametrize("dims", [31, 1025, 0, -1, True, 64.0, "64"])
def test_dims_outside_the_range_are_refused(dims):
    """The message names both ends of the range."""
    with pytest.raises(DimensionError, match="32 to 1024"):
        check_dims(dims, 32, 1024)


@pytest.mark.parametrize("dims", [32, 33, 1024, np.int64(64)])
def test_dims_inside_the_range_pass(dims):
    """Both ends are inside."""
    check_dims(dims, 32, 1024)


@given(matrices)
def test_similarity_equals_a_loop(rows):
    """Cosines equal those of a float64 loop; 0 for a row of zeros."""
    found = similarity(rows, rows[::-1])

    wide = rows.astype(np.float64)
    for i, a in enumerate(wide):
        for j, b in enumerate(wide[::-1]):
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            assert found[i, j] == pytest.approx(a @ b / lengths if lengths else 0.0, abs=1e-5)
    assert found.dtype == np.float32


def test_similarity_of_different_dims_is_refused():
    """Vectors cut to different dims are not compared."""
    with pytest.raises(DimensionError, match="3 and 2"):
        similarity([1, 2, 3], [1, 2])


PACKED = ("binary", "ubinary")


def cosines_of_signs(vectors: np.ndarray) -> np.ndarray:
    """The cosines of the signs, counted in a loop."""
    signs = [[1 if number > 0 else -1 for number in row] for row in vectors.tolist()]
    return np.array([[sum(x * y for x, y in zip(a, b, strict=True)) / len(a) for b in signs] for a in signs])


@pytest.mark.parametrize("dims", [1, 7, 8, 32, 100, 384, 1024])
@pytest.mark.parametrize("left", PACKED)
@pytest.mark.parametrize("right", PACKED)
def test_similarity_of_packed_signs_is_the_cosine_of_signs(dims: int, left: str, right: str):
    """1 - 2 h / dims with the Hamming distance h, for both packings and mixed, also where bits fill up a byte."""
    vectors = np.random.default_rng(dims).standard_normal((6, dims)).astype(np.float32)
    a, b = to_precision(vectors, left), to_precision(vectors, right)
    expected = cosines_of_signs(vectors)
    for found in (
        similarity(a, b, precision="binary", dims=dims),
        similarity(a.astype(np.int64), b, precision=left, dims=dims) if left == right else expected,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    pairs = similarity_pairwise(a, b[::-1], precision="ubinary", dims=dims)
    np.testing.assert_allclose(pairs, expected[np.arange(6), np.arange(6)[::-1]], atol=1e-6)
    assert pairs.dtype == np.float32


@given(st.integers(1, 200), st.sampled_from(PACKED), st.integers(0, 1 << 30), st.integers(1, 4))
def test_packed_signs_never_give_another_number_silently(dims: int, precision: str, seed: int, n: int):
    """Without a precision they are refused, or give the cosine of their signs (1 in 100 single short rows excepted)."""
    vectors = np.random.default_rng(seed).standard_normal((n, dims)).astype(np.float32)
    packed = to_precision(vectors, precision)
    if precision == "binary" and _may_be_codes(packed).all():
        assert packed.shape[1] < 16
        return
    for model_dims in (None, dims, 2 * dims):
        try:
            found = similarity(packed, packed, dims=dims, model_dims=model_dims)
        except OptionError:
            assert precision == "binary" and (model_dims is None or _may_be_codes(packed).any())
            continue
        np.testing.assert_allclose(found, cosines_of_signs(vectors), atol=1e-6)


@given(st.integers(1, 1024), st.integers(0, 1 << 30), st.integers(0, 3))
def test_int8_codes_are_never_taken_for_packed_signs(dims: int, seed: int, power: int):
    """Codes of every width need no precision, also where clipped numbers shorten them, and rows of zeros."""
    vectors = np.random.default_rng(seed).standard_normal((3, dims)).astype(np.float32) ** (2 * power + 1)
    vectors[2] *= seed % 2
    codes = to_precision(normalize(vectors), "int8")
    expected = similarity(codes.astype(np.float32), codes.astype(np.float32))
    for model_dims in (None, dims, 8 * dims):
        np.testing.assert_array_equal(similarity(codes, codes, model_dims=model_dims), expected)
    np.testing.assert_array_equal(similarity(codes, codes, precision="int8"), expected)


def test_int8_of_other_programs_needs_its_precision():
    """Codes that no unit vector has may be packed signs; by the columns or the precision they are numbers."""
    codes = np.random.default_rng(1).integers(-127, 128, (3, 384), np.int8)
    with pytest.raises(
        OptionError, match=r'384 numbers, in precision "int8", or 3072 packed signs.*precision="binary"'
    ):
        similarity(codes, codes)
    expected = similarity(codes.astype(np.float32), codes.astype(np.float32))
    np.testing.assert_array_equal(similarity(codes, codes, precision="int8"), expected)
    np.testing.assert_array_equal(similarity(codes, codes, model_dims=384), expected)


@pytest.mark.parametrize("other", ["float32", "int8"])
@pytest.mark.parametrize("packed", PACKED)
def test_packed_signs_and_numbers_are_not_compared(other: str, packed: str):
    """A query in float32 or int8 and packed documents: one line, for the same and for another width."""
    vectors = normalize(np.random.default_rng(2).standard_normal((3, 384)).astype(np.float32))
    for numbers in (to_precision(vectors, other), to_precision(normalize(vectors[:, :48]), other)):
        for pair in ((numbers, to_precision(vectors, packed)), (to_precision(vectors, packed), numbers)):
            with pytest.raises(OptionError) as caught:
                similarity(*pair, model_dims=384)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.ones((2, 384), np.uint8), {"model_dims": 384}, "not packed signs of this model.*48 columns"),
        (np.ones((2, 384), np.int8), {"model_dims": 384, "precision": "binary"}, "not packed signs of this model"),
        (np.ones((2, 48), np.uint8), {"precision": "int8"}, 'in precision "ubinary"'),
        (np.ones((2, 48), np.float32), {"precision": "binary"}, "binary vectors are int8, these are float32"),
        (np.full((2, 48), 200, np.int64), {"precision": "binary"}, "binary vectors are int8, these are int64"),
        (np.full((2, 48), 99, np.int64), {"model_dims": 384}, "int64 vectors of 48 columns may be"),
        (np.ones((2, 48)), {"precision": "fp4"}, "float32, int8, binary, ubinary"),
        (np.array([["a", "é"]]), {}, "does not hold vectors"),
    ],
)
def test_vectors_that_may_be_several_things_are_refused(vectors: np.ndarray, options: dict, message: str):
    """The message states what the array may be, and what to name."""
    with pytest.raises(OptionError, match=message):
        similarity(vectors, vectors, **options)


def test_rows_of_different_dims_are_refused():
    """A list of vectors of several lengths, too many axes, and pairs of different numbers."""
    with pytest.raises(DimensionError, match="different dims"):
        similarity([[1, 2], [3]], [1, 2])
    with pytest.raises(DimensionError, match="3 axes"):
        similarity(np.zeros((1, 1, 1)), [1])
    with pytest.raises(DimensionError, match="2 and 1 vectors"):
        similarity_pairwise([[1, 2], [3, 4]], [1, 2])


@given(matrices)
def test_pairwise_similarity_is_the_diagonal(rows):
    """The cosines of pairs are those of the whole table."""
    np.testing.assert_allclose(similarity_pairwise(rows, rows[::-1]), np.diag(similarity(rows, rows[::-1])), atol=1e-6)


def test_no_vectors_compare():
    """Zero rows, in any precision."""
    vectors = np.ones((2, 64), np.float32) / 8
    for precision in ("float32", "int8", "binary", "ubinary"):
        some = to_precision(vectors, precision)
        assert similarity(some[:0], some, model_dims=64).shape == (0, 2)


@pytest.mark.parametrize("dims", [32, 384, 1024, 2560, 4096])
def test_int8_keeps_the_cosine(dims):
    """int8 codes of unit vectors keep the cosine within 0.001, with one scale for all texts."""
    unit = normalize(np.random.default_rng(7).standard_normal((40, dims)).astype(np.float32))

    codes = to_precision(unit, "int8")

    assert codes.dtype == np.int8
    assert np.diag(similarity(codes, unit)).min() > 0.9995
    np.testing.assert_array_equal(to_precision(unit[3:4], "int8")[0], codes[3])
    np.testing.assert_allclose(codes * int8_scale(dims), unit, atol=int8_scale(dims))


def test_binary_forms_follow_sentence_transformers():
    """ubinary packs sign bits, most significant first; binary is the same minus 128."""
    vectors = np.array([[1, -1, 1, 1, -1, -1, -1, 1, 1]], np.float32)

    np.testing.assert_array_equal(to_precision(vectors, "ubinary"), np.array([[0b10110001, 0b10000000]], np.uint8))
    np.testing.assert_array_equal(to_precision(vectors, "binary"), np.array([[49, 0]], np.int8))
    assert to_precision(vectors, "binary").dtype == np.int8


def test_unknown_precision_is_refused():
    """The message lists the valid ones."""
    with pytest.raises(OptionError, match="float32, int8, binary, ubinary"):
        to_precision(np.zeros((1, 8), np.float32), "fp4")


def test_the_int8_scale_is_pinned():
    """Stored int8 codes depend on it: 8 standard deviations of a unit vector's numbers over 127 steps."""
    assert int8_scale(1024) == pytest.approx(0.25 / 127, rel=1e-12)
    codes = to_precision(np.array([[0.01, -0.1, 0.3] + [0.0] * 1021], np.float32), "int8")
    assert codes[0, :3].tolist() == [5, -51, 127]
