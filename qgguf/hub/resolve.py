"""From the name of a model to its GGUF file on this machine."""

import re
from pathlib import Path

from qgguf.errors import ModelNotFoundError
from qgguf.hub.cache import cached_files, is_model, is_split, list_models
from qgguf.hub.cache_layout import cache_folder, record_revision, snapshot_path
from qgguf.hub.catalogue import CATALOGUE, PublishedModel
from qgguf.hub.download import check, fetch
from qgguf.hub.errors import explain_offline
from qgguf.hub.repo_name import REPO
from qgguf.hub.repository import RepoFile, list_files
from qgguf.hub.settings import hub_settings
from qgguf.settings import model_setting
from qgguf.types import Progress

_REPO_QUANT = re.compile(rf"(?P<repo>{REPO})(?::(?P<quant>[\w.-]+))?", re.ASCII)
_REPO_FILE = re.compile(rf"(?P<repo>{REPO})/(?P<file>.+\.gguf)", re.ASCII | re.IGNORECASE)


def resolve(name: str, *, download: bool = True, refresh: bool = False, on_progress: Progress | None = None) -> Path:
    """Return the path of a model's GGUF file, downloaded if necessary.

    A file in the cache is used without a request, so that the vectors of one name stay comparable until `refresh`.

    name         a path, a catalogue name ("qwen3-embedding-4b", "qwen3-embedding-4b:Q8_0"), "owner/repo:QUANT",
                 "owner/repo" of a repository with one GGUF file, or "owner/repo/file.gguf"
    download     False: use only files on this machine
    refresh      True: use the newest revision on the hub, and verify the checksum of a file in the cache
    on_progress  called with bytes done and bytes in all (0 if unknown)
    raises       ModelNotFoundError: no such model, no network, no space; ChecksumError: other bytes than the published
    """
    file = _find(name, download, refresh, on_progress, record=True)
    return file if isinstance(file, Path) else fetch(file, on_progress)


def pull(name: str, *, on_progress: Progress | None = None) -> Path:
    """Download a model in its newest revision; if that is in the cache already, verify its checksum instead.

    The Hugging Face cache is $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub. An interrupted download
    resumes at the next call. HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE have their usual meaning.

    name         a catalogue name ("qwen3-embedding-4b", "qwen3-embedding-4b:Q8_0"; its revision is pinned),
                 "owner/repo:QUANT", "owner/repo" of a repository with one GGUF file, "owner/repo/file.gguf", or the
                 path of a file, which is returned unverified
    on_progress  called with bytes done and bytes in all (0 if unknown)
    returns      the path of the GGUF file
    raises       ModelNotFoundError: no such model, no network, no space; ChecksumError: other bytes than the published
                 ones, which are deleted
    """
    return resolve(name, refresh=True, on_progress=on_progress)


def locate(name: str) -> Path | RepoFile:
    """Return the path of a model's file, or, if it is not on this machine, the hub's file. Writes nothing to disk.

    raises  ModelNotFoundError
    """
    return _find(name, download=True, refresh=False, on_progress=None, record=False)


def _find(name: str, download: bool, refresh: bool, on_progress: Progress | None, record: bool) -> Path | RepoFile:
    """Return the file for `resolve`; a RepoFile is yet to be downloaded.

    record  write down in the cache which commit the branch points to
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelNotFoundError(f"{name} is a folder. Name a GGUF file in it, or convert it: qgguf convert {name}")
    short, _, quant = name.partition(":")
    if short.lower() in CATALOGUE:
        return _from_catalogue(short.lower(), quant.upper(), download, refresh, on_progress)
    repo_file, repo = _REPO_FILE.fullmatch(name), _REPO_QUANT.fullmatch(name)
    # "folder/name" of an existing folder is a mistyped path, not a repository.
    if not Path(name.split("/")[0]).is_dir():
        if repo_file:
            return _from_repo(repo_file["repo"], None, repo_file["file"], download, refresh, on_progress, record)
        if repo and not name.lower().endswith(".gguf"):
            return _from_repo(repo["repo"], repo["quant"], None, download, refresh, on_progress, record)
    raise ModelNotFoundError(
        f"There is no file {name}, and no model of that name. "
        f"Give a GGUF file, one of {', '.join(CATALOGUE)}, or owner/repo:QUANT."
    )


def default_model() -> Path:
    """Return the model for a command that names none: $QGGUF_MODEL, else the only model on this machine.

    raises  ModelNotFoundError: there is no model, or several
    """
    name = model_setting(None)
    if name:
        return resolve(name)
    models = list_models()
    if len(models) == 1:
        return models[0].path
    if models:
        names = ", ".join(model.name for model in models)
        raise ModelNotFoundError(
            f"{len(models)} models are here ({names}). Choose one with -m NAME or QGGUF_MODEL=NAME."
        )
    smallest = next(iter(CATALOGUE))
    raise ModelNotFoundError(
        f"No model is here. Fetch one: qgguf pull {smallest} (0.6 GB), or make one: qgguf convert CHECKPOINT. "
        "Then, or for a GGUF elsewhere: -m NAME, or QGGUF_MODEL=NAME."
    )


def pick_quant(names: list[str], quant: str) -> list[str]:
    """Return the files of a quantisation; if several names have it in them, those that end in it.

    >>> pick_quant(["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-q4_k.gguf"], "q4_K_m")
    ['m-Q4_K_M.gguf']
    >>> pick_quant(["m.Q4_K_M.gguf", "m.Q4_K_M-imat.gguf"], "Q4_K_M")
    ['m.Q4_K_M.gguf']
    """
    quant = re.escape(quant)
    # "Q4_K" must not match "Q4_K_M", nor "F16" match "BF16".
    anywhere = re.compile(rf"(?<![a-z0-9]){quant}(?![a-z0-9]|_[a-z0-9])", re.IGNORECASE)
    at_end = re.compile(rf"(?<![a-z0-9]){quant}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
    matches = [name for name in names if anywhere.search(name)]
    return [name for name in matches if at_end.search(name)] or matches


def _from_catalogue(
    short: str, quant: str, download: bool, refresh: bool, on_progress: Progress | None
) -> Path | RepoFile:
    model = CATALOGUE[short]
    published = model.files.get(quant or model.default_quant)
    if published is None:
        raise ModelNotFoundError(f"{short} is published as {', '.join(model.files)}; there is no {quant}.")
    for commit, file_name, path in cached_files(model.repo):
        if (commit, file_name) == (model.revision, published.name):
            if refresh:
                check(_pinned(model, quant), path, on_progress)
            return path
    _require_download_allowed(short, download)
    return _pinned(model, quant)


def _pinned(model: PublishedModel, quant: str) -> RepoFile:
    """Return the file to download; its checksum is requested from the hub only if none is published."""
    published = model.files[quant or model.default_quant]
    if published.sha256:
        return RepoFile(model.repo, model.revision, published.name, published.sha256, published.size_bytes)
    _, files = list_files(model.repo, model.revision)
    return _one(model.repo, [file for file in files if file.name == published.name], files, published.name)


def _from_repo(
    repo: str,
    quant: str | None,
    file_name: str | None,
    download: bool,
    refresh: bool,
    on_progress: Progress | None,
    record: bool,
) -> Path | RepoFile:
    model = f"{repo}/{file_name}" if file_name else f"{repo}:{quant}" if quant else repo
    if not refresh or hub_settings().HF_HUB_OFFLINE:
        path = _cached(repo, quant, file_name)
        if path:
            return path
    _require_download_allowed(model, download)
    commit, files = list_files(repo, "main")
    by_name = {file.name: file for file in files}
    names = [name for name in by_name if name.lower().endswith(".gguf")]
    if file_name:
        chosen = [name for name in names if name == file_name]
    else:
        chosen = pick_quant(names, quant) if quant else [name for name in names if is_model(name) or is_split(name)]
    file = _one(repo, [by_name[name] for name in chosen], files, file_name or quant or "GGUF file")
    if record:
        record_revision(repo, "main", commit)
    cached = snapshot_path(repo, commit, file.name)
    if refresh and cached.is_file():
        check(file, cached, on_progress)
    return file


def _one(repo: str, chosen: list[RepoFile], files: list[RepoFile], request: str) -> RepoFile:
    """Return the only chosen file.

    raises  ModelNotFoundError: none, several, or parts of a split model; the message lists the files
    """
    names = [file.name for file in files if file.name.lower().endswith(".gguf")]
    parts = [file for file in chosen if is_split(file.name)]
    if parts:
        raise ModelNotFoundError(
            f"{repo}: {request} is split over {len(parts)} files ({parts[0].name}, ...). Download and join them with "
            "llama.cpp's llama-gguf-split --merge, then name the joined file."
        )
    if len(chosen) == 1:
        return chosen[0]
    if not names:
        raise ModelNotFoundError(f"{repo} has no GGUF file. If it is a checkpoint, convert it: qgguf convert {repo}")
    problem = f"{len(chosen)} files match {request}" if chosen else f"no {request}"
    choices = chosen or [file for file in files if file.name in names]
    listed = ", ".join(file.name for file in choices[:20])
    more = f" and {len(choices) - 20} more" if len(choices) > 20 else ""
    raise ModelNotFoundError(f"{repo}: {problem}. Name one as {repo}/FILE: {listed}{more}.")


def _cached(repo: str, quant: str | None, file_name: str | None) -> Path | None:
    """Return the cached file of the newest revision that has it; None if none or several match."""
    by_commit: dict[str, dict[str, Path]] = {}
    for commit, name, path in cached_files(repo):
        by_commit.setdefault(commit, {})[name] = path
    for paths in by_commit.values():
        names = [name for name in paths if name == file_name] if file_name else list(paths)
        names = pick_quant(names, quant) if quant else names
        # Without a quantisation this may be one file of many on the hub; it is the one that the user downloaded.
        if len(names) == 1:
            return paths[names[0]]
    return None


def _require_download_allowed(model: str, download: bool) -> None:
    if hub_settings().HF_HUB_OFFLINE:
        raise ModelNotFoundError(explain_offline(model, cache_folder()))
    if not download:
        raise ModelNotFoundError(f"{model} is not on this machine. Fetch it: qgguf pull {model}")
