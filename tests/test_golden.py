"""Vectors against sentence-transformers in float32, for the real MiniLM and a small Qwen3 (scripts/make_golden.py)."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from qgguf import Embedder, convert_checkpoint
from qgguf.file_hash import sha256_of
from tests.support.comparing import cosines
from tests.support.texts import ENGLISH, GOLDEN, QUERIES

FOLDER = Path(__file__).parent / "golden"
DOCUMENTS, QUESTIONS = list(GOLDEN.values()), list(QUERIES.values())
MODELS = ("minilm", "qwen3")

# Mean cosine over 300 English sentences that llama.cpp's own converter and quantiser reach for MiniLM.
LLAMA_CPP_MINILM = {"Q4_K_M": 0.99154, "Q4_0": 0.96872}


@dataclass(frozen=True)
class Golden:
    """One checkpoint and the reference's vectors for it."""

    name: str
    checkpoint: Path
    about: dict
    vectors: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def goldens(minilm_checkpoint: Path, qwen3_checkpoint: Path) -> dict[str, Golden]:
    goldens = {}
    for name, checkpoint in zip(MODELS, (minilm_checkpoint, qwen3_checkpoint), strict=True):
        with np.load(FOLDER / f"{name}.npz") as arrays:
            vectors = dict(arrays)
        goldens[name] = Golden(name, checkpoint, json.loads((FOLDER / f"{name}.json").read_text("utf-8")), vectors)
    return goldens


@pytest.fixture
def opened(goldens: dict[str, Golden], request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple]:
    """(golden, Embedder) for a parameter (model, type); the file is gone afterwards."""
    name, quant = request.param
    path = convert_checkpoint(goldens[name].checkpoint, tmp_path / f"{name}.gguf", quant=quant)
    with Embedder(path) as model:
        yield goldens[name], model
    path.unlink()


@pytest.mark.parametrize("name", MODELS)
def test_stored_vectors_belong_to_these_weights_and_texts(goldens: dict[str, Golden], name: str):
    """The stored vectors were made from the weights and texts that the tests use."""
    golden = goldens[name]
    texts = hashlib.sha256(json.dumps([GOLDEN, QUERIES, ENGLISH]).encode()).hexdigest()
    assert sha256_of(golden.checkpoint / "model.safetensors") == golden.about["weights_sha256"]
    assert texts == golden.about["texts_sha256"], "texts.py changed: run scripts/make_golden.py"


def test_stored_vectors_of_different_texts_differ(goldens: dict[str, Golden]):
    """The stored vectors of the random Qwen3 differ between texts, so that a cosine of 1 proves something.

    This guards stored data: no change of the code can break it, only another golden file.
    """
    vectors = goldens["qwen3"].vectors["english"]
    between = vectors @ vectors.T
    assert np.median(between[~np.eye(len(vectors), dtype=bool)]) < 0.9
    unlike = [GOLDEN[name] for name in ("english", "korean", "python", "emoji", "empty")]
    indices = [DOCUMENTS.index(text) for text in unlike]
    few = goldens["qwen3"].vectors["documents"][indices]
    assert (few @ few.T - np.eye(len(few))).max() < 0.5


@pytest.mark.parametrize(
    "opened", [(name, quant) for name in MODELS for quant in ("F32", "F16", "BF16")], indirect=True
)
def test_unquantised_vectors_equal_the_references(opened: tuple):
    """F32, F16 and BF16: every text, in any script, with or without the query prompt, has a cosine >= 0.9999."""
    golden, model = opened
    documents = cosines(model.encode_document(DOCUMENTS), golden.vectors["documents"])
    queries = cosines(model.encode_query(QUESTIONS), golden.vectors["queries"])
    worst = min(zip([*documents, *queries], [*GOLDEN, *QUERIES], strict=True))
    assert worst[0] >= 0.9999, worst


@pytest.mark.parametrize("opened", [("minilm", quant) for quant in LLAMA_CPP_MINILM], indirect=True)
def test_quantisation_costs_no_more_than_llama_cpps(opened: tuple):
    """MiniLM quantised by qgguf is as near to float32 as a file of llama.cpp's own quantiser."""
    golden, model = opened
    mean = cosines(model.encode(ENGLISH), golden.vectors["english"]).mean()
    assert mean >= LLAMA_CPP_MINILM[model.spec.quantization]


@pytest.mark.parametrize("opened", [(name, "Q8_0") for name in MODELS], indirect=True)
def test_q8_0_is_within_a_thousandth(opened: tuple):
    """Q8_0: mean cosine >= 0.999 over English and over every other script."""
    golden, model = opened
    assert cosines(model.encode(ENGLISH), golden.vectors["english"]).mean() >= 0.999
    assert cosines(model.encode(DOCUMENTS), golden.vectors["documents"]).mean() >= 0.999


@pytest.mark.parametrize("opened", [("qwen3", "Q4_K_M")], indirect=True)
def test_q4_k_m_of_qwen3_finds_its_text(opened: tuple):
    """With Q4_K_M of random weights, its worst case, each text's nearest reference vector is its own."""
    golden, model = opened
    nearest = (model.encode(ENGLISH) @ golden.vectors["english"].T).argmax(axis=1)
    assert (nearest == np.arange(len(ENGLISH))).all()


@pytest.mark.parametrize("name", MODELS)
def test_token_counts_equal_the_references(goldens: dict[str, Golden], name: str, request: pytest.FixtureRequest):
    """Every text has as many tokens as transformers counts, and the limit is that of the checkpoint."""
    golden = goldens[name]
    with Embedder(request.getfixturevalue(f"{name}_f16")) as model:
        assert model.count_tokens(DOCUMENTS).tolist() == golden.vectors["n_tokens_documents"].tolist()
        counts = model.count_tokens(QUESTIONS, prompt=golden.about["query_prompt"])
        assert counts.tolist() == golden.vectors["n_tokens_queries"].tolist()
        assert model.max_tokens == min(golden.about["max_seq_length"], 8192)


# llama.cpp multiplies quantised rows by other kernels in a batch than alone.
@pytest.mark.parametrize(
    ("file", "least"), [("minilm_f16", 0.9999), ("qwen3_f16", 0.9999), ("minilm_q4", 0.995), ("qwen3_q4", 0.99)]
)
def test_a_batch_gives_what_each_text_gives_alone(file: str, least: float, request: pytest.FixtureRequest):
    """A text's vector depends neither on the other texts of its batch nor on their order."""
    with Embedder(request.getfixturevalue(file)) as model:
        together = model.encode(DOCUMENTS)
        alone = np.stack([model.encode(text) for text in DOCUMENTS])
        order = random.Random(1).sample(range(len(DOCUMENTS)), len(DOCUMENTS))
        shuffled = model.encode([DOCUMENTS[index] for index in order])
    assert cosines(together, alone).min() >= least
    assert cosines(shuffled, together[order]).min() >= least


@pytest.mark.parametrize("file", ["minilm_q8", "qwen3_q4"])
def test_a_call_leaves_nothing_behind(file: str, request: pytest.FixtureRequest):
    """The vectors of the texts A have the same bytes before and after a call with the texts B."""
    a, b = DOCUMENTS[:20], DOCUMENTS[20:]
    with Embedder(request.getfixturevalue(file)) as model:
        first = model.encode(a)
        model.encode(b)
        assert model.encode(a).tobytes() == first.tobytes()


@pytest.mark.parametrize("file", ["minilm_q4", "qwen3_q4"])
def test_two_processes_give_the_same_bytes(file: str, request: pytest.FixtureRequest):
    """The same call gives the same bytes in two processes."""
    program = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[2])\n"
        "from tests.support.texts import GOLDEN; from qgguf import Embedder\n"
        "print(hashlib.sha256(Embedder(sys.argv[1]).encode(list(GOLDEN.values())).tobytes()).hexdigest())"
    )
    command = [sys.executable, "-c", program, str(request.getfixturevalue(file)), str(Path(__file__).parent.parent)]
    runs = {subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2)}
    assert len(runs) == 1
