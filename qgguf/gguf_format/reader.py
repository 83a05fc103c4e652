"""Read the header of a GGUF file: metadata, and the description of each tensor.

Safe for hostile files: every length is checked against the size of the file before it is used.

source  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qgguf.errors import ModelFileError
from qgguf.gguf_format import keys
from qgguf.gguf_format.tensors import TENSOR_TYPES, TensorInfo
from qgguf.lfs_pointer import is_lfs_pointer, pointer_message

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_DIMS = 4
MAX_HEADER_BYTES = 1 << 30
MAX_ARRAY_DEPTH = 2
_FIRST_READ, _LEAST_MORE = 1 << 16, 1 << 24

# value type id -> struct code
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Header:
    """Everything in a GGUF file that comes before its weights.

    metadata     key -> bool, int, float, str, or a list of them
    data_offset  where the weights begin, in bytes from the start of the file
    size_bytes   of the whole file
    """

    version: int
    metadata: Mapping[str, object]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    size_bytes: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a GGUF file.

    returns  Header, whose tensors are all inside the file
    raises   ModelFileError: not a GGUF, big-endian, an unknown version, cut short, or with impossible lengths
    """
    path = Path(path)
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            return parse_header(os.fspath(path), size_bytes, read)
    except OSError as error:
        raise ModelFileError(f"Cannot read {path}: {error.strerror}.") from error


def parse_header(
    name: str, size_bytes: int, read: Callable[[int, int], bytes], least_more: int = _LEAST_MORE
) -> Header:
    """Parse the header of a file that is read in pieces, each byte once; otherwise as `read_header`.

    name        the file's name in messages
    size_bytes  of the whole file
    read        (start, stop) -> the bytes from start to stop
    least_more  the least bytes to read when the header goes on; each time at least as many as were read before
    """
    return _Parser(read(0, min(size_bytes, _FIRST_READ)), name, size_bytes, read, least_more).header()


class _Parser:
    """Walks through a header; reads more of the file when it comes to the end of `data`."""

    def __init__(
        self, data: bytes, name: str, size_bytes: int, read: Callable[[int, int], bytes], least_more: int
    ) -> None:
        self.data, self.name, self.size_bytes, self.at = data, name, size_bytes, 0
        self.read, self.least_more = read, least_more

    def error(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.name} {what}. Download or convert the model again.")

    def need(self, n_bytes: int) -> None:
        """Make sure that `data` holds `n_bytes` from here on."""
        end = self.at + n_bytes
        if end <= len(self.data):
            return
        if end > self.size_bytes:
            raise self.error(f"is cut short: its header needs {end:,} bytes or more, the file has {self.size_bytes:,}")
        if end > MAX_HEADER_BYTES:
            raise self.error(f"claims a header of more than {MAX_HEADER_BYTES:,} bytes")
        n_read = len(self.data)
        self.data += self.read(n_read, min(self.size_bytes, max(end, 2 * n_read, n_read + self.least_more)))
        if end > len(self.data):
            raise self.error("changed while it was being read")

    def take(self, code: str) -> int:
        size = struct.calcsize(code)
        self.need(size)
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += size
        return value  # type: ignore[no-any-return]

    def string(self) -> str:
        n_bytes = self.take("Q")
        self.need(n_bytes)
        raw = self.data[self.at : self.at + n_bytes]
        self.at += n_bytes
        return raw.decode("utf-8", "surrogateescape")

    def value(self, type_id: int, depth: int = 0) -> object:
        if type_id in _SCALARS:
            return self.take(_SCALARS[type_id])
        if type_id == _STRING:
            return self.string()
        if type_id != _ARRAY or depth >= MAX_ARRAY_DEPTH:
            raise self.error(f"holds a value of unknown type {type_id}")
        item_type, count = self.take("I"), self.take("Q")
        if item_type in _SCALARS:
            code = _SCALARS[item_type]
            self.need(count * struct.calcsize(code))
            items = struct.unpack_from(f"<{count}{code}", self.data, self.at)
            self.at += count * struct.calcsize(code)
            return list(items)
        if item_type == _STRING:
            return self.strings(count)
        self.need(count * 12)  # the smallest array takes 12 bytes
        return [self.value(item_type, depth + 1) for _ in range(count)]

    def strings(self, count: int) -> list[str]:
        """Read `count` strings. A vocabulary has 300,000 of them: the loop calls and looks up as little as it can."""
        self.need(count * 8)
        unpack, out = struct.Struct("<Q").unpack_from, []
        data, at, n_read = self.data, self.at, len(self.data)
        for _ in range(count):
            start = at + 8
            if start > n_read:
                data, n_read = self.more(at, 8)
            stop = start + unpack(data, at)[0]
            if stop > n_read:
                data, n_read = self.more(at, stop - at)
            out.append(data[start:stop].decode("utf-8", "surrogateescape"))
            at = stop
        self.at = at
        return out

    def more(self, at: int, n_bytes: int) -> tuple[bytes, int]:
        """Return `data` with `n_bytes` from `at` on, and its length."""
        self.at = at
        self.need(n_bytes)
        return self.data, len(self.data)

    def header(self) -> Header:
        if is_lfs_pointer(self.data[:100], self.size_bytes):
            raise ModelFileError(pointer_message(self.name))
        if self.data[:4] != MAGIC:
            raise ModelFileError(
                f"{self.name} is not a GGUF file: it starts with {self.data[:4]!r}, not {MAGIC!r}. "
                "Give a .gguf file, or convert the checkpoint: qgguf convert CHECKPOINT"
            )
        self.at = 4
        version = self.take("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = (
                "is big-endian" if swapped in VERSIONS else f"is GGUF version {version}; versions 2 and 3 are supported"
            )
            raise self.error(what)
        n_tensors, n_values = self.take("Q"), self.take("Q")
        # The smallest entries: a value takes 13 bytes (key length, type, one byte), a tensor 32.
        self.need(n_values * 13 + n_tensors * 32)
        metadata: dict[str, object] = {}
        for _ in range(n_values):
            key = self.string()
            if key in metadata:
                raise self.error(f"has the key {key!r} twice")
            metadata[key] = self.value(self.take("I"))
        alignment = metadata.get(keys.ALIGNMENT, DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.error(f"has {keys.ALIGNMENT} {alignment!r}; a power of two is needed")
        tensors = tuple(self.tensor() for _ in range(n_tensors))
        data_offset = -(-self.at // alignment) * alignment
        self.check(tensors, alignment, data_offset)
        return Header(version, metadata, tensors, data_offset, self.size_bytes)

    def tensor(self) -> TensorInfo:
        name = self.string()
        n_dims = self.take("I")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self.error(f"has a tensor {name!r} of {n_dims} dimensions")
        shape = tuple(self.take("Q") for _ in range(n_dims))
        type_id, offset = self.take("I"), self.take("Q")
        if type_id not in TENSOR_TYPES:
            raise self.error(f"has a tensor {name!r} of type {type_id}, which this version does not know")
        _, block_elements, block_bytes = TENSOR_TYPES[type_id]
        if min(shape) < 1 or shape[0] % block_elements:
            raise self.error(f"has a tensor {name!r} of shape {list(shape)}, impossible for its type")
        return TensorInfo(name, shape, type_id, offset, math.prod(shape) // block_elements * block_bytes)

    def check(self, tensors: tuple[TensorInfo, ...], alignment: int, data_offset: int) -> None:
        """Check that every tensor is inside the file, aligned, and named once."""
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise self.error("names a tensor twice")
        for tensor in tensors:
            if tensor.offset % alignment:
                raise self.error(f"has a tensor {tensor.name!r} off its alignment of {alignment}")
        end = max((data_offset + tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
        if end > self.size_bytes:
            missing = end - self.size_bytes
            raise self.error(f"is cut short: {missing:,} of {end:,} bytes are missing")
