"""Programs written for sentence-transformers, with the import changed: they run, or get one line with the way out."""

import inspect
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import qgguf
from qgguf import Embedder, QgError
from qgguf.errors import ModelNotFoundError, OptionError
from qgguf.inference.sentence_transformers import OTHER_ATTRIBUTES
from tests.support.processes import run_code

# Each is a program whose first line was `from sentence_transformers import SentenceTransformer`; MODEL is a GGUF file.
SNIPPETS = {
    "similarity": """
        model = SentenceTransformer(MODEL)
        sentences = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium é 한 😉."]
        embeddings = model.encode(sentences)
        assert embeddings.shape == (3, 384)
        similarities = model.similarity(embeddings, embeddings)
        assert similarities.shape == (3, 3) and similarities[0, 1] > similarities[0, 2]
    """,
    "search": """
        model = SentenceTransformer(MODEL, device="cpu")
        corpus = ["A man eats food.", "A man is riding a horse.", "A monkey is playing drums."]
        corpus_embeddings = model.encode(corpus, batch_size=64, show_progress_bar=False, convert_to_numpy=True)
        query_embedding = model.encode("A man is eating pasta.", convert_to_tensor=False)
        scores = model.similarity(query_embedding, corpus_embeddings)[0]
        assert scores.argsort()[::-1][0] == 0
    """,
    "queries and documents": """
        model = SentenceTransformer(MODEL, prompts={"query": "query: ", "passage": "passage: "})
        query_embeddings = model.encode_query(["how tall is Everest?"], normalize_embeddings=True)
        document_embeddings = model.encode_document(["Everest is 8,849 m high.", "Tea."], batch_size=8)
        assert model.similarity(query_embeddings, document_embeddings).argmax() == 0
        again = model.encode(["how tall is Everest?"], prompt_name="query")
        assert np.allclose(query_embeddings, again)
        assert np.allclose(query_embeddings, model.encode(["how tall is Everest?"], prompt="query: "))
    """,
    "default prompt": """
        model = SentenceTransformer(MODEL, prompts={"a": "b: "}, default_prompt_name="a", trust_remote_code=True)
        assert np.allclose(model.encode("x"), model.encode("x", prompt="b: "))
        assert not np.allclose(model.encode("x"), model.encode("x", prompt=""))
    """,
    "cut": """
        model = SentenceTransformer(MODEL, truncate_dim=np.int64(64), similarity_fn_name="cosine")
        assert model.get_sentence_embedding_dimension() == model.get_embedding_dimension() == 64
        assert model.encode("a text", truncate_dim=32).shape == (32,)
    """,
    "quantised": """
        model = SentenceTransformer(MODEL, local_files_only=True)
        for precision, shape in (("float32", (2, 384)), ("int8", (2, 384)), ("binary", (2, 48)), ("ubinary", (2, 48))):
            embeddings = model.encode(["a", "b"], precision=precision, output_value="sentence_embedding", device="cpu")
            assert embeddings.shape == shape
            assert abs(model.similarity_pairwise(embeddings, embeddings) - 1).max() < 1e-3
    """,
    "limit": """
        model = SentenceTransformer(MODEL, backend=None, model_kwargs={}, tokenizer_kwargs=None)
        assert model.max_seq_length == 256
        model.max_seq_length = 256
        assert model.similarity_fn_name == "cosine"
    """,
    "rows of a table": """
        model = SentenceTransformer(MODEL, token=True)
        rows = [{"id": 1, "text": "é"}, {"id": 2, "text": "한"}]
        embeddings = model.encode([row["text"] for row in rows], show_progress_bar=None)
        index = {row["id"]: vector for row, vector in zip(rows, embeddings)}
        assert np.allclose(index[2], model.encode(np.array(["é", "한"]))[1], atol=1e-6)
        assert model.encode([]).shape[0] == 0
    """,
}


@pytest.mark.filterwarnings("ignore:.*not trained")
@pytest.mark.parametrize("name", SNIPPETS)
def test_program_runs_with_the_import_changed(name: str, minilm_q8: Path):
    """The program is the same but for its first line and the name of the model."""
    namespace: dict[str, Any] = {"np": np, "MODEL": str(minilm_q8)}
    exec("from qgguf import Embedder as SentenceTransformer", namespace)
    exec(inspect.cleandoc(SNIPPETS[name]), namespace)


@pytest.fixture(scope="module")
def model(minilm_q8: Path):
    with Embedder(minilm_q8, device="cpu") as opened:
        yield opened


def one_line(caught: pytest.ExceptionInfo) -> str:
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


@pytest.mark.parametrize(
    ("argument", "value", "way_out"),
    [
        ("convert_to_tensor", True, r"torch\.from_numpy"),
        ("convert_to_tensor", np.True_, r"torch\.from_numpy"),
        ("convert_to_numpy", False, r"torch\.from_numpy"),
        ("convert_to_numpy", "yes", "True or False"),
        ("output_value", "token_embeddings", "one vector"),
        ("output_value", None, "one vector"),
        ("batch_size", 0, "1 or more"),
        ("batch_size", -1, "1 or more"),
        ("batch_size", 2.0, "1 or more"),
        ("batch_size", True, "1 or more"),
        ("batch_size", "32", "1 or more"),
        ("device", "cuda", "when it is opened"),
        ("device", "cuda:0", "when it is opened"),
        ("device", ["cpu", "cpu"], "when it is opened"),
        ("device", SimpleNamespace(type="cuda"), "when it is opened"),
        ("normalize_embeddings", "False", "True or False"),
        ("normalize_embeddings", 1, "True or False"),
        ("show_progress_bar", "no", "True or False"),
        ("precision", "uint8", "float32, int8, binary, ubinary"),
        ("precision", None, "float32, int8, binary, ubinary"),
        ("truncate_dim", 64.0, "1 to 384 dims"),
        ("truncate_dim", True, "1 to 384 dims"),
        ("truncate_dim", "64", "1 to 384 dims"),
        ("truncate_dim", np.float32(64), "1 to 384 dims"),
        ("truncate_dim", np.True_, "1 to 384 dims"),
    ],
)
def test_argument_of_encode_that_would_change_something_is_refused(
    argument: str, value: object, way_out: str, model: Embedder
):
    """encode, encode_query and encode_document refuse it with the same line."""
    for method in (model.encode, model.encode_query, model.encode_document):
        with pytest.raises(QgError, match=way_out) as caught:
            method(["é"], **{argument: value})
        assert re.search(rf"\b{argument}\b|dims=", one_line(caught))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": np.int64(8)},
        {"batch_size": None},
        {"convert_to_numpy": np.True_, "convert_to_tensor": np.False_},
        {"normalize_embeddings": np.True_},
        {"show_progress_bar": None},
        {"show_progress_bar": np.False_},
        {"device": "cpu"},
        {"device": "cpu:0"},
        {"device": "auto"},
        {"device": SimpleNamespace(type="cpu", index=None)},
        {"truncate_dim": np.int32(384)},
        {"truncate_dim": np.uint8(255)},
        {"prompt": np.str_("")},
        {"precision": np.str_("float32")},
    ],
    ids=str,
)
def test_argument_of_encode_that_changes_nothing_is_accepted(options: dict, model: Embedder):
    """Numbers and flags of numpy, and the device that the model runs on."""
    dims = int(options.get("truncate_dim", 384))
    expected = model.encode(["é 한 😉"], truncate_dim=dims)
    np.testing.assert_array_equal(model.encode(["é 한 😉"], **options), expected)
    np.testing.assert_array_equal(model.encode_query(["é 한 😉"], **options), expected)
    np.testing.assert_array_equal(model.encode_document(["é 한 😉"], **options), expected)


@pytest.mark.parametrize(
    ("argument", "value", "way_out"),
    [
        ("similarity_fn_name", "dot", r"a @ b\.T"),
        ("similarity_fn_name", SimpleNamespace(value="euclidean"), "cosine"),
        ("trust_remote_code", "yes", "True or False"),
        ("local_files_only", "yes", "True or False"),
        ("revision", "main", "hf_hub_download"),
        ("cache_folder", "/tmp/cache", "HF_HUB_CACHE"),
        ("cache_folder", Path("cache"), "HF_HUB_CACHE"),
        ("token", "hf_secret", "HF_TOKEN"),
        ("token", False, "HF_TOKEN"),
        ("model_kwargs", {"torch_dtype": "float16"}, "GGUF file"),
        ("processor_kwargs", {"padding_side": "left"}, "max_tokens"),
        ("tokenizer_kwargs", {"model_max_length": 64}, "max_tokens"),
        ("config_kwargs", {"x": 1}, "GGUF file"),
        ("backend", "torch", r"llama\.cpp"),
        ("backend", "onnx", r"llama\.cpp"),
        ("device", "mps", "cpu, gpu or cuda"),
        ("device", 0, "cpu, gpu or cuda"),
        ("prompts", ["query"], "dict"),
        ("prompts", {"query": None}, "names and texts are str"),
        ("prompts", {1: "a"}, "names and texts are str"),
        ("default_prompt_name", 1, "a str is needed"),
    ],
)
def test_argument_of_the_constructor_is_refused_with_the_way_out(
    argument: str, value: object, way_out: str, minilm_q8: Path
):
    """One line; a secret is not repeated in it."""
    with pytest.raises(QgError, match=way_out) as caught:
        Embedder(minilm_q8, **{argument: value})
    message = one_line(caught)
    assert argument in message and "hf_secret" not in message


def test_local_files_only_makes_no_request(tmp_path: Path):
    """A model that is not on this machine is an error, although no setting forbids the network."""
    code = "from qgguf import Embedder\nEmbedder('me/m:Q8_0', local_files_only=True)"
    done = run_code(code, home=tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    assert "ModelNotFoundError: me/m:Q8_0 is not on this machine" in done.stderr


def test_another_limit_is_set_at_opening(model: Embedder):
    """max_seq_length takes the number that it has; for another one the message has the argument."""
    model.max_seq_length = np.int64(256)
    for value in (128, 512, None, 256.0, True):
        with pytest.raises(OptionError, match=r"Embedder\(\.\.\., max_tokens=") as caught:
            model.max_seq_length = value
        one_line(caught)
    assert model.max_seq_length == model.max_tokens == 256


@pytest.mark.parametrize("name", OTHER_ATTRIBUTES)
def test_attribute_that_is_not_there_names_another(name: str, model: Embedder):
    """It stays an AttributeError, so that hasattr works, with what to use instead."""
    assert not hasattr(model, name)
    with pytest.raises(AttributeError, match=re.escape(OTHER_ATTRIBUTES[name])):
        getattr(model, name)
    with pytest.raises(AttributeError, match=r"no attribute 'other'$"):
        _ = model.other


def test_every_documented_argument_is_in_the_signature():
    """The arguments are spelled out, in every method and its asynchronous form."""
    of_encode = {"batch_size", "convert_to_numpy", "convert_to_tensor", "output_value", "device"}
    for name in ("encode", "encode_query", "encode_document", "aencode", "aencode_query", "aencode_document"):
        assert of_encode <= set(inspect.signature(getattr(Embedder, name)).parameters)
    kinds = {parameter.kind for parameter in inspect.signature(qgguf.Embedder).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


# Numbers


@pytest.mark.parametrize(
    "number", [np.int64(64), np.int32(64), np.uint16(64)], ids=lambda number: type(number).__name__
)
def test_integers_of_numpy_are_integers(number: np.integer, minilm_q8: Path, tmp_path: Path):
    """For every argument of the constructor that takes a number, and of encode."""
    options = {"max_tokens": number, "truncate_dim": number, "threads": type(number)(2)}
    with Embedder(minilm_q8, vram=np.int64(3 * 10**9), ram=np.int64(2 * 10**9), device="cpu", **options) as model:
        assert (model.max_tokens, model.dims) == (64, 64)
        assert type(model.max_tokens) is int and type(model.dims) is int
        assert type(model.plan.ram_bytes) is int
        assert model.encode("é", truncate_dim=number).shape == (64,)


@pytest.mark.parametrize("name", ["max_tokens", "truncate_dim", "threads", "vram", "ram"])
@pytest.mark.parametrize("value", [64.0, np.float64(64), True, np.True_, np.array([64]), b"64", [64]], ids=repr)
def test_other_numbers_are_refused(name: str, value: object, minilm_q8: Path):
    """Floats, flags, arrays and bytes, by name."""
    with pytest.raises(QgError) as caught:
        Embedder(minilm_q8, **{name: value})
    assert name in one_line(caught) or "dims=" in one_line(caught)


@pytest.mark.parametrize("value", [None, 3, b"model", ["a"], {"a": 1}])
def test_model_that_is_no_name_is_refused(value: object):
    """None, a number, bytes, a list."""
    with pytest.raises((OptionError, ModelNotFoundError), match="a path or the name of a model"):
        Embedder(value)  # type: ignore[arg-type]
