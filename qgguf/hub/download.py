"""One file of a repository into the Hugging Face cache: resumed, checked, then given its final name.

huggingface-hub 2 starts over after a break (each try has a file of its own), so the bytes are fetched here, through its
session, into its cache layout. A file gets its name among the blobs only after its checksum was right: what stands
there was checked once and is not read again.
"""

import contextlib
import hashlib
import importlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from qgguf.errors import ChecksumError, ModelNotFoundError
from qgguf.file_hash import update_from
from qgguf.hub.cache_layout import cache_folder, repo_folder, snapshot_path
from qgguf.hub.errors import explain_offline, network_errors, status_of, translate_errors, with_timeout
from qgguf.hub.repository import RepoFile
from qgguf.hub.settings import hub_settings
from qgguf.types import Progress

_log = logging.getLogger("qgguf")

# Small: what a chunk has gathered is lost when the connection is.
_CHUNK_BYTES = 1 << 16
# In the middle of a file a lost connection is tried again; these many times without one new byte.
_TRIES = 5


def fetch(file: RepoFile, on_progress: Progress | None = None) -> Path:
    """The file's path in the cache, downloaded if it is not there yet.

    on_progress  called with bytes done and bytes in all (0 where unknown)
    raises       ModelNotFoundError: no network, no such file, no room; ChecksumError: not the published bytes
    """
    path = snapshot_path(file.repo, file.commit, file.name)
    if path.exists():
        return path
    wanted = f"{file.repo}/{file.name}"
    folder = repo_folder(file.repo)
    _need_checksum(file)
    blob = folder / "blobs" / file.checksum
    if hub_settings().HF_HUB_OFFLINE and not blob.exists():
        raise ModelNotFoundError(explain_offline(wanted, cache_folder()))
    with translate_errors(wanted):
        lock = cache_folder() / ".locks" / folder.name / f"{file.checksum}.lock"
        for parent in (lock.parent, blob.parent, path.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with _hub_tools().WeakFileLock(lock):
            if not blob.exists() and not path.exists():
                _download(file, blob, on_progress)
            if not path.exists():
                _show(blob, path)
    return path


def check(file: RepoFile, path: Path, on_progress: Progress | None = None) -> None:
    """Read a cached file again; a wrong one is deleted.

    raises  ChecksumError, with both checksums
    """
    _need_checksum(file)
    size_bytes = path.stat().st_size
    hasher = _hasher(file, size_bytes)
    with path.open("rb") as stream:
        update_from(hasher, stream, size_bytes, on_progress)
    digest = hasher.hexdigest()
    if digest != file.checksum:
        blob = Path(os.path.realpath(path))
        path.unlink()
        blob.unlink(missing_ok=True)
        raise ChecksumError(_wrong(file, digest))


def _need_checksum(file: RepoFile) -> None:
    if not file.checksum:
        endpoint = hub_settings().ENDPOINT
        raise ModelNotFoundError(
            f"{file.repo}/{file.name}: {endpoint} gives no checksum, so it cannot be checked. Use another HF_ENDPOINT."
        )


def _download(file: RepoFile, blob: Path, on_progress: Progress | None) -> None:
    """Fetch what is missing of `<blob>.incomplete`, check it, rename it to `blob`."""
    part = blob.with_name(f"{blob.name}.incomplete")
    with part.open("a+b") as stream:
        if file.size_bytes is not None and part.stat().st_size > file.size_bytes:
            stream.truncate(0)
        stream.seek(0)
        hasher = _hasher(file, file.size_bytes)
        size_bytes = update_from(hasher, stream, file.size_bytes or 0, on_progress)
        transfer = _Transfer(file, stream, hasher, size_bytes, on_progress)
        if file.size_bytes is None or size_bytes < file.size_bytes:
            transfer.run()
        stream.flush()
        os.fsync(stream.fileno())
    digest = transfer.hasher.hexdigest()
    if digest != file.checksum:
        part.unlink()
        raise ChecksumError(_wrong(file, digest))
    os.replace(part, blob)


class _Transfer:
    """The bytes of one file on their way to disk, over as many connections as it takes."""

    def __init__(
        self, file: RepoFile, stream: BinaryIO, hasher: Any, done_bytes: int, on_progress: Progress | None
    ) -> None:
        self.file = file
        self.stream = stream
        self.hasher = hasher
        self.done_bytes = done_bytes
        self.total_bytes = file.size_bytes
        self.on_progress = on_progress

    def run(self) -> None:
        """Fetch until the file is whole.

        raises  what the network raises: at once on the first contact, after `_TRIES` later
        """
        started, failures, expected = False, 0, network_errors()
        while True:
            before = self.done_bytes
            try:
                self._one_connection()
                return
            except expected as error:
                status = status_of(error)
                if status == 416 and before:
                    if _length_of(error) == before:
                        return
                    # The part is longer than the file: of no use.
                    self._start_over()
                    continue
                if self.done_bytes > before:
                    started, failures = True, 0
                failures += 1
                if not started or failures > _TRIES or (status is not None and status < 500):
                    raise
                lost = f"{self.file.name}: connection lost at byte {self.done_bytes} ({type(error).__name__})"
                _log.warning("%s, trying again", lost)
            time.sleep(1)

    def _one_connection(self) -> None:
        with open_file(self.file, self.done_bytes) as (response, chunks):
            if self.done_bytes and response.status_code != 206:
                self._start_over()
            length = response.headers.get("Content-Length")
            if self.total_bytes is None and length is not None:
                self.total_bytes = self.done_bytes + int(length)
            self._check_room()
            for chunk in chunks:
                self._write(chunk)
        if self.total_bytes is not None and self.done_bytes < self.total_bytes:
            raise ConnectionError(f"the answer ended at byte {self.done_bytes} of {self.total_bytes}")

    def _write(self, chunk: bytes) -> None:
        try:
            self.stream.write(chunk)
        except OSError as error:
            raise ModelNotFoundError(self._no_room(str(error.strerror or error))) from error
        self.hasher.update(chunk)
        self.done_bytes += len(chunk)
        if self.on_progress:
            self.on_progress(self.done_bytes, self.total_bytes or 0)

    def _start_over(self) -> None:
        self.stream.seek(0)
        self.stream.truncate()
        self.hasher = _hasher(self.file, self.total_bytes)
        self.done_bytes = 0

    def _check_room(self) -> None:
        if self.total_bytes is None:
            return
        free_bytes = shutil.disk_usage(cache_folder()).free
        if free_bytes < self.total_bytes - self.done_bytes:
            raise ModelNotFoundError(self._no_room(f"{free_bytes / 1e6:.1f} MB are free"))

    def _no_room(self, seen: str) -> str:
        total = f"{self.total_bytes / 1e6:.1f} MB" if self.total_bytes else "its"
        return (
            f"{self.file.name} needs {total} in {cache_folder()}, but {seen}. Make room, or set HF_HOME to a larger "
            f"disk; {self.done_bytes / 1e6:.1f} MB are kept and not fetched again."
        )


def _length_of(error: BaseException) -> int | None:
    """The file's length that a server names when it has nothing from the asked byte on ("bytes */123")."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    length = headers.get("Content-Range", "").rpartition("/")[2]
    return int(length) if length.isdecimal() else None


@contextlib.contextmanager
def open_file(file: RepoFile, start: int, stop: int | None = None) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """An open answer for the file's bytes from `start` on, and its chunks; a server may send more, and from byte 0."""
    until = "on" if stop is None else f"to {stop}"
    _log.info("asking %s for %s/%s from byte %d %s", hub_settings().ENDPOINT, file.repo, file.name, start, until)
    answer, chunks_of = with_timeout(lambda: _ask(file, start, stop))
    with answer as response:
        _hub_tools().hf_raise_for_status(response)
        yield response, getattr(response, chunks_of)(_CHUNK_BYTES)


def _ask(file: RepoFile, start: int, stop: int | None) -> tuple[Any, str]:
    """An open answer as a context manager, and the name of its method that gives chunks."""
    from huggingface_hub import hf_hub_url

    tools = _hub_tools()
    url = hf_hub_url(file.repo, file.name, revision=file.commit)
    # identity: sizes and ranges count the file's own bytes.
    headers = tools.build_hf_headers(library_name="qgguf") | {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    timeout = hub_settings().HF_HUB_DOWNLOAD_TIMEOUT
    session = tools.get_session()
    if callable(getattr(session, "stream", None)):  # httpx, from huggingface-hub 1 on
        request = session.build_request("GET", url, headers=headers, timeout=timeout)
        return contextlib.closing(session.send(request, stream=True, follow_redirects=True)), "iter_bytes"
    return session.get(url, headers=headers, timeout=timeout, stream=True), "iter_content"


def _hub_tools() -> Any:
    """huggingface_hub.utils, which declares no exports to a type checker."""
    return importlib.import_module("huggingface_hub.utils")


def _show(blob: Path, path: Path) -> None:
    """Make the snapshot's entry for a blob, as huggingface-hub does: a link, or the file where links are denied."""
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        os.replace(blob, path)


def _hasher(file: RepoFile, size_bytes: int | None) -> Any:
    if len(file.checksum) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % (size_bytes or 0), usedforsecurity=False)


def _wrong(file: RepoFile, digest: str) -> str:
    kind = "SHA-256" if len(file.checksum) == 64 else "git SHA-1"
    return (
        f"{file.repo}/{file.name} is not the published file: its {kind} is {digest}, published is {file.checksum}. "
        "It was deleted; fetch it again. If that does not help, a proxy or mirror (HF_ENDPOINT) changes files."
    )
