"""Checks of one model file: header, pooling, end token, prompts, checksum."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from qgguf.errors import ModelFileError
from qgguf.file_hash import sha256_of
from qgguf.gguf_format.reader import read_header
from qgguf.hub import LocalModel
from qgguf.hub.catalogue import published_file
from qgguf.model.from_gguf import spec_of
from qgguf.model.spec import ModelSpec, Pooling
from qgguf.types import Progress


@dataclass(frozen=True, slots=True)
class ModelState:
    """A model file's properties and faults.

    name, path, size_bytes  as `qgguf list` shows them
    embeds                  whether it is an embedding model; False also for a file that cannot be read
    quantization, dims, pooling, end_token, prompts   from the header; "", 0 or () if it has none
    corrections             what the header lacks, and which values are used instead when the model is opened
    checksum                "right", "wrong", "unknown" (none is published) or "not checked"
    wrong                   faults that make it unusable or doubtful, a sentence each
    """

    name: str
    path: str
    size_bytes: int
    embeds: bool = False
    quantization: str = ""
    dims: int = 0
    pooling: str = ""
    end_token: str = ""
    prompts: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()
    checksum: str = "not checked"
    wrong: tuple[str, ...] = ()


def examine_model(model: LocalModel, *, checksums: bool, on_progress: Progress | None = None) -> ModelState:
    """Check one file.

    checksums    whether to read the whole file
    on_progress  called with bytes hashed and bytes in all
    """
    wrong = []
    published = published_file(model.name)
    if published and published.size_bytes is not None and published.size_bytes != model.size_bytes:
        wrong.append(f"It has {model.size_bytes:,} bytes, the published file has {published.size_bytes:,}.")
    checksum = "not checked"
    if checksums:
        expected = (published.sha256 if published else None) or _blob_name(model.path)
        checksum = "unknown" if expected is None else _compare(model.path, expected, on_progress)
        if checksum == "wrong":
            wrong.append(f"Its SHA-256 is not the published one, {expected}.")
    state = ModelState(model.name, str(model.path), model.size_bytes, checksum=checksum, wrong=tuple(wrong))
    try:
        header = read_header(model.path)
    except (ModelFileError, OSError) as error:
        return replace(state, wrong=(*wrong, str(error)))
    try:
        spec = spec_of(header, model.path)
    except ModelFileError:
        # The hub's cache is shared: a GGUF for another program (speech, images) is no fault.
        return state
    return replace(
        state,
        embeds=spec.pooling is not None and spec.pooling.makes_vectors,
        quantization=spec.quantization,
        dims=spec.dims,
        pooling=spec.pooling.name.lower() if spec.pooling is not None else "",
        end_token=spec.end_token or "",
        prompts=tuple(spec.prompts),
        corrections=spec.corrections,
        wrong=(*wrong, *_faults(spec)),
    )


def _faults(spec: ModelSpec) -> list[str]:
    if spec.pooling is Pooling.LAST and spec.end_token_id is None:
        return ["It pools the last token but names no end token, so a vector is that of whatever word comes last."]
    return []


def _blob_name(path: Path) -> str | None:
    # The hub's cache names a file's content by its SHA-256.
    name = path.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else None


def _compare(path: Path, expected: str, on_progress: Progress | None) -> str:
    return "right" if sha256_of(path, on_progress) == expected else "wrong"
