"""Downloads of single files into the Hugging Face cache: resumed, verified, then renamed.

huggingface-hub 2 starts over after an interruption, because each try writes a new file. So we download the bytes
ourselves, with its session and into its cache layout. A file becomes a blob of the cache only after the checksum of
its bytes on the disk was verified, so blobs are not read again.
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
from qgguf.hub.part_files import delete_parts, part_file, publish
from qgguf.hub.repository import RepoFile
from qgguf.hub.settings import hub_settings
from qgguf.types import Progress
from qgguf.units import readable

_log = logging.getLogger("qgguf")

# Small, because a lost connection loses the chunk that was being received.
_CHUNK_BYTES = 1 << 16
# Retries after a connection is lost in the middle of a file, counted from the last byte received.
_RETRIES = 5


def fetch(file: RepoFile, on_progress: Progress | None = None) -> Path:
    """Return the file's path in the cache; download it first if it is not there.

    on_progress  called with bytes done and bytes in all (0 if unknown)
    raises       ModelNotFoundError: no network, no such file, no space; ChecksumError: other bytes than the published
    """
    path = snapshot_path(file.repo, file.commit, file.name)
    if path.exists():
        return path
    name = f"{file.repo}/{file.name}"
    folder = repo_folder(file.repo)
    _require_checksum(file)
    blob = folder / "blobs" / file.checksum
    if hub_settings().HF_HUB_OFFLINE and not blob.exists():
        raise ModelNotFoundError(explain_offline(name, cache_folder()))
    with translate_errors(name):
        lock = cache_folder() / ".locks" / folder.name / f"{file.checksum}.lock"
        for parent in (lock.parent, blob.parent, path.parent):
            parent.mkdir(parents=True, exist_ok=True)
        with _hub_tools().WeakFileLock(lock):
            if not blob.exists() and not path.exists():
                _download(file, blob, on_progress)
            if not path.exists():
                _link(blob, path)
    return path


def check(file: RepoFile, path: Path, on_progress: Progress | None = None) -> None:
    """Verify the checksum of a cached file.

    raises  ChecksumError: it differs; the file is deleted
    """
    _require_checksum(file)
    with path.open("rb") as stream:
        digest = _digest(file, stream, on_progress)
    if digest != file.checksum:
        blob = Path(os.path.realpath(path))
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
        raise ChecksumError(_mismatch(file, digest))


def _require_checksum(file: RepoFile) -> None:
    if not file.checksum:
        endpoint = hub_settings().ENDPOINT
        raise ModelNotFoundError(
            f"{file.repo}/{file.name}: {endpoint} gives no checksum to verify it with. Use another HF_ENDPOINT."
        )


def _download(file: RepoFile, blob: Path, on_progress: Progress | None) -> None:
    """Download what an earlier download has not, verify the checksum, and publish the file as `blob`."""
    with part_file(blob) as part:
        with part.open("r+b") as stream:
            done_bytes = stream.seek(0, os.SEEK_END)
            transfer = _Transfer(file, stream, done_bytes, on_progress)
            if file.size_bytes is None or done_bytes != file.size_bytes:
                transfer.run()
            stream.flush()
            os.fsync(stream.fileno())
            stream.seek(0)
            digest = _digest(file, stream)
        if digest != file.checksum:
            delete_parts(blob)
            raise ChecksumError(_mismatch(file, digest))
        publish(part, blob)


class _Transfer:
    """The transfer of one file to disk, over one or more connections."""

    def __init__(self, file: RepoFile, stream: BinaryIO, done_bytes: int, on_progress: Progress | None) -> None:
        self.file = file
        self.stream = stream
        self.done_bytes = done_bytes
        self.total_bytes = file.size_bytes
        self.on_progress = on_progress

    def run(self) -> None:
        """Download the rest of the file.

        raises  the network's errors: of the first connection at once, later after `_RETRIES` retries
        """
        started, failures, expected = False, 0, network_errors()
        if self.total_bytes is not None and self.done_bytes > self.total_bytes:
            self._start_over()
        while True:
            start = self.done_bytes
            try:
                self._one_connection()
                return
            except expected as error:
                status = status_of(error)
                if status == 416 and start:
                    if _length_of(error) == start:
                        return
                    # The partial file is longer than the file.
                    self._start_over()
                    continue
                if self.done_bytes > start:
                    started, failures = True, 0
                failures += 1
                if not started or failures > _RETRIES or (status is not None and status < 500):
                    raise
                lost = f"{self.file.name}: connection lost at byte {self.done_bytes} ({type(error).__name__})"
                _log.warning("%s, retrying", lost)
            time.sleep(1)

    def _one_connection(self) -> None:
        with open_file(self.file, self.done_bytes) as (response, chunks):
            if self.done_bytes and response.status_code != 206:
                self._start_over()
            length = response.headers.get("Content-Length")
            if self.total_bytes is None and length is not None:
                self.total_bytes = self.done_bytes + int(length)
            self._check_space()
            for chunk in chunks:
                self._write(chunk)
        if self.total_bytes is not None and self.done_bytes < self.total_bytes:
            raise ConnectionError(f"the response ended at byte {self.done_bytes} of {self.total_bytes}")

    def _write(self, chunk: bytes) -> None:
        try:
            self.stream.write(chunk)
        except OSError as error:
            raise ModelNotFoundError(self._no_space(str(error.strerror or error))) from error
        self.done_bytes += len(chunk)
        if self.on_progress:
            self.on_progress(self.done_bytes, self.total_bytes or 0)

    def _start_over(self) -> None:
        self.stream.seek(0)
        self.stream.truncate()
        self.done_bytes = 0

    def _check_space(self) -> None:
        if self.total_bytes is None:
            return
        free_bytes = shutil.disk_usage(cache_folder()).free
        if free_bytes < self.total_bytes - self.done_bytes:
            raise ModelNotFoundError(self._no_space(f"{readable(free_bytes)} are free"))

    def _no_space(self, cause: str) -> str:
        total = readable(self.total_bytes) if self.total_bytes else "space"
        return (
            f"{self.file.name} needs {total} in {cache_folder()}, but {cause}. Free some space, or set HF_HOME to a "
            f"larger disk; the next try resumes after {readable(self.done_bytes)}."
        )


def _length_of(error: BaseException) -> int | None:
    """Return the length of the file from a 416 response, which has a header like "bytes */123"; None if it has none."""
    headers = getattr(getattr(error, "response", None), "headers", {})
    length = headers.get("Content-Range", "").rpartition("/")[2]
    return int(length) if length.isdecimal() else None


@contextlib.contextmanager
def open_file(file: RepoFile, start: int, stop: int | None = None) -> Iterator[tuple[Any, Iterator[bytes]]]:
    """Request bytes `start` to `stop` of a file; a server without range requests sends the whole file instead.

    stop     None for the end of the file
    returns  (response, its chunks), open within the block
    """
    end = "the end" if stop is None else f"byte {stop}"
    _log.info("requesting %s/%s from %s, byte %d to %s", file.repo, file.name, hub_settings().ENDPOINT, start, end)
    opened, method = with_timeout(lambda: _request(file, start, stop))
    with opened as response:
        _hub_tools().hf_raise_for_status(response)
        yield response, getattr(response, method)(_CHUNK_BYTES)


def _request(file: RepoFile, start: int, stop: int | None) -> tuple[Any, str]:
    """Return an open response as a context manager, and the name of its method that iterates over chunks."""
    from huggingface_hub import hf_hub_url

    tools = _hub_tools()
    url = hf_hub_url(file.repo, file.name, revision=file.commit)
    # Without compression, sizes and ranges are those of the file.
    headers = tools.build_hf_headers(library_name="qgguf") | {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    timeout = hub_settings().HF_HUB_DOWNLOAD_TIMEOUT
    session = tools.get_session()
    if callable(getattr(session, "stream", None)):  # httpx, since huggingface-hub 1
        request = session.build_request("GET", url, headers=headers, timeout=timeout)
        return contextlib.closing(session.send(request, stream=True, follow_redirects=True)), "iter_bytes"
    return session.get(url, headers=headers, timeout=timeout, stream=True), "iter_content"


def _hub_tools() -> Any:
    """Return `huggingface_hub.utils`, whose exports type checkers do not see."""
    return importlib.import_module("huggingface_hub.utils")


def _link(blob: Path, path: Path) -> None:
    """Link a snapshot's entry to its blob as huggingface-hub does; move the blob there where links are not allowed."""
    try:
        path.symlink_to(os.path.relpath(blob, path.parent))
    except OSError:
        # Without working locks another process may have made the entry first.
        if not path.is_symlink():
            os.replace(blob, path)


def _digest(file: RepoFile, stream: BinaryIO, on_progress: Progress | None = None) -> str:
    """Return the hash of an open file on the disk, of the kind of the published checksum."""
    size_bytes = os.fstat(stream.fileno()).st_size
    if len(file.checksum) == 64:
        hasher = hashlib.sha256()
    else:
        hasher = hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    update_from(hasher, stream, size_bytes, on_progress)
    return hasher.hexdigest()


def _mismatch(file: RepoFile, digest: str) -> str:
    kind = "SHA-256" if len(file.checksum) == 64 else "git SHA-1"
    return (
        f"{file.repo}/{file.name} is not the published file: its {kind} is {digest}, published is {file.checksum}. "
        "It was deleted; download it again. If that does not help, a proxy or mirror (HF_ENDPOINT) changes files."
    )
