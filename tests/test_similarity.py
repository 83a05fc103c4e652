"""Embedder.similarity on what `encode` returns, in every precision and cut to every number of dims."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgguf import Embedder
from qgguf.errors import DimensionError, OptionError
from qgguf.vectors import similarity, similarity_pairwise
from tests.support.processes import qgguf

TEXTS = ["a cat sleeps", "the kitten naps", "stocks fell é 한 😉", "bread"]
PRECISIONS = ("float32", "int8", "binary", "ubinary")


@pytest.fixture(scope="module", params=["minilm_q8", "small_qwen3"])
def model(request: pytest.FixtureRequest) -> Iterator[Embedder]:
    """MiniLM, not trained to be cut: 384 dims; and Qwen3 with dims 32 to 256."""
    with Embedder(request.getfixturevalue(request.param)) as opened:
        yield opened


def cosines(vectors: np.ndarray) -> np.ndarray:
    wide = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide @ wide.T


@pytest.mark.filterwarnings("ignore:.*not trained")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_similarity_of_every_precision_and_dims_is_right(precision: str, model: Embedder):
    """Codes have the cosine of the vectors, packed signs that of their signs; nothing but the arrays is given."""
    smallest = (model.spec.mrl_dims or (32, 0))[0]
    for dims in {smallest, 40, 48, 64, 128, 200, 256, model.dims}:
        plain = model.encode(TEXTS, truncate_dim=dims)
        vectors = model.encode(TEXTS, truncate_dim=dims, precision=precision)
        expected = cosines(np.where(plain > 0, 1, -1) if "binary" in precision else plain)
        np.testing.assert_allclose(model.similarity(vectors, vectors), expected, atol=0.01)
        np.testing.assert_allclose(
            model.similarity_pairwise(vectors, vectors[::-1]), np.diag(expected[::-1]), atol=0.01
        )
        one = model.similarity(vectors[0], vectors[1:])
        assert one.shape == (1, 3) and one.dtype == np.float32


def test_dims_that_fill_no_byte_are_named(model: Embedder):
    """100 dims are 13 bytes: truncate_dim gives the number of signs."""
    plain, packed = (model.encode(TEXTS, truncate_dim=100, precision=word) for word in ("float32", "binary"))
    expected = cosines(np.where(plain > 0, 1, -1))
    np.testing.assert_allclose(model.similarity(packed, packed, truncate_dim=100), expected, atol=1e-6)
    with pytest.raises(DimensionError):
        model.similarity(packed, packed, truncate_dim=model.dims + 1)


def test_dims_of_the_embedder_are_those_of_packed_signs(minilm_q8: Path):
    """With truncate_dim=100 at opening, 13 bytes are 100 signs."""
    with Embedder(minilm_q8, truncate_dim=100) as model:
        plain, packed = (model.encode(TEXTS, precision=word) for word in ("float32", "ubinary"))
        np.testing.assert_allclose(model.similarity(packed, packed), cosines(np.where(plain > 0, 1, -1)), atol=1e-6)


@pytest.mark.parametrize("stored", [np.int64, np.int16])
def test_codes_that_were_stored_as_other_integers_are_not_guessed(stored: type, model: Embedder):
    """From JSON they come back as int64: packed signs are refused until their precision is named."""
    packed = model.encode(TEXTS, precision="binary")
    with pytest.raises(OptionError, match="Name it"):
        model.similarity(packed.astype(stored), packed.astype(stored))
    again = model.similarity(packed.astype(stored).tolist(), packed.astype(stored), precision="binary")
    np.testing.assert_array_equal(again, model.similarity(packed, packed))
    codes = model.encode(TEXTS, precision="int8")
    np.testing.assert_array_equal(model.similarity(codes.astype(stored), codes), model.similarity(codes, codes))


@pytest.mark.parametrize("query", PRECISIONS)
@pytest.mark.parametrize("documents", PRECISIONS)
def test_mixed_precisions_are_right_or_refused(query: str, documents: str, model: Embedder):
    """Numbers with numbers, signs with signs; anything else is one line."""
    a, b = model.encode(TEXTS, precision=query), model.encode(TEXTS, precision=documents)
    plain = model.encode(TEXTS)
    if ("binary" in query) != ("binary" in documents):
        with pytest.raises(OptionError, match="compared with such vectors only") as caught:
            model.similarity(a, b)
        assert "\n" not in str(caught.value)
    else:
        expected = cosines(np.where(plain > 0, 1, -1) if "binary" in query else plain)
        np.testing.assert_allclose(model.similarity(a, b), expected, atol=0.01)


def test_command_compares_float_vectors(minilm_q8: Path, tmp_path: Path):
    """`qgguf similarity` shows the cosines that the library returns, also for fewer dims."""
    with Embedder(minilm_q8) as model:
        vectors = model.encode(TEXTS[:2], truncate_dim=48)
        expected = f"{model.similarity(vectors, vectors)[0, 1]:.3f}"
    done = qgguf("similarity", *TEXTS[:2], "-m", str(minilm_q8), "--dim", "48", home=tmp_path)
    assert done.returncode == 0 and expected in done.stdout.decode()


def test_nan_is_not_a_cosine():
    """A vector with NaN or infinity has no cosine; a vector of zeros has 0."""
    for bad in (np.nan, np.inf):
        assert np.isnan(similarity([1, bad], [[1, 0], [0, 1]])).all()
        assert np.isnan(similarity_pairwise([[1.0, bad]], [[1.0, 0.0]])).all()
    assert similarity([0, 0], [1, 0]).tolist() == [[0.0]]


@pytest.mark.parametrize("empty", [[], np.empty((0, 3), np.float32)])
def test_no_vectors_have_no_cosines(empty: Any):
    """An empty list is no vectors, not one vector without dims."""
    vectors = np.ones((2, 3), np.float32)
    assert similarity(empty, vectors).shape == (0, 2) and similarity(vectors, empty).shape == (2, 0)
    assert similarity(empty, empty).shape == (0, 0)
    packed = np.ones((2, 3), np.uint8)
    assert similarity([], packed).shape == (0, 2) and similarity_pairwise([], []).shape == (0,)
