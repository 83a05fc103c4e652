"""convert_checkpoint: the converter's one call, which reads like a recipe."""

from collections.abc import Callable, Sequence
from pathlib import Path

from qgguf import hub
from qgguf.atomic_file import as_output_error, check_free_space, check_target, part_file
from qgguf.convert import quant_recipes as mixture
from qgguf.convert.architectures import ARCHITECTURES
from qgguf.convert.architectures.table import Architecture, architecture_of, name_tensors
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.checksums import Checksums
from qgguf.convert.metadata import checksum_entry, file_entries
from qgguf.convert.safetensors import StoredTensor
from qgguf.convert.sentence_transformers import read_modules
from qgguf.convert.streaming import Job, stream
from qgguf.convert.writeback import Writeback
from qgguf.errors import CheckpointError, OptionError, OutputError, QgError
from qgguf.gguf_format.reader import read_header, row_bytes
from qgguf.gguf_format.writer import Entry, TensorPlace, aligned, header_bytes
from qgguf.hardware.cores import usable_cores
from qgguf.hub.repo_name import is_repo_name, repo_of_folder
from qgguf.model.spec import Pooling
from qgguf.settings import MOST_THREADS

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
    on_progress: Callable[[int, int], None] | None = None,
    on_fetch: Callable[[int, int], None] | None = None,
) -> Path:
    """Convert a Hugging Face checkpoint to a GGUF file, in one pass and without torch.

    checkpoint            a folder, or a repository "owner/name" that is fetched first
    out                   the file to write, or a folder for it; None: "<name>-<QUANT>.gguf" here
    quant                 one of `mixture.QUANTS`
    token_embedding_type  another type for the token embedding, which is only looked up and never multiplied
    pooling               mean, cls or last, for a checkpoint that declares none
    threads               None: every core that this process may use
    force                 replace a file that is there
    revision              of a repository: branch, tag or commit
    on_progress           called with (bytes done, bytes in all) of the weights
    on_fetch              the same while a repository is fetched
    returns               the file written
    raises                CheckpointError, OptionError, OutputError, OutputExistsError, ModelNotFoundError
    """
    quant = mixture.check_quant(quant)
    embedding_type = mixture.check_token_embedding_type(token_embedding_type) if token_embedding_type else None
    override, threads = None if pooling is None else Pooling.from_name(pooling), _threads(threads)
    name, repo = _name_of(checkpoint, revision)
    target = _target(out, f"{name.lower()}-{quant}.gguf", force)
    source = _open(checkpoint, name, repo, revision, on_fetch)
    _refuse_weights(target, source.weight_files)

    architecture = architecture_of(ARCHITECTURES, source.config)
    _refuse_features(architecture, source)
    modules = read_modules(source, architecture.poolings, override)
    stored = source.tensors()
    jobs = _plan(architecture, source, stored, quant, embedding_type)
    n_params = sum(_count(job.place.shape) for job in jobs)
    with Checksums(source.weight_files) as checksums:
        entries = file_entries(source, architecture, modules, quant, n_params)
        with part_file(target, replace=force) as part, Writeback(part) as disk:
            _write(part, source.weight_files, entries, jobs, checksums, disk, threads, on_progress)
            disk.finish()
            _check(part, [job.place for job in jobs])
    return target


def _threads(threads: int | None) -> int:
    if threads is None:
        return usable_cores()
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise OptionError(f"threads is {threads!r}; a whole number from 1 to {MOST_THREADS} is needed.")
    return threads


def _name_of(checkpoint: str | Path, revision: str | None) -> tuple[str, str]:
    """(model name, repository or "")."""
    folder = Path(checkpoint)
    if folder.is_dir():
        if revision is not None:
            raise OptionError(f"{folder} is a folder; a revision goes with a repository (owner/name). Leave it out.")
        folder = folder.absolute()
        return _cached(folder)[0].rpartition("/")[2] or folder.resolve().name or "model", _cached(folder)[0]
    if folder.exists():
        raise CheckpointError(f"{folder} is a file. Give the folder of a Hugging Face checkpoint.")
    if isinstance(checkpoint, str) and is_repo_name(checkpoint):
        return checkpoint.rpartition("/")[2], checkpoint
    raise CheckpointError(
        f"There is no folder {checkpoint}. Give the folder of a Hugging Face checkpoint, or a repository (owner/name)."
    )


def _cached(folder: Path) -> tuple[str, str]:
    """(repository, commit) of a snapshot in the hub's cache, else ("", "")."""
    parts = folder.parts[-3:]
    repo = repo_of_folder(parts[0]) if len(parts) == 3 and parts[1] == "snapshots" else None
    return (repo, parts[2]) if repo else ("", "")


def _open(
    checkpoint: str | Path, name: str, repo: str, revision: str | None, on_fetch: Callable[[int, int], None] | None
) -> Checkpoint:
    folder = Path(checkpoint)
    if folder.is_dir():
        return Checkpoint(folder, name, repo, _cached(folder.absolute())[1])
    folder, commit = hub.fetch_checkpoint(repo, revision, on_fetch)
    return Checkpoint(folder, name, repo, commit)


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
    architecture: Architecture, source: Checkpoint, stored: list[StoredTensor], quant: str, embedding_type: str | None
) -> list[Job]:
    """Every tensor's type and place, in the order of the file."""
    named = name_tensors(architecture, source.config, stored)
    sizes = architecture.sizes(source.config)
    model = mixture.Model(sizes["layers"], sizes["heads"], sizes["kv_heads"])
    jobs, offset = [], 0
    for item in sorted(named, key=lambda item: mixture.file_order(item.name)):
        shape = item.stored.shape[::-1]
        type_id = mixture.TYPE_IDS[mixture.tensor_type(quant, item.name, shape, model, embedding_type)]
        size_bytes = _count(shape[1:]) * row_bytes(type_id, shape[0])
        jobs.append(Job(item.stored, TensorPlace(item.name, shape, type_id, offset, size_bytes)))
        offset += aligned(size_bytes)
    return jobs


def _count(shape: Sequence[int]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def _target(out: str | Path | None, usual_name: str, force: bool) -> Path:
    target = Path.cwd() / usual_name if out is None else Path(out)
    if target.is_dir():
        target = target / usual_name
    check_target(target, replace=force)
    return target


def _refuse_weights(target: Path, weight_files: Sequence[Path]) -> None:
    """Force may replace an old result, never the source."""
    if any(target.exists() and file.samefile(target) for file in weight_files):
        raise OutputError(f"{target} is one of the weight files. Choose another name.")


def _write(
    part: Path,
    files: Sequence[Path],
    entries: list[Entry],
    jobs: Sequence[Job],
    checksums: Checksums,
    disk: Writeback,
    threads: int,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    """Header, weights, and the header again with the checksums, which are known by then and as long."""
    places = [job.place for job in jobs]

    def header(digests: Sequence[tuple[str, str]]) -> bytes:
        return header_bytes([*entries, checksum_entry(digests)], places)

    first = header([(_NO_CHECKSUM, file.name) for file in files])
    total_bytes = len(first) + places[-1].offset + aligned(places[-1].size_bytes)
    check_free_space(part.parent, total_bytes)
    with as_output_error(part), part.open("r+b") as file:
        file.truncate(total_bytes)
    checksums.undisturbed()
    stream(jobs, part, len(first), threads, on_progress, disk.wrote)
    final = header(checksums.wait())
    with as_output_error(part), part.open("r+b") as file:
        file.write(final)


def _check(part: Path, places: Sequence[TensorPlace]) -> None:
    """Read the file as a runtime would, and compare it with the plan."""
    try:
        header = read_header(part)
    except QgError as error:
        raise OutputError(f"The file written cannot be read back: {error}") from error
    found = [
        TensorPlace(tensor.name, tensor.shape, tensor.type_id, tensor.offset - header.data_offset, tensor.size_bytes)
        for tensor in header.tensors
    ]
    if found != list(places):
        raise OutputError(f"{part} does not read back as it was written. Check the disk, and convert again.")
