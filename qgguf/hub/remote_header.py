"""The header of a GGUF on the hub, by a few requests for parts of it: nothing is downloaded and nothing kept."""

import re
from typing import Any

from qgguf.errors import ModelNotFoundError
from qgguf.gguf_format.reader import Header, parse_header
from qgguf.hub.download import open_file
from qgguf.hub.errors import translate_errors
from qgguf.hub.repository import RepoFile

_FIRST_BYTES = 1 << 16
# The vocabulary of a large model makes a header of 6 MB: this much more each time, and as much as is there already.
_LEAST_MORE = 1 << 20
_TOTAL = re.compile(r"bytes \d+-\d+/(\d+)")


def read_remote_header(file: RepoFile) -> Header:
    """What the file says before its weights begin.

    raises  ModelNotFoundError: no network, no such file; ModelFileError: not a GGUF, or a wrong one
    """
    wanted = f"{file.repo}/{file.name}"
    beginning = _Beginning(file)
    with translate_errors(wanted):
        beginning.read(0, _FIRST_BYTES)
        return parse_header(wanted, beginning.size_bytes, beginning.read, _LEAST_MORE)


class _Beginning:
    """The first bytes of a file, as many as were asked for; no byte is fetched twice."""

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
            # A server that does not know ranges sends the file from its first byte on.
            skipped = 0 if response.status_code == 206 else start
            got = bytearray()
            for chunk in chunks:
                got += chunk
                if len(got) >= skipped + stop - start:
                    break
        if len(got) < skipped + stop - start:
            raise ConnectionError(f"the answer ended after {len(got):,} bytes of {stop - start:,}")
        return bytes(got[skipped : skipped + stop - start])


def _size_of(response: Any) -> int:
    """The whole file's size as an answer tells it; 0 where it does not."""
    if response.status_code == 206:
        found = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
        if not found:
            raise ModelNotFoundError("The hub sends a part of a file and not which. Check HF_ENDPOINT.")
        return int(found[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0
