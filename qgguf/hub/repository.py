"""The files of a hub repository at one commit: names, sizes, checksums."""

import logging
import re
from dataclasses import dataclass
from typing import Any

from qgguf.errors import ModelNotFoundError
from qgguf.hub.errors import translate_errors, with_timeout
from qgguf.hub.settings import hub_settings

_log = logging.getLogger("qgguf")

_COMMIT = re.compile(r"[0-9a-f]{40}")
_CHECKSUM = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})?")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repository at one commit.

    checksum    SHA-256 (64 hex digits), or git's SHA-1 of a small file (40): the name of the file's blob in the cache;
                "" where the hub gives none
    size_bytes  None for a pinned file of which only a rounded size is published
    """

    repo: str
    commit: str
    name: str
    checksum: str
    size_bytes: int | None

    def __post_init__(self) -> None:
        # All three come from a server and become parts of a path.
        if not (is_clean(self.name) and _COMMIT.fullmatch(self.commit) and _CHECKSUM.fullmatch(self.checksum)):
            raise ModelNotFoundError(
                f"{self.repo} lists {self.name!r} at {self.commit!r}, which is invalid. Check HF_ENDPOINT."
            )


def is_clean(name: str) -> bool:
    """Return whether a file name stays within its folder on every system.

    >>> is_clean("onnx/model.onnx"), is_clean("../model.onnx"), is_clean("C:model.onnx")
    (True, False, False)
    """
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and not set(name) & set("\\:\0")


def list_files(repo: str, revision: str) -> tuple[str, list[RepoFile]]:
    """Request the commit of a revision and its files; files whose names would leave the cache are left out.

    revision  branch, tag or commit
    returns   (commit, files)
    raises    ModelNotFoundError: no such repository or revision, no network
    """
    _log.info("requesting the file list of %s from %s", repo, hub_settings().ENDPOINT)
    with translate_errors(repo):
        info = with_timeout(lambda: _model_info(repo, revision))
    commit = info.sha or ""
    files = []
    for sibling in info.siblings or []:
        if not is_clean(sibling.rfilename):
            continue
        lfs = sibling.lfs
        checksum = lfs.sha256 if lfs else sibling.blob_id
        size_bytes = lfs.size if lfs else sibling.size
        files.append(RepoFile(repo, commit, sibling.rfilename, checksum or "", size_bytes))
    return commit, files


def _model_info(repo: str, revision: str) -> Any:
    from huggingface_hub import HfApi

    settings = hub_settings()
    try:
        return HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=settings.HF_HUB_ETAG_TIMEOUT)
    except (KeyError, TypeError, AttributeError) as error:
        # The response was JSON, but did not describe a model.
        raise ModelNotFoundError(
            f"{repo}: the response of {settings.ENDPOINT} is not that of a hub. Check HF_ENDPOINT."
        ) from error
