"""Write the header of a GGUF file: metadata, and the description of each tensor.

source  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from qgguf.errors import CheckpointError
from qgguf.gguf_format.tensors import TensorInfo, row_bytes

ALIGNMENT = 32
_VERSION = 3
_LENGTH = struct.Struct("<Q")
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the metadata, with its value as stored in the file; one constructor per type."""

    key: str
    type_id: int
    value: bytes

    @classmethod
    def u32(cls, key: str, value: int) -> "Entry":
        """Make an entry of an unsigned 32-bit integer."""
        return cls(key, _U32, struct.pack("<I", value))

    @classmethod
    def i32(cls, key: str, value: int) -> "Entry":
        """Make an entry of a signed 32-bit integer."""
        return cls(key, _I32, struct.pack("<i", value))

    @classmethod
    def f32(cls, key: str, value: float) -> "Entry":
        """Make an entry of a 32-bit float."""
        return cls(key, _F32, struct.pack("<f", value))

    @classmethod
    def flag(cls, key: str, value: bool) -> "Entry":
        """Make an entry of a bool."""
        return cls(key, _BOOL, struct.pack("<?", value))

    @classmethod
    def string(cls, key: str, value: str) -> "Entry":
        """Make an entry of a string.

        raises  CheckpointError: half of a surrogate pair, which UTF-8 cannot store
        """
        return cls(key, _STRING, _text(value, key))

    @classmethod
    def strings(cls, key: str, values: Sequence[str]) -> "Entry":
        """Make an entry of an array of strings.

        raises  CheckpointError: half of a surrogate pair, which UTF-8 cannot store
        """
        return cls(key, _ARRAY, struct.pack("<IQ", _STRING, len(values)) + _texts(values, key))

    @classmethod
    def i32s(cls, key: str, values: Sequence[int]) -> "Entry":
        """Make an entry of an array of signed 32-bit integers."""
        return cls(key, _ARRAY, struct.pack("<IQ", _I32, len(values)) + np.asarray(values, "<i4").tobytes())

    def as_text(self) -> str:
        """Return the value of an entry that was made by `string`."""
        return self.value[_LENGTH.size :].decode()


def aligned(n_bytes: int) -> int:
    """Round up to a multiple of ALIGNMENT."""
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def lay_out(tensors: Iterable[tuple[str, tuple[int, ...], int]]) -> list[TensorInfo]:
    """Put tensors one after the other, each at a multiple of ALIGNMENT.

    tensors  (name, shape in ggml's order, ggml type id)
    """
    laid_out, offset = [], 0
    for name, shape, type_id in tensors:
        size_bytes = math.prod(shape[1:]) * row_bytes(type_id, shape[0])
        laid_out.append(TensorInfo(name, shape, type_id, offset, size_bytes))
        offset += aligned(size_bytes)
    return laid_out


def header_bytes(entries: Sequence[Entry], tensors: Sequence[TensorInfo]) -> bytes:
    """Return everything that comes before the weights, padded to ALIGNMENT."""
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(entries))]
    for entry in entries:
        parts += [_text(entry.key, entry.key), struct.pack("<I", entry.type_id), entry.value]
    for tensor in tensors:
        parts += [_text(tensor.name, tensor.name), struct.pack("<I", len(tensor.shape))]
        parts += [struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type_id, tensor.offset)]
    header = b"".join(parts)
    return header.ljust(aligned(len(header)), b"\0")


def _text(text: str, key: str) -> bytes:
    return _texts([text], key)


def _texts(texts: Sequence[str], key: str) -> bytes:
    """Return each text after its length. A vocabulary has 300,000 of them, so no Python function is called per text."""
    try:
        raw = list(map(str.encode, texts))
    except UnicodeEncodeError as error:
        raise CheckpointError(
            f"{key} would hold half of a surrogate pair: {error.object[:40]!r}. Download the checkpoint again."
        ) from error
    lengths = list(map(len, raw))
    packed = {length: _LENGTH.pack(length) for length in set(lengths)}
    parts = [b""] * (2 * len(raw))
    parts[::2], parts[1::2] = map(packed.__getitem__, lengths), raw
    return b"".join(parts)
