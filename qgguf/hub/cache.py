"""The GGUF files on this machine: those in the hub cache, in ./models and in the current folder."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qgguf.errors import ModelNotFoundError
from qgguf.hub.cache_layout import cache_folder, repo_folder
from qgguf.hub.catalogue import short_name
from qgguf.hub.repo_name import repo_of_folder

_SPLIT = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
# Projectors of images and audio, which repositories store beside the models that use them.
_PROJECTOR = re.compile(r"(^|[/\\])mmproj", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A GGUF file on this machine.

    name        what `Embedder`, `remove` and the command line take: a catalogue name ("qwen3-embedding-4b:Q8_0"),
                "owner/repo/file.gguf", or for a file of a folder its relative path
    path        the file; in the hub cache usually a link to it
    size_bytes  of the file
    source      "hub": in the Hugging Face cache, can be downloaded again; "folder": in ./models or the current folder
    """

    name: str
    path: Path
    size_bytes: int
    source: str


def is_split(name: str) -> bool:
    """Return whether a file name is that of one part of a split model."""
    return bool(_SPLIT.search(name))


def is_model(name: str) -> bool:
    """Return whether a file name is that of a whole model in GGUF."""
    return name.lower().endswith(".gguf") and not is_split(name) and not _PROJECTOR.search(name)


def list_models() -> list[LocalModel]:
    """List the GGUF files on this machine. Reads names and sizes only, and never uses the network.

    Looks in the Hugging Face cache ($HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub), in ./models and
    in the current folder. Parts of split models and projectors are left out; a file need not be an embedding model.

    returns  sorted by name, each name once
    raises   ModelNotFoundError: HF_ENDPOINT is not a URL; OSError: a folder cannot be read
    """
    models = {model.name: model for model in [*_in_folders(), *_in_cache()]}
    return sorted(models.values(), key=lambda model: model.name.lower())


def cached_files(repo: str) -> Iterator[tuple[str, str, Path]]:
    """Yield (commit, file name, path) of each cached model of a repository: branch main first, then the newest."""
    folder = repo_folder(repo)
    snapshots = folder / "snapshots"
    main = folder / "refs" / "main"
    current = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    commits = sorted(snapshots.iterdir(), key=_modified, reverse=True) if snapshots.is_dir() else []
    for commit in sorted(commits, key=lambda path: path.name != current):
        for path in sorted(commit.rglob("*")):
            name = path.relative_to(commit).as_posix()
            # is_file follows the link: it is False for an entry without its blob.
            if is_model(name) and path.is_file():
                yield commit.name, name, path


def remove(name: str) -> LocalModel:
    """Delete a model of `list_models`, in every cached revision that has it.

    returns  the deleted model
    raises   ModelNotFoundError: the name is not in the list
    """
    models = {model.name: model for model in list_models()}
    model = models.get(name)
    if model is None:
        known = ", ".join(models) or "none"
        raise ModelNotFoundError(f"{name} is not among the models here ({known}). `qgguf list` shows them.")
    if model.source == "hub":
        _remove_from_cache(model)
    else:
        model.path.unlink()
    return model


def _in_folders() -> Iterator[LocalModel]:
    for folder in (Path("models"), Path()):
        if folder.is_dir():
            for path in sorted(folder.iterdir()):
                if is_model(path.name) and path.is_file():
                    yield LocalModel(path.as_posix(), path, path.stat().st_size, "folder")


def _in_cache() -> Iterator[LocalModel]:
    folder = cache_folder()
    folders = sorted(folder.iterdir()) if folder.is_dir() else []
    for repo in filter(None, (repo_of_folder(path.name) for path in folders)):
        seen = set()
        for commit, file_name, path in cached_files(repo):
            name = short_name(repo, commit, file_name) or f"{repo}/{file_name}"
            if name not in seen:
                seen.add(name)
                yield LocalModel(name, path, path.stat().st_size, "hub")


def _remove_from_cache(model: LocalModel) -> None:
    """Delete a file from every revision; delete a revision that has no other file as a whole."""
    from huggingface_hub import scan_cache_dir

    cache = scan_cache_dir(cache_folder())
    commit = _commit_of(model.path)
    for repo in cache.repos:
        if repo_folder(repo.repo_id) not in model.path.parents or repo.repo_type != "model":
            continue
        with_file = [
            (revision, file)
            for revision in repo.revisions
            for file in revision.files
            if _has_name_of(model, revision.snapshot_path, file.file_path, commit)
        ]
        emptied = [revision.commit_hash for revision, _ in with_file if len(revision.files) == 1]
        for revision, file in with_file:
            if len(revision.files) > 1:
                file.file_path.unlink()
        _delete_unused_blobs(repo, {file.blob_path for _, file in with_file})
        if emptied:
            cache.delete_revisions(*emptied).execute()
        return


def _has_name_of(model: LocalModel, snapshot: Path, file: Path, commit: str) -> bool:
    """Return whether a cached file has the model's name; a catalogue name means the file of one commit only."""
    relative = file.relative_to(snapshot).as_posix()
    if not model.path.as_posix().endswith("/" + relative):
        return False
    return model.name.endswith(".gguf") or snapshot.name == commit


def _delete_unused_blobs(repo: Any, blobs: set[Path]) -> None:
    """Delete those of the blobs that no snapshot links to any more."""
    linked = {Path(os.path.realpath(path)) for path in Path(repo.repo_path, "snapshots").rglob("*") if path.is_file()}
    for blob in blobs:
        if Path(os.path.realpath(blob)) not in linked:
            Path(blob).unlink(missing_ok=True)


def _commit_of(path: Path) -> str:
    parts = path.parts
    return parts[parts.index("snapshots") + 1]


def _modified(path: Path) -> float:
    return path.stat().st_mtime
