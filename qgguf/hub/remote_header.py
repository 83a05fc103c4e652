"""Reading the header of a GGUF file on the hub by a few range requests, without downloading the file."""

import re
from typing import Any

from qgguf.errors import ModelNotFoundError
from qgguf.gguf_format.reader import Header, parse_header
from qgguf.hub.download import open_file
from qgguf.hub.errors import translate_errors
from qgguf.hub.repository import RepoFile

_FIRST_BYTES = 1 << 16
# Headers have up to 6 MB, most of it the vocabulary. Each further request is for at least this many bytes.
_LEAST_MORE = 1 << 20
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


def read_remote_header(file: RepoFile) -> Header:
    """Read the header of a GGUF file on the hub.

    raises  ModelNotFoundError: no network, no such file; ModelFileError: not a GGUF file, or an invalid one
    """
    name = f"{file.repo}/{file.name}"
    remote = _RemoteFile(file)
    with translate_errors(name):
        remote.read(0, _FIRST_BYTES)
        return parse_header(name, remote.size_bytes, remote.read, _LEAST_MORE)


class _RemoteFile:
    """A file on the hub that is read from its start; the bytes read so far are cached."""

    def __init__(self, file: RepoFile) -> None:
        self.file, self.data, self.size_bytes = file, b"", file.size_bytes or 0

    def read(self, start: int, stop: int) -> bytes:
        if self.size_bytes:
            stop = min(stop, self.size_bytes)
        if stop > len(self.data):
            self.data += self._fetch(len(self.data), stop)
        return self.data[start:stop]

    def _fetch(self, start: int, stop: int) -> bytes:
        with open_file(self.file, start, stop) as (response, chunks):
            self.size_bytes = _size_of(response) or self.size_bytes
            stop = min(stop, self.size_bytes) if self.size_bytes else stop
            # A server without range requests sends the whole file.
            skipped = 0 if response.status_code == 206 else start
            received = bytearray()
            for chunk in chunks:
                received += chunk
                if len(received) >= skipped + stop - start:
                    break
        if len(received) < skipped + stop - start:
            raise ConnectionError(f"the response ended after {len(received):,} bytes of {skipped + stop - start:,}")
        return bytes(received[skipped : skipped + stop - start])


def _size_of(response: Any) -> int:
    """Return the size of the whole file from a response's headers; 0 if unknown."""
    if response.status_code == 206:
        total = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
        if not total:
            raise ModelNotFoundError("The hub sent a part of a file without a valid Content-Range. Check HF_ENDPOINT.")
        return int(total[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0
