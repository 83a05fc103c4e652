"""Downloads of Hugging Face checkpoints: those of their files that a conversion reads."""

import re
from pathlib import Path, PurePosixPath

from qgguf.errors import ModelNotFoundError
from qgguf.hub.cache_layout import cache_folder, record_revision, repo_folder
from qgguf.hub.download import fetch
from qgguf.hub.errors import explain_offline
from qgguf.hub.repo_name import is_repo_name
from qgguf.hub.repository import list_files
from qgguf.hub.settings import hub_settings
from qgguf.types import Progress

# The files that a conversion reads; many repositories also have the same weights in other formats.
_CHECKPOINT_NAMES = {"README.md", "vocab.txt", "merges.txt", "tokenizer.model", "sentencepiece.bpe.model"}
_CHECKPOINT_SUFFIXES = {".json", ".safetensors", ".jinja"}
# A module of sentence-transformers other than the first one, which is the Transformer.
_LATER_MODULE = re.compile(r"[1-9]\d*_")
# Folders of other formats; some have a config.json as well as gigabytes of weights.
_OTHER_FORMATS = {"onnx", "openvino", "coreml", "tflite", "original", "gguf"}


def fetch_checkpoint(
    repo_id: str, revision: str | None = None, on_progress: Progress | None = None
) -> tuple[Path, str]:
    """Download the files of a checkpoint that a conversion reads; files in the cache are not downloaded again.

    repo_id      "owner/name"
    revision     branch, tag or commit; None for main
    on_progress  called with bytes done and bytes in all, over all files
    returns      the checkpoint's folder in the hub cache, and its commit
    raises       ModelNotFoundError: no such repository or revision, no safetensors in it, no network, no space;
                 ChecksumError: other bytes than the published ones
    """
    if not is_repo_name(repo_id):
        raise ModelNotFoundError(f"{repo_id} is neither a folder nor a repository (owner/name).")
    revision = revision or "main"
    if hub_settings().HF_HUB_OFFLINE:
        return _cached_checkpoint(repo_id, revision)
    commit, files = list_files(repo_id, revision)
    record_revision(repo_id, revision, commit)
    names = [file.name for file in files if not _LATER_MODULE.match(file.name)]
    files = [file for file in files if _is_part_of_checkpoint(file.name)]
    if not any(name.endswith(".safetensors") and _is_part_of_checkpoint(name) for name in names):
        pickled = [name for name in names if Path(name).match("pytorch_model*.bin") and not _is_other_format(name)]
        if pickled:
            name = repo_id.rpartition("/")[2]
            folder = str(PurePosixPath(name, pickled[0]).parent)
            raise ModelNotFoundError(
                f"{repo_id} has pickled weights only (pytorch_model.bin), which are not read. "
                f"Download it: hf download {repo_id} --local-dir {name}. {save_as_safetensors(folder)}. "
                f"Then: qgguf convert {name}"
            )
        raise ModelNotFoundError(
            f"{repo_id} has no *.safetensors weights. Choose a repository that has them. GGUF files need no "
            f"conversion: qgguf pull {repo_id}"
        )
    total_bytes = sum(file.size_bytes or 0 for file in files)
    done_bytes = 0
    for file in files:

        def on_file(file_bytes: int, _file_total: int, earlier_bytes: int = done_bytes) -> None:
            if on_progress:
                on_progress(earlier_bytes + file_bytes, total_bytes)

        fetch(file, on_file)
        done_bytes += file.size_bytes or 0
        # For a file in the cache, `fetch` reports no progress.
        on_file(0, 0, done_bytes)
    return repo_folder(repo_id) / "snapshots" / commit, commit


def _cached_checkpoint(repo: str, revision: str) -> tuple[Path, str]:
    ref = repo_folder(repo) / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    folder = repo_folder(repo) / "snapshots" / commit
    if not folder.is_dir():
        raise ModelNotFoundError(explain_offline(repo, cache_folder()))
    return folder, commit


def save_as_safetensors(folder: str) -> str:
    """Return how a checkpoint with pickled weights gets model.safetensors.

    folder  that of the weights
    """
    return (
        f"In {folder}, with torch and transformers installed, run: "
        "python -c \"from transformers import AutoModel; AutoModel.from_pretrained('.').save_pretrained('.')\""
    )


def _is_other_format(name: str) -> bool:
    return bool({part.lower() for part in name.split("/")[:-1]} & _OTHER_FORMATS)


def _is_part_of_checkpoint(name: str) -> bool:
    file_name = name.rsplit("/", 1)[-1]
    if _is_other_format(name) or file_name.startswith("."):
        return False
    return file_name in _CHECKPOINT_NAMES or Path(file_name).suffix in _CHECKPOINT_SUFFIXES
