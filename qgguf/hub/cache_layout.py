"""Paths in the cache of huggingface-hub: blobs by checksum, snapshots by commit, refs by branch."""

from pathlib import Path

from qgguf.hub.errors import translate_errors
from qgguf.hub.repo_name import folder_of_repo
from qgguf.hub.settings import hub_settings


def cache_folder() -> Path:
    """Return the hub cache: $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub."""
    return Path(hub_settings().HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    """Return the folder of a model repository in the hub cache."""
    return cache_folder() / folder_of_repo(repo)


def snapshot_path(repo: str, commit: str, name: str) -> Path:
    """Return the path of a file at one commit in the hub cache."""
    return repo_folder(repo).joinpath("snapshots", commit, *name.split("/"))


def record_revision(repo: str, revision: str, commit: str) -> None:
    """Write down the commit that a branch or tag points to, in the file that huggingface-hub reads."""
    if revision != commit:
        path = repo_folder(repo) / "refs" / revision
        with translate_errors(repo):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(commit, encoding="utf-8")
