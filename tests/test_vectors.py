"""What is done with vectors after the model: unit length, cosine, small precisions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from qgguf.errors import DimensionError, OptionError
from qgguf.vectors import check_dims, int8_scale, normalize, similarity, to_precision

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


def test_similarity_of_packed_bits_is_refused():
    """Cosine of packed bytes would be a number without meaning."""
    with pytest.raises(OptionError, match="Hamming"):
        similarity(np.ones((1, 4), np.uint8), np.ones((1, 4), np.uint8))


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
