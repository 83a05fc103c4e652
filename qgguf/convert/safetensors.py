"""Reads a .safetensors header and returns the offset of each tensor. Written against hostile files; reads no weights.

source  https://github.com/huggingface/safetensors#format
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from qgguf.errors import CheckpointError
from qgguf.lfs_pointer import is_lfs_pointer, pointer_message

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 8

# dtype -> bytes per element
_DTYPES: Mapping[str, int] = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a weight file.

    shape   as in the checkpoint: (rows, columns) of a matrix
    offset  bytes from the start of the file
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size_bytes: int


def read_tensors(path: Path) -> list[StoredTensor]:
    """Return the tensors of a file in the order of their offsets. They fill it without gap or overlap.

    raises  CheckpointError: cut short, not a safetensors file, or a header that cannot be true
    """
    try:
        with path.open("rb") as file:
            size_bytes = path.stat().st_size
            start = file.read(8)
            if is_lfs_pointer(start + file.read(100), size_bytes):
                raise CheckpointError(pointer_message(str(path)))
            file.seek(8)
            header_bytes = int.from_bytes(start, "little")
            if len(start) < 8 or header_bytes > size_bytes - 8:
                raise _wrong(path, f"is cut short: its header needs {8 + header_bytes:,} bytes, it has {size_bytes:,}")
            if header_bytes > MAX_HEADER_BYTES:
                raise _wrong(path, f"claims a header of {header_bytes:,} bytes; {MAX_HEADER_BYTES:,} is the most")
            raw = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    data_offset = 8 + header_bytes
    header = _parse(raw, path)
    header.pop("__metadata__", None)
    tensors = [_tensor(name, entry, path, data_offset) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_offsets(tensors, path, data_offset, size_bytes)
    return tensors


def _wrong(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} {what}. Download the checkpoint again.")


def _parse(raw: bytes, path: Path) -> dict[str, object]:
    def without_twins(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [name for name, _ in pairs]
        if len(set(names)) != len(names):
            twin = next(name for name in names if names.count(name) > 1)
            raise _wrong(path, f"has {twin!r} twice in its header")
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=without_twins)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, "is not a safetensors file: its header is not JSON") from error
    if not isinstance(header, dict):
        raise _wrong(path, "is not a safetensors file: its header is not a JSON object")
    return header


def _tensor(name: str, entry: object, path: Path, data_offset: int) -> StoredTensor:
    entry = entry if isinstance(entry, dict) else {}
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not _are_sizes(shape) or len(shape) > MAX_DIMS or not _are_sizes(offsets) or len(offsets) != 2:
        raise _wrong(path, f"describes {name!r} wrongly: a dtype, a shape and two data_offsets are needed")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(
            f"{path} stores {name!r} as {dtype!r}, which is not known here. Save the checkpoint in BF16, F16 or F32."
        )
    begin, end = offsets
    needed = math.prod(shape) * _DTYPES[dtype]
    if end - begin != needed:
        raise _wrong(path, f"gives {name!r} {end - begin:,} bytes; {dtype} {list(shape)} needs {needed:,}")
    return StoredTensor(name, dtype, tuple(shape), path, data_offset + begin, needed)


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _check_offsets(tensors: list[StoredTensor], path: Path, data_offset: int, size_bytes: int) -> None:
    end = data_offset
    for tensor in tensors:
        if tensor.offset != end:
            what = "overlaps another tensor" if tensor.offset < end else f"leaves {tensor.offset - end:,} bytes unused"
            raise _wrong(path, f"is damaged: {tensor.name!r} {what}")
        end += tensor.size_bytes
    if end > size_bytes:
        raise _wrong(path, f"is cut short: {end - size_bytes:,} of {end:,} bytes are missing")
    if end < size_bytes:
        raise _wrong(path, f"is damaged: {size_bytes - end:,} bytes after its last tensor")
