"""What a hub repository holds at one commit: names, sizes, checksums."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from qgguf.errors import ModelNotFoundError
from qgguf.hub.complaints import clear_errors, in_time

_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class RepoFile:
    """One file of a repository at one commit.

    checksum    SHA-256 (64 digits), or git's SHA-1 of a small file (40 digits); the file's name among the cache's blobs
    size_bytes  None where the hub is not asked (a pinned file with a rounded size)
    """

    repo: str
    commit: str
    name: str
    checksum: str
    size_bytes: int | None

    def __post_init__(self) -> None:
        # All three become parts of a path, and two of them come from a server.
        parts = PurePosixPath(self.name).parts
        clean = bool(parts) and not self.name.startswith("/") and not {"..", "."} & set(parts)
        if not clean or "\\" in self.name or ":" in self.name or not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise ModelNotFoundError(f"{self.repo} lists a file {self.name!r} at {self.commit!r}: not a hub's answer.")
        if not _HEX.fullmatch(self.checksum):
            raise ModelNotFoundError(
                f"{self.repo}/{self.name}: the hub gives no checksum ({self.checksum!r}). Check HF_ENDPOINT."
            )


def list_files(repo: str, revision: str) -> tuple[str, list[RepoFile]]:
    """The commit of a revision, and its files.

    revision  branch, tag or commit
    raises    ModelNotFoundError: no such repository or revision, no network
    """
    from huggingface_hub import HfApi, constants

    with clear_errors(repo):
        info = in_time(
            lambda: HfApi().model_info(
                repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        )
    commit = info.sha or ""
    files = []
    for sibling in info.siblings or []:
        lfs = sibling.lfs
        checksum = lfs.sha256 if lfs else sibling.blob_id
        size_bytes = lfs.size if lfs else sibling.size
        files.append(RepoFile(repo, commit, sibling.rfilename, checksum or "", size_bytes))
    return commit, files
