"""What cannot be converted rightly is refused in one line, and nothing is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qgguf.convert.converter import convert_checkpoint
from qgguf.errors import CheckpointError, OptionError, OutputError, OutputExistsError, QgError
from tests.support.bert_checkpoints import bert_tensors, make_bert_checkpoint
from tests.support.checkpoints import as_dtype, make_qwen3_checkpoint, write_safetensors

SMALL = {"small_vocab": True, "layers": 2, "dims": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 96}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both checkpoints, made once; each test gets a copy that it may damage."""
    folder = tmp_path_factory.mktemp("made")
    make_bert_checkpoint(folder / "bert", layers=1)
    make_qwen3_checkpoint(folder / "qwen3", **SMALL)
    return folder


@pytest.fixture
def bert(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "bert", tmp_path / "model"))


@pytest.fixture
def qwen3(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "qwen3", tmp_path / "model"))


def refused(checkpoint: Path, message: str, kind: type[QgError] = CheckpointError, **options: Any) -> None:
    """Assert that the conversion fails with that message, in one line, and leaves the folder unchanged."""
    out = checkpoint.parent / "out.gguf"
    with pytest.raises(kind, match=message) as caught:
        convert_checkpoint(checkpoint, options.pop("out", out), **options)
    assert "\n" not in str(caught.value)
    assert not list(checkpoint.parent.glob("*.gguf*"))


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Change values of a JSON file."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_config(checkpoint: Path, **changes: Any) -> None:
    edit(checkpoint / "config.json", lambda config: config.update(changes))


def edit_weights(checkpoint: Path, change: Callable[[dict[str, np.ndarray]], None], dtype: str = "F32") -> None:
    """Write BERT's weights anew, changed."""
    tensors = bert_tensors(json.loads((checkpoint / "config.json").read_text()), 0, False)
    change(tensors)
    stored = {name: as_dtype(weights, dtype) for name, weights in tensors.items()}
    write_safetensors(checkpoint / "model.safetensors", stored, dtype)


# ---- the configuration


@pytest.mark.parametrize(
    "architectures", [["LlamaForCausalLM"], 7, [7], "Qwen3Model", ["BertForSequenceClassification"]]
)
def test_unknown_architecture_is_refused(architectures: object, bert: Path):
    """The message lists the architectures that can be converted."""
    edit_config(bert, architectures=architectures)
    refused(bert, "cannot be converted.*Qwen3ForCausalLM.*BertModel")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, "'linear'"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "'dynamic'"),
        ({"rope_scaling": "yarn"}, "yarn"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "4096"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"layer_types": 7}, "wrong kind"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"is_causal": False}, "not causal"),
        ({"use_bidirectional_attention": True}, "not causal"),
        ({"num_key_value_heads": 0}, "wrong kind"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "multiple"),
        ({"num_attention_heads": "two"}, "wrong kind"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"num_hidden_layers": 3}, r"lacks 11 \(layers\.2\.input_layernorm\.weight"),
        ({"num_hidden_layers": 1}, r"has 11 \(layers\.1\.input_layernorm\.weight.*unknown"),
        ({"num_hidden_layers": 2_000_000_000}, "2000000000 layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers -1"),
        ({"num_hidden_layers": True}, "num_hidden_layers True"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"rms_norm_eps": 0}, "rms_norm_eps 0"),
        ({"rope_theta": "NaN"}, "rope_theta 'NaN'"),
        ({"rope_theta": float("nan")}, "rope_theta nan"),
    ],
)
def test_qwen3_configuration_that_changes_vectors_is_refused(change: dict, message: str, qwen3: Path):
    """The message names the setting and its value."""
    edit_config(qwen3, **change)
    refused(qwen3, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "'relu'"),
        ({"position_embedding_type": "relative_key"}, "'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"embedding_size": 32}, "embedding_size"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"hidden_size": 95, "num_attention_heads": 5}, r"makes it \[\d+, 95\]"),
        ({"max_position_embeddings": 63}, r"as \[64, 96\], config.json makes it \[63, 96\]"),
    ],
)
def test_bert_configuration_that_changes_vectors_is_refused(change: dict, message: str, bert: Path):
    """The message names the setting and its value."""
    edit_config(bert, **change)
    refused(bert, message)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json"])
def test_missing_file_is_named(name: str, bert: Path):
    """A conversion needs each of these files."""
    (bert / name).unlink()
    refused(bert, f"has no {name}".replace(".", r"\."))


# ---- the weights


def test_missing_tensor_is_refused(bert: Path):
    """The message has its usual name."""
    edit_weights(bert, lambda tensors: tensors.pop("encoder.layer.0.output.dense.bias"))
    refused(bert, r"lacks 1 \(encoder\.layer\.0\.output\.dense\.bias\)")


def test_unknown_tensor_is_refused(bert: Path):
    """It belongs to an adapter or to another architecture."""
    edit_weights(bert, lambda tensors: tensors.update({"lora_A.weight": np.zeros((2, 2), np.float32)}))
    refused(bert, r"has 1 \(lora_A\.weight\) that are unknown")


def test_tensor_with_two_names_is_refused(bert: Path):
    """It is there with and without the prefix, and either may be right."""
    name = "encoder.layer.0.output.dense.bias"
    edit_weights(bert, lambda tensors: tensors.update({"bert." + name: tensors[name]}))
    refused(bert, "twice")


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["encoder.layer.0.output.dense.weight", "encoder.layer.0.output.LayerNorm.bias"])
def test_weights_that_are_not_finite_are_refused(dtype: str, bad: float, name: str, bert: Path):
    """The tensor is named; one number is enough, also in a tensor that is copied unchanged."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].ravel()[tensors[name].size // 2] = bad

    edit_weights(bert, change, dtype)
    for quant in ("Q4_K_M", dtype):
        refused(bert, f"NaN or infinity in '{name}'", quant=quant)


def test_weights_too_large_for_the_type_are_refused(bert: Path):
    """100000 does not fit F16; the message names a type that does."""

    def change(tensors: dict[str, np.ndarray]) -> None:
        tensors["encoder.layer.0.output.dense.weight"][3, 5] = 1e5

    edit_weights(bert, change)
    refused(bert, "too large.*BF16", quant="F16")
    assert convert_checkpoint(bert, bert / "out.gguf", quant="BF16").exists()


def test_quantised_weights_are_refused(bert: Path):
    """Integers are a quantisation that is not known."""
    edit_weights(bert, lambda tensors: None)
    raw = (bert / "model.safetensors").read_bytes()
    (bert / "model.safetensors").write_bytes(raw.replace(b'"dtype":"F32"', b'"dtype":"I32"', 1))
    refused(bert, "as I32. Give the original")


def test_weight_file_cut_short_is_refused(bert: Path):
    """A broken download leaves such a file."""
    os.truncate(bert / "model.safetensors", 100_000)
    refused(bert, "cut short")


# ---- the tokenizer


TOKENIZER_CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pre-tokenizer": (lambda t: t.update(pre_tokenizer={"type": "Whitespace"}), "pre_tokenizer is"),
    "no pre-tokenizer": (lambda t: t.update(pre_tokenizer=None), "pre_tokenizer is"),
    "normalizer": (lambda t: t.update(normalizer={"type": "NFKC"}), "normalizer is NFKC"),
    "no normalizer": (lambda t: t.pop("normalizer"), "normalizer is absent"),
    "no vocabulary": (lambda t: t["model"].pop("vocab"), "no vocabulary"),
    "vocabulary of a list": (lambda t: t["model"].update(vocab=[["a", 0.1]]), "no vocabulary"),
    "id too high": (lambda t: t["model"]["vocab"].update({"한": 99999}), "ids up to 99999.*vocab_size"),
    "id below zero": (lambda t: t["model"]["vocab"].update({"xyz": -1}), "ids up to"),
    "id of text": (lambda t: t["model"]["vocab"].update({"xyz": "a"}), "no number"),
    "id used twice": (lambda t: t["model"]["vocab"].update({"xyz": 5}), "one id to two tokens"),
    "added token unreadable": (lambda t: t["added_tokens"].append({"id": 3}), "added_tokens"),
    "added token elsewhere": (lambda t: t["added_tokens"].append({"id": 9, "content": "xyz"}), "two ids"),
    "model": (lambda t: t["model"].update(type="WordLevel"), "'WordLevel' tokenizer"),
    "Unigram": (
        lambda t: t.update(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁é", -1.5]]}),
        "'Unigram' tokenizer.*cannot be converted.*GGUF file",
    ),
    "Unigram without type": (
        lambda t: t.update(model={"unk_id": 0, "vocab": [["<unk>", 0.0], ["▁é", -1.5]]}),
        "'Unigram' tokenizer.*cannot be converted.*GGUF file",
    ),
    "post-processor": (lambda t: t.update(post_processor={"type": "RobertaProcessing"}), "'RobertaProcessing'"),
    "surrogate": (lambda t: t["model"]["vocab"].update({"\ud83d": t["model"]["vocab"].pop("!")}), "surrogate"),
}


@pytest.mark.parametrize("family", ["bert", "qwen3"])
@pytest.mark.parametrize("change", TOKENIZER_CHANGES)
def test_tokenizer_unknown_to_llama_cpp_is_refused(family: str, change: str, request: pytest.FixtureRequest):
    """Every setting that changes tokens is known, or the checkpoint is refused."""
    checkpoint = request.getfixturevalue(family)
    how, message = TOKENIZER_CHANGES[change]
    edit(checkpoint / "tokenizer.json", how)
    refused(checkpoint, message)


def test_tokenizer_that_is_not_an_object_is_refused(bert: Path):
    """A list, where an object is needed."""
    (bert / "tokenizer.json").write_text("[1]")
    refused(bert, "not a JSON object")


def _template(*pieces: dict) -> Callable[[Any], Any]:
    return lambda t: t.update(post_processor={"type": "TemplateProcessing", "single": list(pieces), "pair": []})


TEXT, CLS, SEP = {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "[CLS]"}}, {"SpecialToken": {"id": "[SEP]"}}

BERT_CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "continuation": (lambda t: t["model"].update(continuing_subword_prefix="@@"), "'@@'"),
    "Chinese letters": (lambda t: t["normalizer"].update(handle_chinese_chars=False), "handle_chinese_chars"),
    "control letters": (lambda t: t["normalizer"].update(clean_text=False), "clean_text"),
    "no tokens around": (lambda t: t.update(post_processor=None), "no token before or after"),
    "nothing before": (_template(TEXT, SEP), "no token before or after"),
    "two before": (_template(CLS, CLS, TEXT, SEP), "around a text"),
    "two after": (_template(TEXT, SEP, SEP), "around a text"),
    "text twice": (_template(TEXT, SEP, TEXT), "around a text"),
    "piece unreadable": (_template(TEXT, {"X": 1}), "cannot be read"),
    "token not in the vocabulary": (_template({"SpecialToken": {"id": "<s>"}}, TEXT, SEP), "'<s>'"),
    "unknown token": (lambda t: t["model"].update(unk_token="<unk>"), "'<unk>'"),
    "twins": (lambda t: t["model"]["vocab"].update({"##▁a": t["model"]["vocab"].pop("map")}), "two tokens '▁a'"),
}


@pytest.mark.parametrize("change", BERT_CHANGES)
def test_wordpiece_unknown_to_llama_cpp_is_refused(change: str, bert: Path):
    """It splits, wraps or stores words in another way."""
    how, message = BERT_CHANGES[change]
    edit(bert / "tokenizer.json", how)
    refused(bert, message)


QWEN3_CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "pattern": (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\p{N}{1,3}"), "splits by"),
    "behaviour": (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "splits by"),
    "inverted": (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(invert=True), "splits by"),
    "prefix space": (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True), "prefix space"),
    "split twice": (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), "splits again"),
    "byte fallback": (lambda t: t["model"].update(byte_fallback=True), "byte_fallback"),
    "ignore merges": (lambda t: t["model"].update(ignore_merges=True), "ignore_merges"),
    "merge of three": (lambda t: t["model"]["merges"].append("a b c"), "'a b c'"),
    "merge of a number": (lambda t: t["model"]["merges"].append(3), "merge"),
}


@pytest.mark.parametrize("change", QWEN3_CHANGES)
def test_bpe_unknown_to_llama_cpp_is_refused(change: str, qwen3: Path):
    """It splits or merges in another way."""
    how, message = QWEN3_CHANGES[change]
    edit(qwen3 / "tokenizer.json", how)
    refused(qwen3, message)


# ---- the sentence-transformers files


def test_checkpoint_without_pooling_is_refused(bert: Path):
    """The message shows how to declare it."""
    (bert / "modules.json").unlink()
    refused(bert, "declares no pooling.*--pooling")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}], "Dense module"),
        ([{"type": "sentence_transformers.models.WordEmbeddings", "path": ""}], "WordEmbeddings module"),
        (
            [{"type": "sentence_transformers.models.Transformer", "path": "0_Transformer"}],
            r"0_Transformer has no model",
        ),
        ([{"type": "x.Transformer", "path": ""}, {"type": "x.Transformer", "path": "1_T"}], "several Transformers"),
        ([{"type": "x.Transformer", "path": "../model"}], "points out of its folder"),
        ([{"type": "sentence_transformers.models.Transformer", "path": ""}], "declares no pooling"),
        ([{"type": "x.Pooling", "path": "../../secret"}], "points out of its folder"),
        ([{"type": "x.Pooling", "path": "/etc"}], "points out of its folder"),
        ([{"type": 7}], "cannot be read"),
        ({"a": 1}, "cannot be read"),
        ([], "declares no pooling"),
    ],
)
def test_modules_that_a_gguf_cannot_express_are_refused(modules: object, message: str, bert: Path):
    """Refused are a Dense layer, an unknown module, none at all, and a path out of the folder."""
    (bert / "modules.json").write_text(json.dumps(modules))
    refused(bert, message)


def test_dense_module_is_refused_also_with_pooling(bert: Path):
    """--pooling does not change that."""
    edit(bert / "modules.json", lambda modules: modules.append({"type": "x.Dense", "path": "3_Dense"}))
    refused(bert, "Dense module", pooling="mean")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean, cls"),
        ({"pooling_mode_max_tokens": True}, "max_tokens"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode": ["mean", "cls"]}, "mean, cls"),
        ({}, "pooling none"),
        ({"pooling_mode": "lasttoken"}, "last does not go with"),
        ({"pooling_mode": "mean", "include_prompt": False}, "include_prompt"),
    ],
)
def test_poolings_unknown_to_llama_cpp_are_refused(config: dict, message: str, bert: Path):
    """Refused are two at once, others than mean, cls and last, and one that does not suit the architecture."""
    (bert / "1_Pooling" / "config.json").write_text(json.dumps(config))
    refused(bert, message)


def test_excluded_prompt_does_not_matter_to_cls_pooling(tmp_path: Path):
    """include_prompt=false changes only a mean."""
    bert = make_bert_checkpoint(tmp_path / "model", pooling="cls")
    edit(bert / "1_Pooling" / "config.json", lambda config: config.update(include_prompt=False))
    assert convert_checkpoint(bert, tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts"),
        ("config_sentence_transformers.json", {"prompts": {"query": 7}}, "prompts"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name"),
        ("sentence_bert_config.json", {"max_seq_length": "128"}, "max_seq_length"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length"),
        ("sentence_bert_config.json", {"max_seq_length": 1.5}, "max_seq_length"),
        ("sentence_bert_config.json", {"max_seq_length": True}, "max_seq_length"),
        ("tokenizer_config.json", {"model_max_length": "512"}, "model_max_length"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length"),
        ("tokenizer_config.json", {"model_max_length": float("nan")}, "model_max_length"),
    ],
)
def test_invalid_settings_are_refused(name: str, value: dict, message: str, bert: Path):
    """A wrong value is an error and not ignored."""
    (bert / name).write_text(json.dumps(value))
    refused(bert, message)


def test_lower_casing_that_the_tokenizer_lacks_is_refused(bert: Path):
    """do_lower_case is set with a cased tokenizer."""
    edit(bert / "tokenizer.json", lambda tokenizer: tokenizer["normalizer"].update(lowercase=False))
    (bert / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    refused(bert, "do_lower_case")


# ---- the options and the output


def test_invalid_options_are_refused(bert: Path):
    """Each message lists the valid values."""
    refused(bert, "Choose one of: F32", OptionError, quant="Q9")
    refused(bert, "Choose one of: F32", OptionError, token_embedding_type="Q9")
    refused(bert, "rows of 96.*multiple of 256", OptionError, token_embedding_type="Q4_K")
    refused(bert, "mean, cls, last", OptionError, pooling="max")
    for threads in (0, -1, 513, 2.0, True, 1 << 40, np.float64(2), np.True_):
        refused(bert, "from 1 to 512", OptionError, threads=threads)
    assert convert_checkpoint(bert, bert / "out.gguf", threads=np.int64(2)).exists()


@pytest.mark.parametrize("value", [None, 3, b"model", ["model"]])
def test_checkpoint_that_is_no_name_is_refused(value: object):
    """None, a number, bytes, a list."""
    with pytest.raises(CheckpointError, match="a repository"):
        convert_checkpoint(value)  # type: ignore[arg-type]


def test_missing_output_folder_is_refused(bert: Path):
    """It is not created: a typing error would leave folders."""
    refused(bert, "there is no folder", OutputError, out=bert.parent / "none" / "out.gguf")
    assert not (bert.parent / "none").exists()


def test_existing_output_is_replaced_only_by_force(bert: Path):
    """Without force it stays, with force it is replaced."""
    out = bert / "out.gguf"
    out.write_bytes("é 한 😉".encode())
    refused(bert, "exists already.*--force", OutputExistsError, out=out)
    assert out.read_bytes() == "é 한 😉".encode()
    assert convert_checkpoint(bert, out, force=True).read_bytes()[:4] == b"GGUF"


def test_weights_are_never_the_output(bert: Path):
    """They are refused as output, also with force."""
    before = (bert / "model.safetensors").read_bytes()
    refused(bert, "one of the weight files", OutputError, out=bert / "model.safetensors", force=True)
    assert (bert / "model.safetensors").read_bytes() == before


def test_full_disk_is_reported_before_anything_is_written(bert: Path, monkeypatch: pytest.MonkeyPatch):
    """The message has both numbers."""
    usage = shutil.disk_usage(bert)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    refused(bert, r"has 1\.0 kB free, the file needs [\d.]+ [kM]B", OutputError)
