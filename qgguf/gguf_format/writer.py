"""The bytes of a GGUF up to its weights: values, tensor names and places.

source  https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qgguf.errors import CheckpointError

ALIGNMENT = 32
_VERSION = 3
_LENGTH = struct.Struct("<Q")
_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9


@dataclass(frozen=True, slots=True)
class Entry:
    """One key and its value, already in bytes."""

    key: str
    type_id: int
    value: bytes

    @classmethod
    def u32(cls, key: str, value: int) -> "Entry":
        return cls(key, _U32, struct.pack("<I", value))

    @classmethod
    def i32(cls, key: str, value: int) -> "Entry":
        return cls(key, _I32, struct.pack("<i", value))

    @classmethod
    def f32(cls, key: str, value: float) -> "Entry":
        return cls(key, _F32, struct.pack("<f", value))

    @classmethod
    def flag(cls, key: str, value: bool) -> "Entry":
        return cls(key, _BOOL, struct.pack("<?", value))

    @classmethod
    def string(cls, key: str, value: str) -> "Entry":
        return cls(key, _STRING, _text(value, key))

    @classmethod
    def strings(cls, key: str, values: Sequence[str]) -> "Entry":
        return cls(key, _ARRAY, struct.pack("<IQ", _STRING, len(values)) + _texts(values, key))

    @classmethod
    def i32s(cls, key: str, values: Sequence[int]) -> "Entry":
        return cls(key, _ARRAY, struct.pack("<IQ", _I32, len(values)) + np.asarray(values, "<i4").tobytes())

    def as_text(self) -> str:
        """Return the value of an entry that was made by `string`."""
        return self.value[_LENGTH.size :].decode()


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """A tensor in the file to be written.

    shape   as ggml counts: shape[0] is the length of a row
    offset  bytes from the start of the weights
    """

    name: str
    shape: tuple[int, ...]
    type_id: int
    offset: int
    size_bytes: int


def aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def header_bytes(entries: Sequence[Entry], tensors: Sequence[TensorPlace]) -> bytes:
    """Everything before the weights, padded to where they begin."""
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(entries))]
    for entry in entries:
        parts += [_text(entry.key, entry.key), struct.pack("<I", entry.type_id), entry.value]
    for tensor in tensors:
        parts += [_text(tensor.name, tensor.name), struct.pack("<I", len(tensor.shape))]
        parts += [struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type_id, tensor.offset)]
    made = b"".join(parts)
    return made.ljust(aligned(len(made)), b"\0")


def _text(text: str, key: str) -> bytes:
    return _texts([text], key)


def _texts(texts: Sequence[str], key: str) -> bytes:
    """Each text after its length; a vocabulary is 300,000 of them, so there is no call of ours per text."""
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
