import numpy as np
import pytest

from qgguf.errors import ModelFileError
from qgguf.model.from_gguf import read_spec
from qgguf.model.spec import Pooling
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


def spec(tmp_path, metadata, without=(), **changes):
    kept = {key: item for key, item in (metadata | changes).items() if key not in without}
    return read_spec(save(tmp_path / "model.gguf", gguf(kept, WEIGHTS)))


def test_a_right_qwen3_file_is_described(tmp_path):
    """Dims, pooling, end token, prompts and MRL range, and nothing to mend."""
    found = spec(tmp_path, QWEN3)

    assert (found.architecture, found.quantization, found.dims, found.n_layers) == ("qwen3", "Q4_K_M", 1024, 28)
    assert (found.n_heads, found.n_kv_heads, found.head_dim, found.context_length) == (16, 8, 128, 32768)
    assert (found.pooling, found.causal) == (Pooling.LAST, True)
    assert (found.end_token_id, found.end_token) == (4, "<|endoftext|>")
    assert found.prompts["query"].endswith("\nQuery:")
    assert found.instruction_template == "Instruct: {instruction}\nQuery:"
    assert found.mrl_dims == (32, 1024)
    assert found.n_params == 6 * 32
    assert found.corrections == ()


def test_an_old_qwen3_file_is_mended_and_says_so(tmp_path):
    """No pooling type, no add-eos, eos named <|im_end|>: last pooling and <|endoftext|> all the same."""
    old = ("qwen3.pooling_type", "tokenizer.ggml.add_eos_token", "tokenizer.ggml.padding_token_id")
    found = spec(tmp_path, QWEN3, old, **{"tokenizer.ggml.eos_token_id": 5})

    assert found.pooling is Pooling.LAST
    assert found.end_token == "<|endoftext|>"
    assert len(found.corrections) == 2


def test_an_add_eos_that_says_false_is_not_believed_of_qwen3_embedding(tmp_path):
    """The family always ends its texts."""
    assert spec(tmp_path, QWEN3, **{"tokenizer.ggml.add_eos_token": False}).end_token == "<|endoftext|>"


def test_an_unnamed_file_is_known_by_its_vocabulary(tmp_path):
    """Qwen3-Embedding's 151,669 tokens are its own."""
    tokens = [f"t{i}" for i in range(151669)]
    found = spec(tmp_path, QWEN3, ("general.name", "qwen3.pooling_type"), **{"tokenizer.ggml.tokens": tokens})

    assert found.pooling is Pooling.LAST


def test_a_chat_model_declares_no_pooling_and_gets_none(tmp_path):
    """A Qwen3 that is not an embedding model is not taken for one."""
    found = spec(tmp_path, QWEN3, ("qwen3.pooling_type",), **{"general.name": "Qwen3 0.6B"})

    assert found.pooling is None
    assert found.mrl_dims is None
    assert found.prompts == {}


def test_a_reranker_keeps_its_own_pooling(tmp_path):
    """A reranker has the same vocabulary but makes no vectors."""
    found = spec(tmp_path, QWEN3, **{"general.name": "Qwen3 Reranker 0.6B", "qwen3.pooling_type": 4})

    assert found.pooling is Pooling.RANK


def test_a_bert_file_is_described(tmp_path):
    """[SEP] ends each text, attention sees both ways, the head size follows from the dims."""
    found = spec(tmp_path, BERT)

    assert (found.pooling, found.causal, found.end_token) == (Pooling.MEAN, False, "[SEP]")
    assert (found.head_dim, found.n_kv_heads, found.mrl_dims) == (32, 12, None)
    assert found.name == "model"


def test_our_own_keys_are_read(tmp_path):
    """Prompts (an empty one too), limits and the source."""
    ours = {
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
    found = spec(tmp_path, BERT | ours)

    assert found.prompts == {"query": "é: ", "document": ""}
    assert found.default_prompt_name == "query"
    assert (found.max_tokens, found.mrl_dims) == (256, (64, 384))
    assert (found.source_repo, found.source_revision, found.source_sha256) == ("o/r", "abc", ("00 model.safetensors",))


@pytest.mark.parametrize(
    ("without", "changes", "says"),
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
def test_a_header_that_no_model_can_have_is_refused(tmp_path, without, changes, says):
    """Missing and impossible values are named before llama.cpp sees the file."""
    with pytest.raises(ModelFileError, match=says):
        spec(tmp_path, QWEN3, (without,), **changes)
