"""Convert a Hugging Face checkpoint to a GGUF file."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from qgguf import hub
from qgguf.atomic_file import as_output_error, check_free_space, check_target, part_file
from qgguf.convert.architectures import ARCHITECTURES
from qgguf.convert.architectures.table import Architecture, architecture_of, is_dropped, name_tensors
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.checksums import Checksums
from qgguf.convert.metadata import checksum_entry, file_entries
from qgguf.convert.quant_recipes import ModelShape, check_quant, check_token_embedding_type, file_order, tensor_type
from qgguf.convert.sentence_transformers import read_modules, transformer_folder
from qgguf.convert.streaming import TensorConversion, convert_tensors
from qgguf.convert.writeback import Writeback
from qgguf.errors import CheckpointError, OptionError, OutputError, QgError
from qgguf.gguf_format.reader import read_header
from qgguf.gguf_format.tensors import TYPE_IDS, TensorInfo
from qgguf.gguf_format.writer import Entry, aligned, header_bytes, lay_out
from qgguf.hardware.cores import usable_cores
from qgguf.hub.repo_name import is_repo_name, repo_of_folder
from qgguf.model.spec import Pooling
from qgguf.settings import threads_setting
from qgguf.types import Progress

# Stands for a SHA-256 until it is known, at the same length.
_NO_CHECKSUM = "0" * 64


def convert_checkpoint(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    quant: str = "Q4_K_M",
    token_embedding_type: str | None = None,
    pooling: str | None = None,
    threads: int | None = None,
    force: bool = False,
    revision: str | None = None,
    on_progress: Progress | None = None,
    on_fetch: Progress | None = None,
) -> Path:
    """Convert a Hugging Face checkpoint to a GGUF file, in one pass and without torch.

    checkpoint            a folder, or a repository "owner/name", which is downloaded
    out                   the file to write, or its folder; None: "<name>-<QUANT>.gguf" in the current folder
    quant                 quantisation: F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_0, Q4_K_M, Q4_K_S, Q4_0, IQ4_NL or IQ4_XS
    token_embedding_type  another type for the token embedding alone
    pooling               mean, cls or last, for a checkpoint that declares none
    threads               None: one per core that this process may use
    force                 replace an existing file
    revision              branch, tag or commit of the repository
    on_progress           called with bytes done and bytes in all, of the weights
    on_fetch              called with the same, of the download
    returns               the path of the file
    raises                CheckpointError, OptionError, OutputError, OutputExistsError, ModelNotFoundError
    """
    quant = check_quant(quant)
    embedding_type = check_token_embedding_type(token_embedding_type) if token_embedding_type else None
    override = None if pooling is None else Pooling.from_name(pooling)
    n_threads = threads_setting(threads, environment={}) or usable_cores()
    name, repo = _name_of(checkpoint, revision)
    target = _target(out, f"{name.lower()}-{quant}.gguf", force)
    source = _at_transformer(_open(checkpoint, name, repo, revision, on_fetch))
    _refuse_weights(target, source.weight_files)

    architecture = architecture_of(ARCHITECTURES, source.config)
    _refuse_features(architecture, source)
    modules = read_modules(source, architecture.poolings, override)
    conversions = _plan(architecture, source, quant, embedding_type)
    n_params = sum(math.prod(conversion.target.shape) for conversion in conversions)
    with Checksums(source.weight_files) as checksums:
        entries = file_entries(source, architecture, modules, quant, n_params)
        with part_file(target, replace=force) as part, Writeback(part) as disk:
            _write(part, source.weight_files, entries, conversions, checksums, disk, n_threads, on_progress)
            disk.finish()
            _check(part, [conversion.target for conversion in conversions])
    return target


def _name_of(checkpoint: str | Path, revision: str | None) -> tuple[str, str]:
    """Return the model's name, and its repository or ""."""
    if not isinstance(checkpoint, str | os.PathLike):
        raise CheckpointError(
            f"checkpoint={checkpoint!r}; the folder of a checkpoint, or a repository (owner/name), is needed."
        )
    folder = Path(checkpoint)
    if folder.is_dir():
        if revision is not None:
            raise OptionError(f"{folder} is a folder; a revision goes with a repository (owner/name). Leave it out.")
        repo, _ = _hub_origin(folder)
        return repo.rpartition("/")[2] or folder.resolve().name or "model", repo
    if folder.exists():
        raise CheckpointError(f"{folder} is a file. Give the folder of a Hugging Face checkpoint.")
    if isinstance(checkpoint, str) and is_repo_name(checkpoint):
        return checkpoint.rpartition("/")[2], checkpoint
    raise CheckpointError(
        f"There is no folder {checkpoint}. Give the folder of a Hugging Face checkpoint, or a repository (owner/name)."
    )


def _hub_origin(folder: Path) -> tuple[str, str]:
    """Return the repository and commit of a snapshot folder in the hub cache, or two empty strings."""
    parts = folder.absolute().parts[-3:]
    repo = repo_of_folder(parts[0]) if len(parts) == 3 and parts[1] == "snapshots" else None
    return (repo, parts[2]) if repo else ("", "")


def _open(checkpoint: str | Path, name: str, repo: str, revision: str | None, on_fetch: Progress | None) -> Checkpoint:
    folder = Path(checkpoint)
    if folder.is_dir():
        return Checkpoint(folder, name, repo, _hub_origin(folder)[1])
    folder, commit = hub.fetch_checkpoint(repo, revision, on_fetch)
    return Checkpoint(folder, name, repo, commit)


def _at_transformer(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the folder in which modules.json has its Transformer."""
    subfolder = transformer_folder(checkpoint)
    if not subfolder:
        return checkpoint
    folder = checkpoint.folder
    return replace(checkpoint, folder=folder / subfolder, top=folder, _read={})


def _refuse_features(architecture: Architecture, source: Checkpoint) -> None:
    if "quantization_config" in source.config:
        raise CheckpointError("config.json has a quantization_config. Give the original BF16, F16 or F32 checkpoint.")
    try:
        reason = architecture.refuse(source.config)
    except (TypeError, ZeroDivisionError, ValueError):
        reason = "it has values of the wrong kind"
    if reason:
        raise CheckpointError(f"config.json cannot be converted: {reason}. llama.cpp would compute other vectors.")


def _plan(
    architecture: Architecture, source: Checkpoint, quant: str, embedding_type: str | None
) -> list[TensorConversion]:
    """Choose the type and offset of every tensor; the result is in the order of the file."""
    sizes = architecture.sizes(source.config)
    model = ModelShape(sizes["layers"], sizes["heads"], sizes["kv_heads"])
    tensors_in_files = source.tensors(lambda name: is_dropped(architecture, name))
    stored = {item.name: item.stored for item in name_tensors(architecture, source.config, tensors_in_files)}
    tensors = []
    for name in sorted(stored, key=file_order):
        shape = stored[name].shape[::-1]
        tensors.append((name, shape, TYPE_IDS[tensor_type(quant, name, shape, model, embedding_type)]))
    return [TensorConversion(stored[target.name], target) for target in lay_out(tensors)]


def _target(out: str | Path | None, default_name: str, force: bool) -> Path:
    target = Path.cwd() / default_name if out is None else Path(out)
    if target.is_dir():
        target = target / default_name
    check_target(target, replace=force)
    return target


def _refuse_weights(target: Path, weight_files: Sequence[Path]) -> None:
    """Refuse to replace the source, even with force."""
    if any(target.exists() and file.samefile(target) for file in weight_files):
        raise OutputError(f"{target} is one of the weight files. Choose another name.")


def _write(
    part: Path,
    files: Sequence[Path],
    entries: list[Entry],
    conversions: Sequence[TensorConversion],
    checksums: Checksums,
    disk: Writeback,
    threads: int,
    on_progress: Progress | None,
) -> None:
    """Write the header, the weights, and the header again with the checksums, which are known only at the end."""
    tensors = [conversion.target for conversion in conversions]

    def header(digests: Sequence[tuple[str, str]]) -> bytes:
        return header_bytes([*entries, checksum_entry(digests)], tensors)

    first = header([(_NO_CHECKSUM, file.name) for file in files])
    total_bytes = len(first) + tensors[-1].offset + aligned(tensors[-1].size_bytes)
    check_free_space(part.parent, total_bytes)
    with as_output_error(part), part.open("r+b") as file:
        file.truncate(total_bytes)
    checksums.use_small_blocks()
    convert_tensors(conversions, part, len(first), threads, on_progress, disk.wrote)
    final = header(checksums.wait())
    with as_output_error(part), part.open("r+b") as file:
        file.write(final)


def _check(part: Path, tensors: Sequence[TensorInfo]) -> None:
    """Read the file as a runtime would, and compare its tensors with the plan."""
    try:
        header = read_header(part)
    except QgError as error:
        raise OutputError(f"The written file cannot be read back: {error}") from error
    if header.tensors != tuple(tensors):
        raise OutputError(f"{part} does not read back as it was written. Check the disk, and convert again.")
