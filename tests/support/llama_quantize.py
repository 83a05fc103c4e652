"""llama.cpp's own quantiser, the reference for ours, and the tensors of a GGUF file as plain values."""

import ctypes
from pathlib import Path

from qgguf.convert.quant_recipes import FILE_TYPE_IDS
from qgguf.gguf_format.reader import read_header
from qgguf.gguf_format.tensors import TENSOR_TYPES, TYPE_IDS
from qgguf.native import binding
from qgguf.native.builds import BINDING_VERSION


class OddRowsError(Exception):
    """This release's quantiser stores no rows that fit no block. The newest stores them as F16, as ours does."""


def llama_quantize(source: Path, out: Path, quant: str, token_embedding_type: str | None = None) -> Path:
    """Run llama_model_quantize on an F32, F16 or BF16 file, and return `out`.

    raises  OddRowsError: rows that fit no block, in a release before the newest
    """
    llama = binding.llama()
    params = llama.llama_model_quantize_default_params()
    params.nthread, params.ftype = 2, FILE_TYPE_IDS[quant]
    if token_embedding_type:
        params.token_embedding_type = TYPE_IDS[token_embedding_type]
    code = llama.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params))
    errors = binding.last_errors()
    if code and "no tensor type fallback" in errors and binding.version().partition("+")[0] != BINDING_VERSION:
        raise OddRowsError(errors)
    assert code == 0, errors
    return out


def tensors_of(path: Path) -> list[tuple[str, tuple[int, ...], str, bytes]]:
    """Return (name, shape, type, bytes) of every tensor, in the order of the file."""
    header, tensors = read_header(path), []
    with path.open("rb") as file:
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            tensors.append((tensor.name, tensor.shape, TENSOR_TYPES[tensor.type_id][0], file.read(tensor.size_bytes)))
    return tensors
