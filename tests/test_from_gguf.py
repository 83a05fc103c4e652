"""Headers of GGUF files, right, incomplete and impossible ones, and the specs that are made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgguf.errors import ModelFileError
from qgguf.model.from_gguf import read_spec
from qgguf.model.spec import ModelSpec, Pooling
from tests.support.gguf_bytes import QWEN3, gguf, save

WEIGHTS = {"token_embd.weight": np.ones((6, 32))}

BERT = {
    "general.architecture": "bert",
    "bert.block_count": 6,
    "bert.context_length": 512,
    "bert.embedding_length": 384,
    "bert.attention.head_count": 12,
    "bert.attention.causal": False,
    "bert.pooling_type": 1,
    "general.file_type": 7,
    "tokenizer.ggml.model": "bert",
    "tokenizer.ggml.tokens": ["[PAD]", "[CLS]", "[SEP]", "▁한"],
    "tokenizer.ggml.seperator_token_id": 2,
}


def spec(folder: Path, metadata: dict, without: tuple = (), **changes: Any) -> ModelSpec:
    """The spec of a file with these metadata, without some keys and with other values for some."""
    stored = {key: value for key, value in (metadata | changes).items() if key not in without}
    return read_spec(save(folder / "model.gguf", gguf(stored, WEIGHTS)))


def test_a_complete_qwen3_file_needs_no_correction(tmp_path: Path):
    """Dims, pooling, end token, prompts and MRL range are those of the header and of the family."""
    model = spec(tmp_path, QWEN3)

    assert (model.architecture, model.quantization, model.dims, model.n_layers) == ("qwen3", "Q4_K_M", 1024, 28)
    assert (model.n_heads, model.n_kv_heads, model.head_dim, model.context_length) == (16, 8, 128, 32768)
    assert (model.pooling, model.causal) == (Pooling.LAST, True)
    assert (model.end_token_id, model.end_token) == (4, "<|endoftext|>")
    assert model.prompts["query"].endswith("\nQuery:")
    assert model.instruction_template == "Instruct: {instruction}\nQuery:"
    assert model.mrl_dims == (32, 1024)
    assert model.n_params == 6 * 32
    assert model.corrections == ()


def test_an_old_qwen3_file_is_corrected(tmp_path: Path):
    """A file without pooling type and add_eos, with <|im_end|> as eos, gets last pooling and <|endoftext|>."""
    old = ("qwen3.pooling_type", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.padding_token_id")
    model = spec(tmp_path, QWEN3, old, **{"tokenizer.ggml.eos_token_id": 5})

    assert model.pooling is Pooling.LAST
    assert model.end_token == "<|endoftext|>"
    assert len(model.corrections) == 2
    assert "Qwen3-Embedding models use last" in model.corrections[0]
    assert "each text ends with <|endoftext|>" in model.corrections[1]


def test_add_eos_false_is_ignored_for_qwen3_embedding(tmp_path: Path):
    """Texts of this family always have an end token."""
    assert spec(tmp_path, QWEN3, **{"tokenizer.ggml.add_eos_token": False}).end_token == "<|endoftext|>"


def test_add_eos_false_of_our_own_converter_is_true(tmp_path: Path):
    """Our converter reads it from tokenizer.json, so a file of ours has no end token where the checkpoint has none."""
    changes = {"tokenizer.ggml.add_eos_token": False, "qgguf.version": "0.1.0"}
    assert spec(tmp_path, QWEN3, **changes).end_token is None


@pytest.mark.parametrize("name", ["My model", "F2LLM v2 0.6B", "pplx embed 0.6b"])
def test_a_qwen3_file_under_another_name_has_no_prompts_of_qwen3(tmp_path: Path, name: str):
    """The vocabulary of 151,669 tokens shows pooling and end token; fine-tunes with it have prompts of their own."""
    tokens = [*(f"t{i}" for i in range(151668)), "<|endoftext|>"]
    changes = {"tokenizer.ggml.tokens": tokens, "general.name": name}
    model = spec(tmp_path, QWEN3, ("general.basename", "qwen3.pooling_type", "tokenizer.ggml.add_eos_token"), **changes)

    assert model.pooling is Pooling.LAST
    assert model.prompts == {} and model.instruction_template is None and model.mrl_dims is None
    assert model.prompt_is_unknown and model.end_token == "<|endoftext|>"


def test_a_stored_query_prompt_shows_the_template(tmp_path: Path):
    """A file whose own query prompt follows a template takes instructions, whatever its name."""
    changes = {"general.name": "Mine", "qgguf.prompt.query": "Instruct: Trouve é 한 😉\nQuery: "}
    assert spec(tmp_path, QWEN3, **changes).instruction_template == "Instruct: {instruction}\nQuery: "


TOKENIZERS_WITH_WARNINGS = [
    ({"tokenizer.ggml.model": "t5"}, "table of characters"),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "jina-v2-code"}, "'jina-v2-code'"),
    ({"tokenizer.ggml.model": "gpt2"}, "does not name"),
    ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "roberta-bpe"}, None),
    ({"tokenizer.ggml.model": "t5", "tokenizer.ggml.precompiled_charsmap": [1, 2]}, None),
]


@pytest.mark.parametrize(("changes", "warning"), TOKENIZERS_WITH_WARNINGS)
def test_a_tokenizer_that_may_differ_has_a_warning(tmp_path: Path, changes: dict, warning: str | None):
    """Where equality with the checkpoint's tokenizer is not certain, the spec states it."""
    warnings = spec(tmp_path, BERT, **changes).warnings
    assert [warning in one for one in warnings] == ([True] if warning else [])


def test_a_chat_model_gets_no_pooling(tmp_path: Path):
    """A Qwen3 model that is no embedding model gets neither pooling nor prompts nor MRL dims."""
    model = spec(tmp_path, QWEN3, ("qwen3.pooling_type",), **{"general.name": "Qwen3 0.6B"})

    assert model.pooling is None
    assert model.mrl_dims is None
    assert model.prompts == {}


def test_a_reranker_keeps_its_pooling(tmp_path: Path):
    """A reranker is not recognised as Qwen3-Embedding, although it has the same vocabulary."""
    model = spec(tmp_path, QWEN3, **{"general.name": "Qwen3 Reranker 0.6B", "qwen3.pooling_type": 4})

    assert model.pooling is Pooling.RANK


def test_a_bert_file_ends_texts_with_sep(tmp_path: Path):
    """[SEP] ends each text, attention is not causal, the head size follows from the dims."""
    model = spec(tmp_path, BERT)

    assert (model.pooling, model.causal, model.end_token) == (Pooling.MEAN, False, "[SEP]")
    assert (model.head_dim, model.n_kv_heads, model.mrl_dims) == (32, 12, None)
    assert model.name == "model"


def test_keys_of_qgguf_are_read(tmp_path: Path):
    """The keys of qgguf set prompts (an empty one too), limits and the source."""
    written = {
        "qgguf.prompt.query": "é: ",
        "qgguf.prompt.document": "",
        "qgguf.default_prompt_name": "query",
        "qgguf.max_tokens": 256,
        "qgguf.mrl.min_dims": 64,
        "qgguf.mrl.max_dims": 384,
        "qgguf.source.repo": "o/r",
        "qgguf.source.revision": "abc",
        "qgguf.source.sha256": ["00 model.safetensors"],
    }
    model = spec(tmp_path, BERT | written)

    assert model.prompts == {"query": "é: ", "document": ""}
    assert model.default_prompt_name == "query"
    assert (model.max_tokens, model.mrl_dims) == (256, (64, 384))
    assert (model.source_repo, model.source_revision, model.source_sha256) == ("o/r", "abc", ("00 model.safetensors",))


@pytest.mark.parametrize(
    ("architecture", "causal", "is_exact"),
    [
        ("bert", False, True),
        ("nomic-bert", False, False),
        ("modern-bert", False, False),
        ("qwen3", True, True),
        ("qwen2", True, False),
    ],
)
def test_attention_is_the_familys(tmp_path: Path, architecture: str, causal: bool, is_exact: bool):
    """A file that does not declare its attention has that of its family, an unknown one is causal."""
    header = {key.replace("bert.", f"{architecture}."): value for key, value in BERT.items()}
    undeclared = spec(tmp_path, header, (f"{architecture}.attention.causal",), **{"general.architecture": architecture})
    declared = spec(tmp_path, header | {"general.architecture": architecture, f"{architecture}.attention.causal": True})

    assert (undeclared.causal, undeclared.exact_compute_buffer) == (causal, is_exact)
    assert (declared.causal, declared.exact_compute_buffer) == (True, causal and is_exact)


@pytest.mark.parametrize(
    ("without", "changes", "message"),
    [
        ("general.architecture", {}, "names no architecture"),
        ("tokenizer.ggml.tokens", {}, "no vocabulary"),
        ("qwen3.embedding_length", {}, "qwen3.embedding_length is missing"),
        (None, {"qwen3.attention.head_count": 0}, "head_count is 0"),
        (None, {"qwen3.block_count": "28"}, "block_count is '28'"),
        (None, {"split.count": 2}, "one part of a split model"),
        (None, {"qwen3.embedding_length": -1}, "embedding_length is -1"),
    ],
)
def test_a_header_with_impossible_values_is_refused(tmp_path: Path, without: str | None, changes: dict, message: str):
    """Missing and impossible values are reported before llama.cpp opens the file."""
    with pytest.raises(ModelFileError, match=message):
        spec(tmp_path, QWEN3, (without,), **changes)


@pytest.mark.parametrize(
    ("architecture", "name", "tensors", "message"),
    [
        ("gemma-embedding", "Embeddinggemma 300m", (), "two Dense layers are missing"),
        ("gemma-embedding", "é", ("dense_2.weight",), "two Dense layers are missing"),
        ("gemma-embedding", "Embeddinggemma 300m", ("dense_2.weight", "dense_3.weight"), None),
        ("bert", "LaBSE", (), "Dense layer after the pooling"),
        ("bert", "distiluse-base-multilingual-cased-v2", (), "Dense layer after the pooling"),
        ("bert", "multilingual-e5-base", (), None),
        ("jina-bert-v3", "jina-embeddings-v3", (), "task adapters"),
    ],
)
def test_files_whose_vectors_are_wrong_have_a_warning(
    architecture: str, name: str, tensors: tuple[str, ...], message: str | None, tmp_path: Path
):
    """A missing tensor or a known name shows that a GGUF file cannot give the checkpoint's vectors."""
    metadata = {key.replace("bert.", f"{architecture}.", 1): value for key, value in BERT.items()}
    metadata |= {"general.architecture": architecture, "general.name": name}
    weights = WEIGHTS | {tensor: np.ones((32, 32)) for tensor in tensors}
    warnings = read_spec(save(tmp_path / "model.gguf", gguf(metadata, weights))).warnings
    assert len(warnings) == (message is not None)
    assert message is None or message in warnings[0]


@pytest.mark.parametrize(
    ("architecture", "name", "unknown"),
    [
        ("bert", "é-large-instruct", True),
        ("bert", "multilingual-e5-large-instruct", False),
        ("bert", "all-MiniLM-L6-v2", False),
        ("qwen2", "KaLM Embedding Multilingual Mini", True),
    ],
)
def test_models_whose_prompt_is_unknown_are_marked(architecture: str, name: str, unknown: bool, tmp_path: Path):
    """A name shows that queries need a prompt; a prompt in the file settles it."""
    metadata = {key.replace("bert.", f"{architecture}.", 1): value for key, value in BERT.items()}
    metadata |= {"general.architecture": architecture, "general.name": name}
    assert spec(tmp_path, metadata).prompt_is_unknown is unknown
    assert not spec(tmp_path, metadata, **{"qgguf.prompt.query": "한: "}).prompt_is_unknown
