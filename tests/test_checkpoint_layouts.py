"""Checkpoints as older and newer programs save them: read as they are, or refused with advice that works."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import BertWordPieceTokenizer

from qgguf import Embedder, convert_checkpoint
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.vocab_file import read_tokenizer
from qgguf.errors import CheckpointError, ModelFileError
from qgguf.gguf_format.reader import read_header
from tests.support.bert_checkpoints import make_bert_checkpoint
from tests.support.checkpoints import make_qwen3_checkpoint
from tests.support.hub_server import Repo, serve
from tests.support.processes import ask_hub
from tests.support.texts import GOLDEN

SMALL = {"small_vocab": True, "layers": 2, "dims": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 96}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 90868376\n"


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_bert_checkpoint(tmp_path / "model", layers=1)


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def converted(checkpoint: Path, name: str = "out") -> Path:
    return convert_checkpoint(checkpoint, checkpoint.parent / f"{name}.gguf", quant="F32", force=True)


def into_old_layout(checkpoint: Path) -> Path:
    """Move the Transformer's files to 0_Transformer, as sentence-transformers 0.x and 1.x save them."""
    inner = checkpoint / "0_Transformer"
    inner.mkdir()
    for path in list(checkpoint.iterdir()):
        if path.is_file() and path.name not in ("modules.json", "config_sentence_transformers.json"):
            path.rename(inner / path.name)
    edit(checkpoint / "modules.json", lambda modules: modules[0].update(path="0_Transformer"))
    return checkpoint


def refusal(checkpoint: Path) -> str:
    """The message of the refused conversion: one line, and nothing was written."""
    with pytest.raises(CheckpointError) as caught:
        converted(checkpoint)
    assert "\n" not in str(caught.value)
    assert not list(checkpoint.parent.glob("*.gguf*"))
    return str(caught.value)


# The Transformer in a subfolder


@pytest.mark.parametrize("written", ["0_Transformer", "0_Transformer/", "./0_Transformer"])
def test_transformer_in_a_subfolder_is_read(written: str, bert: Path):
    """The file is that of the same checkpoint in one folder; prompts and pooling are read from the top."""
    (bert / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "é: "}}))
    (bert / "sentence_bert_config.json").write_text('{"max_seq_length": 48}')
    plain = converted(bert, "plain").read_bytes()
    into_old_layout(bert)
    edit(bert / "modules.json", lambda modules: modules[0].update(path=written))
    assert converted(bert, "old").read_bytes() == plain


def test_module_of_the_first_releases_is_a_transformer(bert: Path):
    """They named the Transformer "BERT", in "0_BERT"."""
    plain = converted(bert, "plain").read_bytes()
    into_old_layout(bert).joinpath("0_Transformer").rename(bert / "0_BERT")
    edit(
        bert / "modules.json",
        lambda modules: modules[0].update(path="0_BERT", type="sentence_transformers.models.BERT"),
    )
    assert converted(bert, "old").read_bytes() == plain


def test_missing_subfolder_is_named(bert: Path):
    """modules.json names a folder that is not there."""
    edit(bert / "modules.json", lambda modules: modules[0].update(path="0_BERT"))
    assert f"{bert / '0_BERT'} has no model.safetensors" in refusal(bert)


def test_model_card_of_the_old_layout_is_read(bert: Path):
    """README.md is at the top, not beside the weights."""
    into_old_layout(bert)
    (bert / "README.md").write_text("---\nlicense: apache-2.0\n---\n# é 한 😉\n", encoding="utf-8")
    assert read_header(converted(bert)).metadata["general.license"] == "apache-2.0"


# config.json


@pytest.mark.parametrize("architectures", [[], None, "gone"])
def test_model_type_decides_without_architectures(architectures: object, bert: Path, tmp_path: Path):
    """transformers loads such a checkpoint too; the file is the same."""
    qwen3 = [make_qwen3_checkpoint(tmp_path / "qwen3-embedding-small", **SMALL)] if architectures == "gone" else []
    for checkpoint in (bert, *qwen3):
        plain = converted(checkpoint, "plain").read_bytes()

        def change(config: dict[str, Any]) -> None:
            config.update(architectures=architectures)
            if architectures == "gone":
                del config["architectures"]

        edit(checkpoint / "config.json", change)
        assert converted(checkpoint, "other").read_bytes() == plain


def test_unknown_model_type_is_named(bert: Path):
    """It is named with the architectures that can be converted; a file with neither key is another message."""
    edit(bert / "config.json", lambda config: (config.pop("architectures"), config.update(model_type="roberta")))
    assert re.search(r"'roberta'.*cannot be converted.*BertModel", refusal(bert))
    edit(bert / "config.json", lambda config: config.pop("model_type"))
    assert "neither architectures nor model_type" in refusal(bert)


# The index of shards


def test_index_may_name_a_tied_head(tmp_path: Path):
    """lm_head.weight of a tied model is listed and not stored: an embedding does not need it."""
    plain = make_qwen3_checkpoint(tmp_path / "plain", shards=2, **SMALL)
    other = tmp_path / "other" / "plain"
    shutil.copytree(plain, other)
    edit(
        other / "model.safetensors.index.json",
        lambda index: index["weight_map"].update({"lm_head.weight": "model-00002-of-00002.safetensors"}),
    )
    assert converted(other).read_bytes() == converted(plain).read_bytes()


def test_index_may_name_heads_of_bert(tmp_path: Path):
    """Pooler and language-model head too, under the prefix; a tensor that is needed must be stored."""
    checkpoint = make_bert_checkpoint(tmp_path / "model", layers=1, shards=2, prefix="bert.")
    index = checkpoint / "model.safetensors.index.json"
    shard = "model-00001-of-00002.safetensors"
    names = ("bert.pooler.dense.weight", "cls.predictions.decoder.weight", "bert.embeddings.position_ids")
    edit(index, lambda content: content["weight_map"].update(dict.fromkeys(names, shard)))
    assert converted(checkpoint).exists()
    (tmp_path / "out.gguf").unlink()
    edit(index, lambda content: content["weight_map"].update({"bert.encoder.layer.7.output.dense.bias": shard}))
    assert "disagree on bert.encoder.layer.7.output.dense.bias" in refusal(checkpoint)


# vocab.txt


def with_vocabulary(folder: Path, vocabulary: dict[str, int], **config: Any) -> Path:
    """A folder with vocab.txt, and tokenizer_config.json where there are settings."""
    folder.mkdir(exist_ok=True)
    lines = sorted(vocabulary, key=vocabulary.__getitem__)
    (folder / "vocab.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def vocabulary_of(checkpoint: Path) -> dict[str, int]:
    return json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]


@pytest.mark.parametrize(
    "settings",
    [{}, {"do_lower_case": False}, {"strip_accents": False}, {"do_lower_case": False, "strip_accents": True}],
    ids=str,
)
def test_vocab_txt_gives_the_ids_of_the_reference(settings: dict, minilm_checkpoint: Path, tmp_path: Path):
    """Ids of the converted file equal those of BertWordPieceTokenizer with the settings of tokenizer_config.json."""
    checkpoint = make_bert_checkpoint(tmp_path / "model", layers=1, positions=512, vocab_size=30522)
    (checkpoint / "tokenizer.json").unlink()
    shutil.copy(minilm_checkpoint / "vocab.txt", checkpoint)
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = BertWordPieceTokenizer(
        str(minilm_checkpoint / "vocab.txt"),
        lowercase=settings.get("do_lower_case", True),
        strip_accents=settings.get("strip_accents"),
    )
    with Embedder(converted(checkpoint)) as model:
        for text in [*GOLDEN, "Ünïcode É 한국어 😉 中文", "x" * 101, "", "  "]:
            assert model.token_ids(text) == theirs.encode(text).ids, text


def test_vocab_txt_gives_the_same_file_as_tokenizer_json(minilm_checkpoint: Path, tmp_path: Path):
    """Values and vocabulary of MiniLM without its tokenizer.json are those with it."""
    folder = tmp_path / minilm_checkpoint.name
    folder.mkdir()
    for path in minilm_checkpoint.iterdir():
        (folder / path.name).symlink_to(path)
    headers = []
    for name in ("with", "without"):
        headers.append(read_header(convert_checkpoint(folder, tmp_path / f"{name}.gguf", quant="Q4_0")))
        (folder / "tokenizer.json").unlink(missing_ok=True)
    assert dict(headers[0].metadata) == dict(headers[1].metadata)


def test_tokens_added_beside_vocab_txt_are_read(bert: Path):
    """Those of added_tokens.json and of added_tokens_decoder, with their flags."""
    vocabulary = vocabulary_of(bert)
    n_tokens = len(vocabulary)
    decoder = {str(n_tokens + 1): {"content": "c++", "lstrip": True, "normalized": False, "special": False}}
    with_vocabulary(bert, vocabulary, added_tokens_decoder=decoder, sep_token={"content": "[SEP]"})
    (bert / "added_tokens.json").write_text(json.dumps({"[ENT]": n_tokens}))
    (bert / "tokenizer.json").unlink()
    added = {token["content"]: token for token in read_tokenizer(Checkpoint(bert, "model"))["added_tokens"]}
    assert added["[CLS]"]["special"] and not added["[CLS]"]["normalized"]
    assert added["[ENT]"] == {
        "id": n_tokens, "content": "[ENT]", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": True, "special": False,
    }  # fmt: skip
    assert (added["c++"]["id"], added["c++"]["lstrip"], added["c++"]["normalized"]) == (n_tokens + 1, True, False)


def test_lines_of_vocab_txt_are_those_of_python(tmp_path: Path):
    """CRLF ends a line; a line separator, a no-break space or a blank line is a token, and a last repeat wins."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "\u2028", "a\u00a0", "é", "", "é", "한", "😉"]
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(names).encode())
    vocabulary = read_tokenizer(Checkpoint(tmp_path, "model"))["model"]["vocab"]
    assert vocabulary == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "vocab.txt").unlink(), r"no tokenizer\.json and no vocab\.txt\. Give a complete"),
        (lambda folder: (folder / "vocab.txt").rename(folder / "vocab.json"), r"AutoTokenizer\.from_pretrained"),
        (
            lambda folder: (folder / "vocab.txt").rename(folder / "spiece.model"),
            "spiece.model, of SentencePiece.*GGUF file",
        ),
        (
            lambda folder: edit(folder / "config.json", lambda c: c.update(tokenizer_class="BertJapaneseTokenizer")),
            "Jap",
        ),
        (
            lambda folder: edit(folder / "tokenizer_config.json", lambda c: c.update(tokenizer_class="KoBert")),
            "'KoBert'",
        ),
        (
            lambda folder: (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n▁é\n한\n", encoding="utf-8"),
            "vocabulary of SentencePiece",
        ),
        (lambda folder: (folder / "vocab.txt").write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda folder: (folder / "vocab.txt").write_bytes(b""), r"lacks the token '\[UNK\]'"),
        (lambda folder: (folder / "vocab.txt").write_bytes(POINTER), "git-lfs pointer"),
        (lambda folder: edit(folder / "tokenizer_config.json", lambda c: c.update(cls_token="<s>")), "'<s>'"),
        (
            lambda folder: edit(folder / "tokenizer_config.json", lambda c: c.update(do_basic_tokenize=False)),
            "do_basic",
        ),
        (lambda folder: edit(folder / "tokenizer_config.json", lambda c: c.update(do_lower_case="no")), "'no'"),
        (lambda folder: (folder / "added_tokens.json").write_text('{"[ENT]": "a"}'), "added_tokens"),
    ],
)
def test_vocab_txt_that_cannot_be_used_is_refused(change: Callable[[Path], Any], message: str, bert: Path):
    """The message names the file and the setting."""
    with_vocabulary(bert, vocabulary_of(bert), do_lower_case=True)
    (bert / "tokenizer.json").unlink()
    change(bert)
    assert re.search(message, refusal(bert))


# Pickled weights


def test_pickled_weights_get_a_command_that_makes_safetensors(bert: Path):
    """The command of the message, run in the folder, makes a checkpoint that converts to the same vectors."""
    safetensors = pytest.importorskip("safetensors.torch")
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with Embedder(converted(bert)) as model:
        expected = model.encode("é 한 😉")
    (bert.parent / "out.gguf").unlink()
    torch.save(safetensors.load_file(bert / "model.safetensors"), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    command = re.search(r'python -c "(.*)"', refusal(bert))
    assert command
    subprocess.run([sys.executable, "-c", command[1]], cwd=bert, check=True)
    with Embedder(converted(bert)) as model:
        assert abs(model.encode("é 한 😉") - expected).max() < 1e-6


def test_command_for_pickled_weights_is_python(bert: Path):
    """It can be pasted into a shell of any system: one line, no quotes inside the quotes."""
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    command = re.search(r'python -c "([^"$`\\]*)"$', refusal(bert))
    assert command
    compile(command[1], "command", "exec")


# git-lfs pointers


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "config.json", "modules.json", "1_Pooling/config.json"]
)
def test_lfs_pointer_in_a_checkpoint_is_named(name: str, bert: Path):
    """The message names the file and the commands; with the file itself the conversion works."""
    whole = (bert / name).read_bytes()
    (bert / name).write_bytes(POINTER)
    message = refusal(bert)
    assert f"{bert / name} is a git-lfs pointer" in message and message.endswith("git lfs install && git lfs pull")
    (bert / name).write_bytes(whole)
    assert converted(bert).exists()


@pytest.mark.skipif(not shutil.which("git-lfs") or os.name == "nt", reason="git-lfs is not installed")
def test_commands_for_a_pointer_fetch_the_file(bert: Path, tmp_path: Path):
    """A clone that was made without git-lfs has pointers; the commands of the message make it a checkpoint."""
    (tmp_path / "home").mkdir()
    settings = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home"), "GIT_CONFIG_NOSYSTEM": "1"}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")} | settings

    def shell(command: str, folder: Path) -> None:
        subprocess.run(command, shell=True, cwd=folder, env=environment, check=True, capture_output=True)

    author = "git -c user.name=é -c user.email=a@b.c"
    shell("git init -q && git lfs install --local && git lfs track '*.safetensors' tokenizer.json", bert)
    shell(f"git add . && {author} commit -qm 한", bert)
    shell("git clone -q model clone", tmp_path)
    clone = tmp_path / "clone"
    assert (clone / "model.safetensors").read_bytes().startswith(POINTER[:40])
    command = re.search(r"Run in that folder: (.*)", refusal(clone))
    assert command
    shell(command[1], clone)
    assert converted(clone).read_bytes()[:4] == b"GGUF"


def test_lfs_pointer_of_a_shard_is_named(tmp_path: Path):
    """One of several weight files."""
    checkpoint = make_qwen3_checkpoint(tmp_path / "model", shards=3, **SMALL)
    (checkpoint / "model-00002-of-00003.safetensors").write_bytes(POINTER)
    assert "model-00002-of-00003.safetensors is a git-lfs pointer" in refusal(checkpoint)


def test_lfs_pointer_as_a_model_is_named(tmp_path: Path):
    """A .gguf in a clone without its large files."""
    path = tmp_path / "é 한 😉.gguf"
    path.write_bytes(POINTER)
    with pytest.raises(ModelFileError, match=r"is a git-lfs pointer.*git lfs pull"):
        Embedder(path)


# The hub


def files_of(checkpoint: Path) -> dict[str, bytes]:
    return {
        path.relative_to(checkpoint).as_posix(): path.read_bytes() for path in checkpoint.rglob("*") if path.is_file()
    }


def test_old_layout_with_vocab_txt_is_fetched_from_the_hub(bert: Path, tmp_path: Path):
    """The subfolder's files and vocab.txt are among those that are downloaded."""
    expected = converted(bert).read_bytes()
    with_vocabulary(bert, vocabulary_of(bert), do_lower_case=True)
    (bert / "tokenizer.json").unlink()
    assert converted(bert, "here").read_bytes() == expected
    into_old_layout(bert)
    with serve() as hub:
        hub.repos["me/old"] = Repo(files_of(bert))
        out = tmp_path / "fetched.gguf"
        call = f"str(__import__('qgguf').convert_checkpoint('me/old', {str(out)!r}, quant='F32'))"
        assert ask_hub(call, tmp_path / "home", hub.url) == {"answer": str(out), "stderr": ""}
    theirs, ours = read_header(out), read_header(bert.parent / "here.gguf")
    assert theirs.metadata["tokenizer.ggml.tokens"] == ours.metadata["tokenizer.ggml.tokens"]
    assert [tensor.name for tensor in theirs.tensors] == [tensor.name for tensor in ours.tensors]


@pytest.mark.parametrize("extra", [{}, {"2_Dense/model.safetensors": b"x"}, {"onnx/model.safetensors": b"x"}], ids=str)
def test_pickled_weights_on_the_hub_get_all_commands(extra: dict[str, bytes], bert: Path, tmp_path: Path):
    """Download, save, convert: nothing is downloaded before, also where another module has safetensors."""
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with serve() as hub:
        hub.repos["me/m"] = Repo(files_of(bert) | extra)
        answer = ask_hub("__import__('qgguf').convert_checkpoint('me/m')", tmp_path, hub.url)
        assert hub.sent_bytes == 0
    assert answer["error"] == "ModelNotFoundError" and "pickled weights only" in answer["message"]
    expected = r'hf download me/m --local-dir m\. In m, with .*python -c ".*"\. Then: qgguf convert m$'
    assert re.search(expected, answer["message"])


def test_pickled_weights_of_the_old_layout_are_saved_in_their_folder(bert: Path, tmp_path: Path):
    """The command is to be run where the weights are, on the hub as on the disk."""
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    into_old_layout(bert)
    assert refusal(bert).startswith(f"{bert / '0_Transformer'} has no model.safetensors.")
    with serve() as hub:
        hub.repos["me/m"] = Repo(files_of(bert))
        answer = ask_hub("__import__('qgguf').convert_checkpoint('me/m')", tmp_path, hub.url)
    assert "--local-dir m. In m/0_Transformer, with torch" in answer["message"]
