"""GGUF header -> metadata and tensor places. Knows nothing of models, nor of llama.cpp's API.

Written against hostile files: every length is checked against the file before it is used.
source  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qgguf.errors import ModelFileError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_DIMS = 4
MAX_HEADER_BYTES = 1 << 30
MAX_ARRAY_DEPTH = 2
_FIRST_READ, _LEAST_MORE = 1 << 16, 1 << 24

# value type id -> struct code
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

# ggml type id -> (name, elements per block, bytes per block)   source: ggml-common.h of the vendored llama.cpp
TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}

# general.file_type -> word   source: enum llama_ftype in llama.h
FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor's place in the file.

    shape   as ggml counts: shape[0] is the length of a row
    offset  bytes from the start of the file
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF says before its weights begin."""

    version: int
    metadata: Mapping[str, object]
    tensors: tuple[TensorInfo, ...]
    data_offset: int
    size_bytes: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read metadata and tensor places of a GGUF file.

    returns  Header; arrays are lists, the offsets of its tensors have been checked against the file's size
    raises   ModelFileError: not a GGUF, big-endian, an unknown version, cut short, or lengths that cannot be true
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
    """As `read_header`, of a file that is read in pieces, each byte once.

    name        the file's name in messages
    size_bytes  of the whole file
    read        (start, stop) -> those bytes
    least_more  bytes to read on where the header goes on, and at least as many as there are
    """
    return _Parser(read(0, min(size_bytes, _FIRST_READ)), name, size_bytes, read, least_more).header()


def row_bytes(type_id: int, n_columns: int) -> int:
    """Bytes of one row of `n_columns` numbers stored as ggml type `type_id`.

    >>> row_bytes(12, 512)  # Q4_K: two blocks of 144 bytes
    288
    """
    _, block_elements, block_bytes = TENSOR_TYPES[type_id]
    return n_columns // block_elements * block_bytes


class _Parser:
    """Walks a header; `data` grows by reading on when the walk comes to its end."""

    def __init__(
        self, data: bytes, name: str, size_bytes: int, read: Callable[[int, int], bytes], least_more: int
    ) -> None:
        self.data, self.name, self.size_bytes, self.at = data, name, size_bytes, 0
        self.read, self.least_more = read, least_more

    def wrong(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.name} {what}. Download or convert the model again.")

    def need(self, n_bytes: int) -> None:
        """Make `n_bytes` from here available, or say that the file is cut short."""
        end = self.at + n_bytes
        if end <= len(self.data):
            return
        if end > self.size_bytes:
            raise self.wrong(f"is cut short: its header needs {end:,} bytes or more, the file has {self.size_bytes:,}")
        if end > MAX_HEADER_BYTES:
            raise self.wrong(f"claims a header of more than {MAX_HEADER_BYTES:,} bytes")
        here = len(self.data)
        self.data += self.read(here, min(self.size_bytes, max(end, 2 * here, here + self.least_more)))
        if end > len(self.data):
            raise self.wrong("changed while it was read")

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
            raise self.wrong(f"holds a value of unknown type {type_id}")
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
        """`count` strings; the vocabulary's hot loop, so nothing is called or looked up that need not be."""
        self.need(count * 8)
        unpack, out = struct.Struct("<Q").unpack_from, []
        data, at, held = self.data, self.at, len(self.data)
        for _ in range(count):
            start = at + 8
            if start > held:
                data, held = self.more(at, 8)
            stop = start + unpack(data, at)[0]
            if stop > held:
                data, held = self.more(at, stop - at)
            out.append(data[start:stop].decode("utf-8", "surrogateescape"))
            at = stop
        self.at = at
        return out

    def more(self, at: int, n_bytes: int) -> tuple[bytes, int]:
        """The data, and how much it is, with `n_bytes` from `at` on among them."""
        self.at = at
        self.need(n_bytes)
        return self.data, len(self.data)

    def header(self) -> Header:
        if self.data[:4] != MAGIC:
            raise ModelFileError(
                f"{self.name} is not a GGUF file: it starts with {self.data[:4]!r}, not {MAGIC!r}. "
                "Give a .gguf file, or convert the checkpoint: qgguf convert CHECKPOINT"
            )
        self.at = 4
        version = self.take("I")
        if version not in VERSIONS:
            turned = int.from_bytes(version.to_bytes(4, "little"), "big")
            what = "is big-endian" if turned in VERSIONS else f"is GGUF version {version}; versions 2 and 3 are read"
            raise self.wrong(what)
        n_tensors, n_values = self.take("Q"), self.take("Q")
        # The smallest entries: a value takes 13 bytes (key length, type, one byte), a tensor 32.
        self.need(n_values * 13 + n_tensors * 32)
        metadata: dict[str, object] = {}
        for _ in range(n_values):
            key = self.string()
            if key in metadata:
                raise self.wrong(f"has the key {key!r} twice")
            metadata[key] = self.value(self.take("I"))
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self.wrong(f"has general.alignment {alignment!r}; a power of two is needed")
        places = [self.tensor() for _ in range(n_tensors)]
        data_offset = -(-self.at // alignment) * alignment
        tensors = tuple(
            TensorInfo(name, shape, type_id, data_offset + offset, size)
            for name, shape, type_id, offset, size in places
        )
        self.check(tensors, alignment, data_offset)
        return Header(version, metadata, tensors, data_offset, self.size_bytes)

    def tensor(self) -> tuple[str, tuple[int, ...], int, int, int]:
        name = self.string()
        n_dims = self.take("I")
        if not 1 <= n_dims <= MAX_DIMS:
            raise self.wrong(f"has a tensor {name!r} of {n_dims} dimensions")
        shape = tuple(self.take("Q") for _ in range(n_dims))
        type_id, offset = self.take("I"), self.take("Q")
        if type_id not in TENSOR_TYPES:
            raise self.wrong(f"has a tensor {name!r} of type {type_id}, which this version does not know")
        _, block_elements, block_bytes = TENSOR_TYPES[type_id]
        if min(shape) < 1 or shape[0] % block_elements:
            raise self.wrong(f"has a tensor {name!r} of shape {list(shape)}, impossible for its type")
        return name, shape, type_id, offset, math.prod(shape) // block_elements * block_bytes

    def check(self, tensors: tuple[TensorInfo, ...], alignment: int, data_offset: int) -> None:
        """Every tensor inside the file, aligned, named once."""
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise self.wrong("names a tensor twice")
        for tensor in tensors:
            if (tensor.offset - data_offset) % alignment:
                raise self.wrong(f"has a tensor {tensor.name!r} off its alignment of {alignment}")
        end = max((tensor.offset + tensor.size_bytes for tensor in tensors), default=0)
        if end > self.size_bytes:
            missing = end - self.size_bytes
            raise self.wrong(f"is cut short: {missing:,} of {end:,} bytes are missing")
