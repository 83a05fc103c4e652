"""Models and checkpoints in the cache: listing, removing, fetching."""

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
    """Parts, projectors, other files and broken links are left out; each listed name can be resolved."""
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


def test_missing_cache_is_an_empty_list(tmp_path: Path, hub: Hub):
    """Without a cache folder the list is empty."""
    assert ask_hub(NAMES, tmp_path / "new", hub.url)["answer"] == []


def test_removing_one_file_keeps_the_other(tmp_path: Path, hub: Hub):
    """The other file of the snapshot stays; with the last file the repository's folder goes."""
    for quant in ("Q8_0", "F16"):
        ask_hub(f"hub.resolve('me/m:{quant}')", tmp_path, hub.url)
    assert blobs(tmp_path) == 2
    assert ask_hub("hub.remove('me/m/m-F16.gguf').size_bytes", tmp_path, hub.url)["answer"] == len(MODEL)
    assert blobs(tmp_path) == 1
    assert ask_hub(NAMES, tmp_path, hub.url)["answer"] == ["me/m/m-Q8_0.gguf"]
    ask_hub("hub.remove('me/m/m-Q8_0.gguf')", tmp_path, hub.url)
    assert not (tmp_path / "hub/models--me--m").exists()


def test_removing_deletes_the_file_from_every_revision(tmp_path: Path, hub: Hub):
    """Other files of the repository stay, and huggingface-hub's scan has no warnings."""
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


def test_blob_with_another_link_stays(tmp_path: Path, hub: Hub):
    """If two names share one blob, removing one name keeps the blob."""
    hub.repos["me/m"] = Repo({"a-Q8_0.gguf": MODEL, "b-F16.gguf": MODEL})
    for quant in ("Q8_0", "F16"):
        ask_hub(f"hub.resolve('me/m:{quant}')", tmp_path, hub.url)
    assert blobs(tmp_path) == 1
    ask_hub("hub.remove('me/m/a-Q8_0.gguf')", tmp_path, hub.url)
    hub.forget()
    path = ask_hub("hub.resolve('me/m/b-F16.gguf')", tmp_path, hub.url)["answer"]
    assert Path(path).read_bytes() == MODEL and hub.requests == []


@pytest.mark.parametrize("name", ["../keep.gguf", "keep.gguf", "me/m", "", "/etc/hostname", "models"])
def test_unlisted_name_is_not_removed(name: str, tmp_path: Path, hub: Hub):
    """Paths, repositories and folders are not names of the list."""
    (tmp_path / "keep.gguf").write_bytes(b"x")
    home = tmp_path / "home"
    answer = ask_hub(f"hub.remove({name!r})", home, hub.url)
    assert answer["error"] == "ModelNotFoundError" and "qgguf list" in answer["message"]
    assert (tmp_path / "keep.gguf").exists()


def test_file_in_a_folder_is_removed(tmp_path: Path, hub: Hub):
    """A file listed from ./models can be removed."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "한.gguf").write_bytes(b"x")
    ask_hub("hub.remove('models/한.gguf')", tmp_path, hub.url)
    assert os.listdir(tmp_path / "models") == []


def test_cache_without_symbolic_links(tmp_path: Path, hub: Hub):
    """On Windows without the right to make links, a file is stored once, in its snapshot."""
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


def test_checkpoint_without_files_of_other_formats(tmp_path: Path, hub: Hub):
    """Only the files of a conversion are fetched; progress ends at their total."""
    hub.repos["me/c"] = Repo(CHECKPOINT | OTHER)
    expression = "[*hub.fetch_checkpoint('me/c', on_progress=lambda *step: steps.append(step)), steps[-1]]"
    folder, commit, last = ask_hub(expression, tmp_path, hub.url, before="steps = []\n")["answer"]
    assert commit == COMMIT
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    assert {path.relative_to(folder).as_posix(): path.read_bytes() for path in files} == CHECKPOINT
    total = sum(map(len, CHECKPOINT.values()))
    # Files with equal content ("{}") are fetched once.
    assert last == [total, total] and total - 10 < hub.sent_bytes <= total


def test_checkpoint_of_a_branch_is_cached_by_commit(tmp_path: Path, hub: Hub):
    """A second call fetches nothing; offline the checkpoint is found by branch and by commit."""
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
        ("hub.fetch_checkpoint('me/m')", "has no *.safetensors weights"),
        ("hub.fetch_checkpoint('me/c', 'v9')", "not this revision"),
        ("hub.fetch_checkpoint('nobody/nothing')", "refused (401)"),
        ("hub.fetch_checkpoint('nothing')", "neither a folder nor a repository"),
        ("hub.fetch_checkpoint('../x')", "neither a folder nor a repository"),
    ],
)
def test_unavailable_checkpoint_is_refused(expression: str, words: str, tmp_path: Path, hub: Hub):
    """No weights, no such revision, no such repository, no valid name: one line each."""
    hub.repos["me/c"] = Repo(CHECKPOINT)
    answer = ask_hub(expression, tmp_path, hub.url)
    assert answer["error"] == "ModelNotFoundError" and words in answer["message"] and "\n" not in answer["message"]


def test_damaged_small_file_is_refused(tmp_path: Path, hub: Hub):
    """Files without a SHA-256 are verified against git's checksum."""
    hub.repos["me/c"] = Repo(CHECKPOINT)
    hub.wrong_content["config.json"] = b'{"a": 2}'
    answer = ask_hub("hub.fetch_checkpoint('me/c')", tmp_path, hub.url)
    assert answer["error"] == "ChecksumError" and "git SHA-1" in answer["message"]


def test_uncached_checkpoint_is_refused_offline(tmp_path: Path, hub: Hub):
    """The message names the cache folder and HF_HUB_OFFLINE."""
    message = ask_hub("hub.fetch_checkpoint('me/c')", tmp_path, hub.url, HF_HUB_OFFLINE="1")["message"]
    assert message.startswith(f"me/c is not in {tmp_path / 'hub'}, and HF_HUB_OFFLINE")
