"""convert_checkpoint: what counts as the same checkpoint, what is kept of it, where the file goes."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from qgguf import hub
from qgguf.convert.converter import convert_checkpoint
from qgguf.convert.safetensors import read_tensors
from qgguf.errors import CheckpointError, OptionError
from qgguf.gguf_format import keys
from qgguf.gguf_format.reader import read_header
from qgguf.model.from_gguf import read_spec
from qgguf.model.spec import Pooling
from tests.support.bert_checkpoints import make_bert_checkpoint
from tests.support.checkpoints import make_qwen3_checkpoint
from tests.support.llama_quantize import llama_quantize, tensors_of

SMALL = {"small_vocab": True, "layers": 2, "dims": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 96}
REPOSITORY = Path(__file__).resolve().parent.parent


def metadata_of(checkpoint: Path, **options: object) -> dict:
    """Every value of the GGUF that a checkpoint leads to."""
    out = checkpoint.parent / "metadata.gguf"
    return dict(read_header(convert_checkpoint(checkpoint, out, force=True, **options)).metadata)


def edit(path: Path, **changes: object) -> None:
    """Change values of a JSON file; None takes one out."""
    content = (json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


# ---- one model, stored in several ways


@pytest.mark.parametrize(
    "stored",
    [
        {"prefix": "model."},
        {"shards": 3},
        {"prefix": "model.", "shards": 2, "with_head": True},
        {"with_head": True, "tied": False},
        {"tied": False},
        {"architecture": "Qwen3Model"},
    ],
    ids=str,
)
def test_qwen3_is_the_same_however_it_is_stored(stored: dict, tmp_path: Path):
    """Prefixed names, shards, a tied, untied, stored or missing head all give the same file."""
    plain = convert_checkpoint(make_qwen3_checkpoint(tmp_path / "plain", **SMALL), tmp_path / "a.gguf", quant="Q8_0")
    other = convert_checkpoint(
        make_qwen3_checkpoint(tmp_path / "other", **SMALL, **stored), tmp_path / "b.gguf", quant="Q8_0"
    )
    assert tensors_of(plain) == tensors_of(other)


@pytest.mark.parametrize("stored", [{"prefix": "bert."}, {"with_heads": True}, {"old_norms": True}, {"shards": 2}])
def test_bert_is_the_same_however_it_is_stored(stored: dict, tmp_path: Path):
    """Prefixed names, pooler and language-model heads, gamma and beta, and shards give the same file."""
    plain = convert_checkpoint(make_bert_checkpoint(tmp_path / "plain"), tmp_path / "a.gguf", quant="Q8_0")
    other = convert_checkpoint(make_bert_checkpoint(tmp_path / "other", **stored), tmp_path / "b.gguf", quant="Q8_0")
    assert tensors_of(plain) == tensors_of(other)


@pytest.mark.parametrize("quant", ["Q4_K_M", "F32"])
def test_runs_and_threads_make_no_difference(quant: str, tmp_path: Path):
    """The bytes are the same from one thread, from five, and in a second run."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", small_vocab=True, layers=2)
    made = [
        convert_checkpoint(checkpoint, tmp_path / f"{number}.gguf", quant=quant, threads=threads).read_bytes()
        for number, threads in enumerate((1, 5, 5))
    ]
    assert made[0] == made[1] == made[2]


def test_the_token_embedding_can_have_its_own_type(tmp_path: Path):
    """The file equals that of llama_model_quantize with token_embedding_type."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", small_vocab=True, layers=2)
    master = convert_checkpoint(checkpoint, tmp_path / "master.gguf", quant="BF16")
    for name in ("Q4_0", "q8_0", "F16"):
        ours = convert_checkpoint(checkpoint, tmp_path / "ours.gguf", token_embedding_type=name, force=True)
        theirs = llama_quantize(master, tmp_path / "theirs.gguf", "Q4_K_M", name.upper())
        assert tensors_of(ours) == tensors_of(theirs)
        assert tensors_of(ours)[1][0::2] == ("token_embd.weight", name.upper())


def test_a_row_wider_than_a_chunk_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A chunk has one whole row at least."""
    from qgguf.convert import streaming

    checkpoint = make_bert_checkpoint(tmp_path / "model")
    usual = convert_checkpoint(checkpoint, tmp_path / "a.gguf", quant="Q8_0").read_bytes()
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 100)
    monkeypatch.setattr(streaming, "BLOCK_ELEMENTS", 10)
    assert convert_checkpoint(checkpoint, tmp_path / "b.gguf", quant="Q8_0").read_bytes() == usual


def test_memory_does_not_grow_with_the_model(tmp_path: Path):
    """A thread holds one chunk, whatever the tensors' sizes; numpy's arrays are counted by tracemalloc.

    The largest part is the block of 32 MiB that is hashed at once.
    """
    peaks, sizes = [], []
    for layers in (1, 3):
        checkpoint = make_bert_checkpoint(tmp_path / str(layers), dims=1024, ffn=4096, layers=layers, dtype="BF16")
        tracemalloc.start()
        convert_checkpoint(checkpoint, tmp_path / f"{layers}.gguf", quant="Q8_0", threads=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append((checkpoint / "model.safetensors").stat().st_size)
    assert sizes[1] - sizes[0] > 50_000_000
    assert peaks[1] - peaks[0] < 4_000_000 and peaks[1] < 48_000_000


# ---- the metadata of the file


def test_prompts_are_copied_also_empty_ones(tmp_path: Path):
    """They are those of config_sentence_transformers.json, in any script."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    prompts = {"query": "질문 😉: ", "document": "", "été": "é"}
    edit(checkpoint / "config_sentence_transformers.json", prompts=prompts, default_prompt_name="document")
    metadata = metadata_of(checkpoint)
    assert {name: metadata[f"qgguf.prompt.{name}"] for name in prompts} == prompts
    assert metadata["qgguf.default_prompt_name"] == "document"


def test_declared_token_limit_is_copied(tmp_path: Path):
    """It is max_seq_length of sentence_bert_config.json; there is no key without it."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    assert "qgguf.max_tokens" not in metadata_of(checkpoint)
    edit(checkpoint / "sentence_bert_config.json", max_seq_length=40, do_lower_case=True)
    assert metadata_of(checkpoint)["qgguf.max_tokens"] == 40


def test_sha256_of_each_weight_file_is_recorded(tmp_path: Path):
    """There is one digest for each whole file, dropped tensors included."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", **SMALL, shards=2, with_head=True)
    files = sorted(checkpoint.glob("*.safetensors"))
    expected = [f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.name}" for file in files]
    assert metadata_of(checkpoint)["qgguf.source.sha256"] == expected


def test_origin_of_a_hub_snapshot_is_recorded(tmp_path: Path):
    """Repository and commit come from the folder names of the cache; the model is not named by its commit."""
    folder = tmp_path / "models--Qwen--Qwen3-Embedding-0.6B" / "snapshots" / "97b0c614be4d77ee51c0cef4e5f07c00f9eb65b3"
    checkpoint = make_qwen3_checkpoint(folder, **SMALL)
    out = convert_checkpoint(checkpoint, tmp_path, quant="Q8_0")
    metadata = read_header(out).metadata
    assert out.name == "qwen3-embedding-0.6b-Q8_0.gguf"
    assert metadata["general.name"] == "Qwen3 Embedding 0.6B"
    assert metadata["qgguf.source.repo"] == "Qwen/Qwen3-Embedding-0.6B"
    assert metadata["qgguf.source.revision"] == folder.name


def test_qwen3_embedding_gets_its_smallest_dims(qwen3_checkpoint: Path, tmp_path: Path):
    """With the real vocabulary it is a Qwen3-Embedding: 32 to all dims, and an instruction template."""
    metadata = read_header(convert_checkpoint(qwen3_checkpoint, tmp_path / "out.gguf", quant="Q4_0")).metadata
    assert (metadata["qgguf.mrl.min_dims"], metadata["qgguf.mrl.max_dims"]) == (32, 256)
    assert metadata["qgguf.instruction_template"] == "Instruct: {instruction}\nQuery:"


def test_dims_of_other_models_come_from_their_config(tmp_path: Path):
    """They are the possible ones of matryoshka_dimensions; without it there are no keys."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    metadata = metadata_of(checkpoint)
    assert not [key for key in metadata if key.startswith("qgguf.mrl.") or key == "qgguf.instruction_template"]
    edit(checkpoint / "config.json", matryoshka_dimensions=[96, 32, 64, 9999, "x"])
    metadata = metadata_of(checkpoint)
    assert (metadata["qgguf.mrl.min_dims"], metadata["qgguf.mrl.max_dims"]) == (32, 96)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_is_read_in_both_formats(pooling: str, tmp_path: Path):
    """sentence-transformers writes one flag per mode, or one word since version 5."""
    checkpoint = make_bert_checkpoint(tmp_path / "model", pooling=pooling)
    assert read_spec(convert_checkpoint(checkpoint, tmp_path / "a.gguf")).pooling is Pooling[pooling.upper()]
    config = {"embedding_dimension": 96, "pooling_mode": pooling, "include_prompt": True}
    (checkpoint / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert read_spec(convert_checkpoint(checkpoint, tmp_path / "b.gguf")).pooling is Pooling[pooling.upper()]


def test_pooling_of_the_user_overrides(tmp_path: Path):
    """It is for a folder without the files of sentence-transformers."""
    checkpoint = make_bert_checkpoint(tmp_path / "model", pooling=None)
    assert read_spec(convert_checkpoint(checkpoint, tmp_path / "a.gguf", pooling="CLS")).pooling is Pooling.CLS


def test_end_token_is_that_of_the_template(tmp_path: Path):
    """It is not the eos of tokenizer_config.json, which ends a turn of a chat, nor that of config.json."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", **SMALL)
    edit(checkpoint / "config.json", eos_token_id=7)
    metadata = metadata_of(checkpoint)
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokens[metadata["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"
    assert tokens[metadata["tokenizer.ggml.eot_token_id"]] == "<|im_end|>"
    assert metadata["tokenizer.ggml.add_eos_token"] and not metadata["tokenizer.ggml.add_bos_token"]
    (checkpoint / "tokenizer_config.json").unlink()
    assert tokens[metadata_of(checkpoint)["tokenizer.ggml.eos_token_id"]] == "<|endoftext|>"


def test_missing_end_token_is_recorded(tmp_path: Path):
    """A fine-tune saved without the template was trained without the token."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", **SMALL)
    edit(checkpoint / "tokenizer.json", post_processor={"type": "ByteLevel", "trim_offsets": False})
    metadata = metadata_of(checkpoint)
    assert metadata["tokenizer.ggml.add_eos_token"] is False


def test_bert_without_tokenizer_config_is_complete(tmp_path: Path):
    """All special tokens are found in tokenizer.json; the older form of post-processor gives the same."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    usual = metadata_of(checkpoint)
    (checkpoint / "tokenizer_config.json").unlink()
    assert metadata_of(checkpoint) == usual
    edit(
        checkpoint / "tokenizer.json",
        post_processor={"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    )
    # The file keeps the post-processor as it is.
    assert metadata_of(checkpoint) | {keys.TOKENIZER: ""} == usual | {keys.TOKENIZER: ""}


def test_rows_without_a_token_get_names(tmp_path: Path):
    """llama.cpp needs a name for each row of the embedding, also beyond the tokens of the tokenizer."""
    checkpoint = make_bert_checkpoint(tmp_path / "model", vocab_size=200)
    metadata = metadata_of(checkpoint)
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == 200
    assert metadata["tokenizer.ggml.tokens"][199] == "▁[PAD199]" and metadata["tokenizer.ggml.token_type"][199] == 5


@pytest.mark.parametrize(("key", "value"), [("lowercase", False), ("strip_accents", False), ("strip_accents", True)])
def test_lower_casing_of_the_normalizer_is_copied(key: str, value: bool, tmp_path: Path):
    """A cased model must not be lower-cased."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"][key] = value
    edit(checkpoint / "tokenizer.json", **tokenizer)
    assert metadata_of(checkpoint)[f"tokenizer.ggml.normalizer.{key}"] is value


def test_merges_of_both_formats_are_equal(tmp_path: Path):
    """Newer files have pairs, older ones texts."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", **SMALL)
    pairs = metadata_of(checkpoint)["tokenizer.ggml.merges"]
    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    edit(checkpoint / "tokenizer.json", **tokenizer)
    assert metadata_of(checkpoint)["tokenizer.ggml.merges"] == pairs


def test_rope_of_newer_configs_is_read(tmp_path: Path):
    """transformers 5 keeps rope_theta inside rope_parameters."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", **SMALL)
    edit(
        checkpoint / "config.json",
        rope_theta=None,
        rope_scaling=None,
        rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )
    assert metadata_of(checkpoint)["qwen3.rope.freq_base"] == 5e5


@pytest.mark.parametrize("card", ["---\n: [\n---\n", "---\nlicense: {a: 1}\nname: 7\ntags: [1, 2]\n---", "\ud83d", ""])
def test_invalid_model_card_loses_only_its_own_values(card: str, tmp_path: Path):
    """Unusable values of the card are left out, and the model still gets its name."""
    checkpoint = make_bert_checkpoint(tmp_path / "Some-Model-v2")
    (checkpoint / "README.md").write_bytes(card.encode("utf-8", "surrogatepass"))
    assert read_spec(convert_checkpoint(checkpoint, tmp_path / "a.gguf")).name in ("Some-Model-v2", "Some Model v2")


# ---- where from, where to


def test_file_is_named_by_model_and_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is in the folder given, otherwise in the current one."""
    checkpoint = make_bert_checkpoint(tmp_path / "My-Encoder")
    monkeypatch.chdir(tmp_path)
    assert convert_checkpoint(checkpoint) == tmp_path / "my-encoder-Q4_K_M.gguf"
    assert convert_checkpoint(checkpoint, checkpoint, quant="iq4_nl") == checkpoint / "my-encoder-IQ4_NL.gguf"
    monkeypatch.chdir(checkpoint)
    assert convert_checkpoint(".", quant="F32").name == "my-encoder-F32.gguf"


def test_progress_ends_at_the_size_of_the_weights(tmp_path: Path):
    """The bytes done never decrease; the last report has all of them except the dropped head."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", **SMALL, shards=2, with_head=True)
    seen: list[tuple[int, int]] = []
    convert_checkpoint(checkpoint, tmp_path / "a.gguf", on_progress=lambda *now: seen.append(now))
    files = sorted(checkpoint.glob("*.safetensors"))
    total = sum(t.size_bytes for file in files for t in read_tensors(file) if t.name != "lm_head.weight")
    assert seen == sorted(seen) and seen[-1] == (total, total)


def test_a_repository_is_fetched_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The hub's folder and commit; what the hub does itself is tested there."""
    folder = make_bert_checkpoint(tmp_path / "snapshot")
    asked = []

    def fetch(*arguments: object) -> tuple[Path, str]:
        asked.append(arguments)
        return folder, "c0ffee"

    monkeypatch.setattr(hub, "fetch_checkpoint", fetch)
    monkeypatch.chdir(tmp_path)
    out = convert_checkpoint("someone/Some-Model", revision="v1", quant="Q8_0")
    metadata = read_header(out).metadata
    assert asked[0][:2] == ("someone/Some-Model", "v1") and out.name == "some-model-Q8_0.gguf"
    assert (metadata["qgguf.source.repo"], metadata["qgguf.source.revision"]) == ("someone/Some-Model", "c0ffee")


def test_path_that_is_not_a_checkpoint_is_refused(tmp_path: Path):
    """Refused are a file, a missing folder, and a revision of a folder."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        convert_checkpoint(tmp_path / "file")
    with pytest.raises(CheckpointError, match="There is no folder"):
        convert_checkpoint(tmp_path / "none")
    with pytest.raises(OptionError, match="revision"):
        convert_checkpoint(tmp_path, revision="main")


def test_the_script_converts(tmp_path: Path):
    """scripts/convert_hf_to_gguf.py runs the command under the name that llama.cpp uses."""
    checkpoint = make_bert_checkpoint(tmp_path / "model")
    command = [sys.executable, str(REPOSITORY / "scripts" / "convert_hf_to_gguf.py"), str(checkpoint)]
    out = tmp_path / "out.gguf"
    ran = subprocess.run([*command, "-o", str(out), "--quant", "Q8_0"], capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert read_spec(out).quantization == "Q8_0"
    again = subprocess.run([*command, "-o", str(out)], capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 1 and "exists already" in again.stderr and again.stderr.count("\n") == 1


# ---- the token limit

# What sentence-transformers 6 writes: no max_seq_length.
ST6_TRANSFORMER = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def test_limit_of_minilm_saved_by_sentence_transformers_6_is_kept(minilm_checkpoint: Path, tmp_path: Path):
    """max_seq_length 256 is model_max_length of tokenizer_config.json there; the model has 512 positions."""
    folder = tmp_path / "st6"
    folder.mkdir()
    for path in minilm_checkpoint.iterdir():
        (folder / path.name).symlink_to(path)
    for name, content in (
        ("sentence_bert_config.json", ST6_TRANSFORMER),
        ("tokenizer_config.json", {"model_max_length": 256, "tokenizer_class": "BertTokenizer", "max_length": 128}),
    ):
        (folder / name).unlink()
        (folder / name).write_text(json.dumps(content))
    path = convert_checkpoint(folder, tmp_path / "st6.gguf", quant="Q4_0")
    assert read_spec(path).max_tokens == 256


@pytest.mark.parametrize(
    ("tokenizer", "transformer", "expected"),
    [
        ({"model_max_length": 48}, None, 48),
        ({"model_max_length": 48.0}, {}, 48),
        ({"model_max_length": 48}, {"max_seq_length": 32}, 32),
        ({"model_max_length": 48}, {"max_seq_length": None}, 48),
        ({"model_max_length": 32}, {"max_seq_length": 48}, 48),
        ({"model_max_length": 32}, {"max_seq_length": 48, "processor_kwargs": {"model_max_length": 40}}, 40),
        ({"model_max_length": 32}, {"tokenizer_args": {"model_max_length": 40}}, 40),
        ({"model_max_length": 32}, {"processor_kwargs": {"padding_side": "left"}}, 32),
        ({"max_len": 48}, None, 48),
        ({"model_max_length": 64}, None, None),
        ({"model_max_length": 512}, None, None),
        ({"model_max_length": 1e30}, ST6_TRANSFORMER, None),
        ({"model_max_length": 1000000000000000019884624838656}, None, None),
        ({"model_max_length": float("inf")}, None, None),
        ({"model_max_length": None}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
    ids=str,
)
def test_limit_is_that_of_sentence_transformers(
    tokenizer: dict | None, transformer: dict | None, expected: int | None, tmp_path: Path
):
    """The Transformer's own file, else the smaller of the tokenizer's limit and the 64 positions (None: these)."""
    bert = make_bert_checkpoint(tmp_path / "model", layers=1, positions=64)
    (bert / "tokenizer_config.json").unlink()
    for name, content in (("tokenizer_config.json", tokenizer), ("sentence_bert_config.json", transformer)):
        if content is not None:
            (bert / name).write_text(json.dumps(content))
    assert metadata_of(bert).get("qgguf.max_tokens") == expected


def test_limit_of_an_older_name_is_read(tmp_path: Path):
    """The first releases named the file by the model's type."""
    bert = make_bert_checkpoint(tmp_path / "model", layers=1)
    (bert / "sentence_distilbert_config.json").write_text('{"max_seq_length": 32}')
    assert metadata_of(bert)["qgguf.max_tokens"] == 32
