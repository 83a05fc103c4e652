"""Writes vectors to a file or stdout, as json, jsonl, npy, csv or base64."""

import base64
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from qgguf.cli.streams import has_stdout
from qgguf.errors import OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qgguf.embedder import Embeddings

FORMATS = ("json", "jsonl", "npy", "csv", "base64")


def write_vectors(
    form: str, write: Callable[[bytes], object], embeddings: "Embeddings", model: str, precision: str
) -> None:
    """Write vectors in a format, row by row.

    form       one of FORMATS
    write      function that takes bytes
    model      name of the model in the output
    precision  precision of the vectors
    """
    if form == "json":
        head = {"model": model, "dims": embeddings.vectors.shape[1], "precision": precision}
        _write_json(write, embeddings, head)
    elif form == "npy":
        _write_npy(write, embeddings.vectors)
    else:
        line = {"jsonl": _json_line, "csv": _csv_line, "base64": _base64_line}[form]
        for index in range(len(embeddings)):
            write(line(embeddings, index).encode() + b"\n")


def _write_json(write: Callable[[bytes], object], embeddings: "Embeddings", head: dict[str, Any]) -> None:
    """Write one object, with one line per vector, so that it can be read in a terminal."""
    write(json.dumps(head, ensure_ascii=False)[:-1].encode() + b', "embeddings": [')
    for index, vector in enumerate(embeddings.vectors):
        write(f"{',' if index else ''}\n[{numbers(vector, ', ')}]".encode())
    n_tokens, truncated = json.dumps(embeddings.n_tokens.tolist()), json.dumps(embeddings.truncated.tolist())
    write(f'\n], "n_tokens": {n_tokens}, "truncated": {truncated}}}\n'.encode())


def _write_npy(write: Callable[[bytes], object], vectors: "NDArray[Any]") -> None:
    import numpy as np

    head = io.BytesIO()
    vectors = _little_endian(vectors)
    kind = np.lib.format.dtype_to_descr(vectors.dtype)
    np.lib.format.write_array_header_1_0(head, {"descr": kind, "fortran_order": False, "shape": vectors.shape})
    write(head.getvalue())
    for vector in vectors:
        write(vector.tobytes())


def _json_line(embeddings: "Embeddings", index: int) -> str:
    values = numbers(embeddings.vectors[index], ", ")
    n_tokens, cut = int(embeddings.n_tokens[index]), json.dumps(bool(embeddings.truncated[index]))
    return f'{{"index": {index}, "embedding": [{values}], "n_tokens": {n_tokens}, "truncated": {cut}}}'


def _csv_line(embeddings: "Embeddings", index: int) -> str:
    return numbers(embeddings.vectors[index], ",")


def _base64_line(embeddings: "Embeddings", index: int) -> str:
    return base64.b64encode(_little_endian(embeddings.vectors[index]).tobytes()).decode()


def choose_format(form: str | None, out: str | None) -> str:
    """Return the format asked for, else the one that the output's name ends in, else json.

    raises  click.UsageError: npy to a terminal
    """
    ending = Path(out).suffix[1:].lower() if out else ""
    form = form or (ending if ending in FORMATS else "json")
    if form == "npy" and out in (None, "-") and sys.stdout.isatty():
        raise click.UsageError("npy is binary, and stdout is a terminal. Add -o FILE, or pipe it on.")
    return form


def numbers(vector: "NDArray[Any]", separator: str) -> str:
    """Return a vector's numbers in the fewest digits that give the same float32 back.

    >>> import numpy as np
    >>> numbers(np.array([0.1, -1e-9, 1], np.float32), ",")
    '0.1,-1e-09,1.0'
    """
    return separator.join(vector.astype(str).tolist())


@contextmanager
def output(out: str | None) -> Iterator[Callable[[bytes], object]]:
    """Open `out` ("-" or None: stdout) and yield the function that writes bytes to it.

    A regular file appears when the block ends without an error.
    """
    if out in (None, "-"):
        if not has_stdout():
            sys.stdout.write("")  # raises now, before the work
        yield sys.stdout.buffer.write
        sys.stdout.buffer.flush()
        return
    from qgguf.atomic_file import open_output

    with open_output(Path(str(out))) as write:
        yield write


def refuse_inputs(out: str | None, inputs: Mapping[str, str | os.PathLike[str] | None]) -> None:
    """Refuse to write over a regular file that the command reads.

    inputs  what a file is -> its path; None and "-": no file
    raises  OutputError
    """
    if out is None or not os.path.isfile(out):
        return
    for what, path in inputs.items():
        if path is not None and os.path.isfile(path) and os.path.samefile(out, path):
            raise OutputError(f"Cannot write {out}: it is {what}. Choose another output file.")


def _little_endian(vector: "NDArray[Any]") -> "NDArray[Any]":
    return vector.astype(vector.dtype.newbyteorder("<"), copy=False)
