"""What a user calls a model -> the GGUF file on this disk."""

import os
import re
from pathlib import Path

from qgguf.errors import ModelNotFoundError
from qgguf.hub.cache import cached_files, is_model, is_split, list_models
from qgguf.hub.cache_layout import cache_folder, remember_revision, repo_folder
from qgguf.hub.catalogue import CATALOGUE, PublishedModel
from qgguf.hub.download import check, fetch
from qgguf.hub.errors import explain_offline
from qgguf.hub.repo_name import REPO
from qgguf.hub.repository import RepoFile, list_files
from qgguf.hub.settings import hub_settings
from qgguf.types import Progress

_REPO_QUANT = re.compile(rf"(?P<repo>{REPO})(?::(?P<quant>[\w.-]+))?", re.ASCII)
_REPO_FILE = re.compile(rf"(?P<repo>{REPO})/(?P<file>.+\.gguf)", re.ASCII | re.IGNORECASE)


def resolve(name: str, *, download: bool = True, refresh: bool = False, on_progress: Progress | None = None) -> Path:
    """The GGUF file that a name means, downloaded if need be.

    name         a path, a name of the catalogue ("qwen3-embedding-4b", "qwen3-embedding-4b:Q8_0"), "owner/repo:QUANT",
                 "owner/repo" with one GGUF in it, or "owner/repo/file.gguf"
    download     False: only what is here already
    refresh      True: ask the hub for the newest revision, and read a file that is here again to check it
    on_progress  called with bytes done and bytes in all (0 where unknown)
    raises       ModelNotFoundError, ChecksumError

    A cached file is used without asking the hub, so that vectors of one name stay comparable; `refresh` moves on.
    """
    found = _find(name, download, refresh, on_progress, note=True)
    return found if isinstance(found, Path) else fetch(found, on_progress)


def pull(name: str, *, on_progress: Progress | None = None) -> Path:
    """Download a model's newest revision, or check a file that is here against its published SHA-256.

    name         as in `resolve`
    on_progress  called with bytes done and bytes in all (0 where unknown)
    returns      the path of the GGUF file
    raises       ModelNotFoundError, ChecksumError
    """
    return resolve(name, refresh=True, on_progress=on_progress)


def locate(name: str) -> Path | RepoFile:
    """As `resolve`, without fetching and without a trace: the file on this disk, else the hub's that would be fetched.

    raises  ModelNotFoundError
    """
    return _find(name, download=True, refresh=False, on_progress=None, note=False)


def _find(name: str, download: bool, refresh: bool, on_progress: Progress | None, note: bool) -> Path | RepoFile:
    """What `resolve` finds; a RepoFile is still to be fetched.

    note  remember which commit a branch was at
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise ModelNotFoundError(f"{name} is a folder. Name a GGUF file in it, or convert it: qgguf convert {name}")
    short, _, quant = name.partition(":")
    if short.lower() in CATALOGUE:
        return _from_catalogue(short.lower(), quant.upper(), download, refresh, on_progress)
    whole_file, repo = _REPO_FILE.fullmatch(name), _REPO_QUANT.fullmatch(name)
    # A missing file of a folder that is here is a slip of the pen, not a repository.
    if not Path(name.split("/")[0]).is_dir():
        if whole_file:
            return _from_repo(whole_file["repo"], None, whole_file["file"], download, refresh, on_progress, note)
        if repo and not name.lower().endswith(".gguf"):
            return _from_repo(repo["repo"], repo["quant"], None, download, refresh, on_progress, note)
    raise ModelNotFoundError(
        f"No file {name}, and no model of that name. "
        f"Give a GGUF file, one of {', '.join(CATALOGUE)}, or owner/repo:QUANT."
    )


def default_model() -> Path:
    """The model for a command that names none: $QGGUF_MODEL, else the one model there is.

    raises  ModelNotFoundError: none, or several
    """
    name = os.environ.get("QGGUF_MODEL")
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
    """The files of a quantisation; where several carry its name, those that end in it.

    >>> pick_quant(["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-q4_k.gguf"], "q4_K_m")
    ['m-Q4_K_M.gguf']
    >>> pick_quant(["m.Q4_K_M.gguf", "m.Q4_K_M-imat.gguf"], "Q4_K_M")
    ['m.Q4_K_M.gguf']
    """
    quant = re.escape(quant)
    # "Q4_K" is not "Q4_K_M", "F16" is not "BF16".
    anywhere = re.compile(rf"(?<![a-z0-9]){quant}(?![a-z0-9]|_[a-z0-9])", re.IGNORECASE)
    at_end = re.compile(rf"(?<![a-z0-9]){quant}(-\d{{5}}-of-\d{{5}})?\.gguf$", re.IGNORECASE)
    found = [name for name in names if anywhere.search(name)]
    return [name for name in found if at_end.search(name)] or found


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
    _refuse_fetching(short, download)
    return _pinned(model, quant)


def _pinned(model: PublishedModel, quant: str) -> RepoFile:
    """The file to fetch; the hub is asked for its checksum only where none is published."""
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
    note: bool,
) -> Path | RepoFile:
    wanted = f"{repo}/{file_name}" if file_name else f"{repo}:{quant}" if quant else repo
    if not refresh or hub_settings().HF_HUB_OFFLINE:
        path = _cached(repo, quant, file_name)
        if path:
            return path
    _refuse_fetching(wanted, download)
    commit, files = list_files(repo, "main")
    by_name = {file.name: file for file in files}
    names = [name for name in by_name if name.lower().endswith(".gguf")]
    if file_name:
        chosen = [name for name in names if name == file_name]
    else:
        chosen = pick_quant(names, quant) if quant else [name for name in names if is_model(name) or is_split(name)]
    file = _one(repo, [by_name[name] for name in chosen], files, file_name or quant or "GGUF file")
    if note:
        remember_revision(repo, "main", commit)
    known = repo_folder(repo).joinpath("snapshots", commit, *file.name.split("/"))
    if refresh and known.is_file():
        check(file, known, on_progress)
    return file


def _one(repo: str, chosen: list[RepoFile], files: list[RepoFile], wanted: str) -> RepoFile:
    """The one file that was meant.

    raises  ModelNotFoundError: none, several, or one in parts; what is there is listed
    """
    names = [file.name for file in files if file.name.lower().endswith(".gguf")]
    parts = [file for file in chosen if is_split(file.name)]
    if parts:
        raise ModelNotFoundError(
            f"{repo}: {wanted} is split over {len(parts)} files ({parts[0].name}, ...). Fetch and join them with "
            "llama.cpp's llama-gguf-split --merge, then name the joined file."
        )
    if len(chosen) == 1:
        return chosen[0]
    if not names:
        raise ModelNotFoundError(f"{repo} holds no GGUF file. If it is a checkpoint, convert it: qgguf convert {repo}")
    seen = f"{len(chosen)} files match {wanted}" if chosen else f"no {wanted}"
    shown = chosen or [file for file in files if file.name in names]
    listed = ", ".join(file.name for file in shown[:20])
    more = f" and {len(shown) - 20} more" if len(shown) > 20 else ""
    raise ModelNotFoundError(f"{repo}: {seen}. Name one as {repo}/FILE: {listed}{more}.")


def _cached(repo: str, quant: str | None, file_name: str | None) -> Path | None:
    """The cached file that a name means, of the newest revision that has it; None for none or several."""
    by_commit: dict[str, dict[str, Path]] = {}
    for commit, name, path in cached_files(repo):
        by_commit.setdefault(commit, {})[name] = path
    for paths in by_commit.values():
        names = [name for name in paths if name == file_name] if file_name else list(paths)
        names = pick_quant(names, quant) if quant else names
        # Without a quantisation the one cached file may be one of many on the hub; it is what the user fetched.
        if len(names) == 1:
            return paths[names[0]]
    return None


def _refuse_fetching(wanted: str, download: bool) -> None:
    if hub_settings().HF_HUB_OFFLINE:
        raise ModelNotFoundError(explain_offline(wanted, cache_folder()))
    if not download:
        raise ModelNotFoundError(f"{wanted} is not on this machine. Fetch it: qgguf pull {wanted}")
