"""The models on this machine, and checkpoints: listing, removing, fetching what a conversion reads."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import COMMIT, Hub, Repo, serve
from tests.support.processes import ask_hub

MODEL = b"GGUF \xec\x95\x88\xeb\x85\x95 \xf0\x9f\x98\x89 " * 200
NAMES = "[model.name for model in hub.list_models()]"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve() as running:
        running.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL, "m-F16.gguf": MODEL[::-1], "README.md": b"hi"})
        yield running


def blobs(home: Path, repo: str = "me--m") -> int:
    return len(list((home / f"hub/models--{repo}/blobs").glob("*")))


def test_models_of_cache_and_folders_are_listed_by_name(tmp_path: Path, hub: Hub):
    """The cache, ./models and the current folder; parts, projectors, other files and broken links are no models."""
    (tmp_path / "models").mkdir()
    for name in ["models/é 한 😉.gguf", "b.GGUF", "b-00001-of-00002.gguf", "mmproj-b.gguf", "b.gguf.part", "b.txt"]:
        (tmp_path / name).write_bytes(b"x")
    ask_hub("hub.resolve('me/m:Q8_0')", tmp_path, hub.url)
    (tmp_path / "hub/models--me--m/snapshots" / COMMIT / "gone.gguf").symlink_to("nowhere")
    names = ask_hub(NAMES, tmp_path, hub.url)["answer"]
    assert names == ["b.GGUF", "me/m/m-Q8_0.gguf", "models/é 한 😉.gguf"]
    hub.forget()
    for name in names:
        assert Path(tmp_path, ask_hub(f"hub.resolve({name!r})", tmp_path, hub.url)["answer"]).is_file()
    assert hub.requests == []


def test_an_empty_machine_has_no_models(tmp_path: Path, hub: Hub):
    """No cache folder at all is an empty list."""
    assert ask_hub(NAMES, tmp_path / "new", hub.url)["answer"] == []


def test_removing_one_file_keeps_its_neighbour(tmp_path: Path, hub: Hub):
    """Its bytes are gone, the other file of the same snapshot still works; with the last one the repository goes."""
    for quant in ("Q8_0", "F16"):
        ask_hub(f"hub.resolve('me/m:{quant}')", tmp_path, hub.url)
    assert blobs(tmp_path) == 2
    assert ask_hub("hub.remove('me/m/m-F16.gguf').size_bytes", tmp_path, hub.url)["answer"] == len(MODEL)
    assert blobs(tmp_path) == 1
    assert ask_hub(NAMES, tmp_path, hub.url)["answer"] == ["me/m/m-Q8_0.gguf"]
    ask_hub("hub.remove('me/m/m-Q8_0.gguf')", tmp_path, hub.url)
    assert not (tmp_path / "hub/models--me--m").exists()


def test_removing_takes_a_file_out_of_every_revision(tmp_path: Path, hub: Hub):
    """A name of the list means the file in each revision that is here; the repository's other files stay."""
    ask_hub("hub.resolve('me/m:Q8_0')", tmp_path, hub.url)
    hub.repos["me/m"] = Repo({"m-Q8_0.gguf": MODEL + b"new", "README.md": b"ho"}, commit="f" * 40)
    ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url)
    ask_hub("__import__('huggingface_hub').hf_hub_download('me/m', 'README.md')", tmp_path, hub.url)
    assert blobs(tmp_path) == 3
    ask_hub("hub.remove('me/m/m-Q8_0.gguf')", tmp_path, hub.url)
    assert ask_hub(NAMES, tmp_path, hub.url)["answer"] == []
    assert blobs(tmp_path) == 1
    scan = "[str(warning) for warning in __import__('huggingface_hub').scan_cache_dir().warnings]"
    assert ask_hub(scan, tmp_path, hub.url)["answer"] == []


def test_a_blob_that_another_revision_shows_stays(tmp_path: Path, hub: Hub):
    """Two names of one file's bytes: removing one name keeps the bytes for the other."""
    hub.repos["me/m"] = Repo({"a-Q8_0.gguf": MODEL, "b-F16.gguf": MODEL})
    for quant in ("Q8_0", "F16"):
        ask_hub(f"hub.resolve('me/m:{quant}')", tmp_path, hub.url)
    assert blobs(tmp_path) == 1
    ask_hub("hub.remove('me/m/a-Q8_0.gguf')", tmp_path, hub.url)
    hub.forget()
    path = ask_hub("hub.resolve('me/m/b-F16.gguf')", tmp_path, hub.url)["answer"]
    assert Path(path).read_bytes() == MODEL and hub.requests == []


@pytest.mark.parametrize("name", ["../keep.gguf", "keep.gguf", "me/m", "", "/etc/hostname", "models"])
def test_nothing_is_removed_but_what_is_listed(name: str, tmp_path: Path, hub: Hub):
    """A path, a repository or a folder is no name of the list."""
    (tmp_path / "keep.gguf").write_bytes(b"x")
    home = tmp_path / "home"
    answer = ask_hub(f"hub.remove({name!r})", home, hub.url)
    assert answer["error"] == "ModelNotFoundError" and "qgguf list" in answer["message"]
    assert (tmp_path / "keep.gguf").exists()


def test_a_file_of_a_folder_is_removed(tmp_path: Path, hub: Hub):
    """What is listed from ./models can be removed too."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "한.gguf").write_bytes(b"x")
    ask_hub("hub.remove('models/한.gguf')", tmp_path, hub.url)
    assert os.listdir(tmp_path / "models") == []


def test_where_links_are_denied_the_file_itself_is_shown(tmp_path: Path, hub: Hub):
    """Windows without the right to make links: fetched, listed, checked and removed all the same, once on the disk."""
    denied = "from pathlib import Path\ndef deny(*_): raise OSError('no links here')\nPath.symlink_to = deny\n"
    path = Path(ask_hub("hub.resolve('me/m:Q8_0')", tmp_path, hub.url, before=denied)["answer"])
    assert path.read_bytes() == MODEL and not path.is_symlink() and blobs(tmp_path) == 0
    hub.forget()
    assert ask_hub("hub.resolve('me/m:Q8_0', refresh=True)", tmp_path, hub.url, before=denied)["answer"] == str(path)
    assert hub.sent_bytes == 0
    ask_hub("hub.resolve('me/m:F16')", tmp_path, hub.url, before=denied)
    ask_hub("hub.remove('me/m/m-Q8_0.gguf')", tmp_path, hub.url, before=denied)
    assert ask_hub(NAMES, tmp_path, hub.url)["answer"] == ["me/m/m-F16.gguf"] and not path.exists()


# Checkpoints

CHECKPOINT = {
    "config.json": b'{"a": 1}',
    "tokenizer.json": MODEL,
    "tokenizer_config.json": b"{}",
    "vocab.txt": b"a",
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}",
    "2_Dense/model.safetensors": MODEL[:1500],
    "config_sentence_transformers.json": b"{}",
    "sentence_bert_config.json": b"{}",
    "README.md": b"# \xed\x95\x9c",
    "model-00001-of-00002.safetensors": MODEL[1:],
    "model-00002-of-00002.safetensors": MODEL[2:],
    "model.safetensors.index.json": b"{}",
}
OTHER = {
    "pytorch_model.bin": MODEL[3:],
    "onnx/model.onnx": MODEL[4:],
    "onnx/config.json": b"{}",
    "openvino/openvino_model.xml": MODEL[5:],
    ".gitattributes": b"x",
    "model.gguf": MODEL[6:],
    "tf_model.h5": MODEL[7:],
}


def test_a_checkpoint_has_what_a_conversion_reads_and_no_more(tmp_path: Path, hub: Hub):
    """Weights in other formats are left where they are; the commit is told, progress ends at the whole."""
    hub.repos["me/c"] = Repo(CHECKPOINT | OTHER)
    expression = "[*hub.fetch_checkpoint('me/c', on_progress=lambda *step: steps.append(step)), steps[-1]]"
    folder, commit, last = ask_hub(expression, tmp_path, hub.url, before="steps = []\n")["answer"]
    assert commit == COMMIT
    found = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in found} == CHECKPOINT
    total = sum(map(len, CHECKPOINT.values()))
    # Files of the same bytes ("{}") are fetched once.
    assert last == [total, total] and total - 10 < hub.sent_bytes <= total


def test_a_checkpoint_of_a_branch_is_that_of_its_commit(tmp_path: Path, hub: Hub):
    """`revision` takes a branch; a second call fetches nothing; offline it is found by branch and by commit."""
    hub.repos["me/c"] = Repo(CHECKPOINT, branches=("main", "feature/é"))
    first = ask_hub("hub.fetch_checkpoint('me/c', 'feature/é')", tmp_path, hub.url)["answer"]
    hub.forget()
    assert ask_hub("hub.fetch_checkpoint('me/c', 'feature/é')", tmp_path, hub.url)["answer"] == first
    assert hub.sent_bytes == 0
    for revision in ("feature/é", COMMIT):
        expression = f"hub.fetch_checkpoint('me/c', {revision!r})"
        assert ask_hub(expression, tmp_path, hub.url, HF_HUB_OFFLINE="1")["answer"] == first


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("hub.fetch_checkpoint('me/m')", "holds no *.safetensors weights"),
        ("hub.fetch_checkpoint('me/c', 'v9')", "not this revision"),
        ("hub.fetch_checkpoint('nobody/nothing')", "refused (401)"),
        ("hub.fetch_checkpoint('nothing')", "neither a folder nor a repository"),
        ("hub.fetch_checkpoint('../x')", "neither a folder nor a repository"),
    ],
)
def test_a_checkpoint_that_cannot_be_had(expression: str, words: str, tmp_path: Path, hub: Hub):
    """No weights, no such revision, no such repository, no name: one line each."""
    hub.repos["me/c"] = Repo(CHECKPOINT)
    answer = ask_hub(expression, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and words in answer["message"] and "\n" not in answer["message"]


def test_a_damaged_small_file_is_found_out_too(tmp_path: Path, hub: Hub):
    """Files without SHA-256 are checked against git's checksum."""
    hub.repos["me/c"] = Repo(CHECKPOINT)
    hub.lies["config.json"] = b'{"a": 2}'
    answer = ask_hub("hub.fetch_checkpoint('me/c')", tmp_path, hub.url)
    assert answer["error"] == "ChecksumError" and "git SHA-1" in answer["message"]


def test_a_checkpoint_not_here_and_offline(tmp_path: Path, hub: Hub):
    """Offline the message says where it was looked for."""
    message = ask_hub("hub.fetch_checkpoint('me/c')", tmp_path, hub.url, HF_HUB_OFFLINE="1")["message"]
    assert message.startswith(f"me/c is not in {tmp_path / 'hub'}, and HF_HUB_OFFLINE")
