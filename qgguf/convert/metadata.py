"""All values of the GGUF: those llama.cpp's own converter writes, in its order, then qgguf's."""

from collections.abc import Iterable
from typing import Any

from qgguf._version import __version__
from qgguf.convert.architectures.table import Architecture, parameter_value, size
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.model_card import general_entries
from qgguf.convert.quant_recipes import FILE_TYPE_IDS
from qgguf.convert.sentence_transformers import SentenceModules
from qgguf.convert.tokenizer import tokenizer_entries
from qgguf.gguf_format.writer import Entry
from qgguf.model.prompts import QWEN3_INSTRUCTION_TEMPLATE
from qgguf.model.spec import Pooling

_QUANTIZATION_VERSION = 2
# Qwen3-Embedding and its fine-tunes fill their vocabulary exactly; the chat models pad theirs to 151936.
_QWEN3_EMBEDDING_VOCABULARIES = (151669, 151665)
_QWEN3_SMALLEST_DIMS = 32

# generation_config.json -> general.sampling.*; an embedding has no use for them, the converter writes them even so
_SAMPLING = (
    ("sequence", "sequence", str),
    ("top_k", "top_k", int),
    ("top_p", "top_p", float),
    ("min_p", "min_p", float),
    ("xtc_probability", "xtc_probability", float),
    ("xtc_threshold", "xtc_threshold", float),
    ("temperature", "temp", float),
    ("penalty_last_n", "penalty_last_n", int),
    ("penalty_repeat", "penalty_repeat", float),
    ("repetition_penalty", "penalty_repeat", float),
    ("mirostat", "mirostat", int),
    ("mirostat_tau", "mirostat_tau", float),
    ("mirostat_eta", "mirostat_eta", float),
)


def file_entries(
    checkpoint: Checkpoint, architecture: Architecture, modules: SentenceModules, quant: str, n_params: int
) -> list[Entry]:
    """Every value but the weights' checksums.

    raises  CheckpointError: a value of config.json, or the tokenizer
    """
    config, name = checkpoint.config, architecture.name
    entries = [Entry.string("general.architecture", name), Entry.string("general.type", "model")]
    entries += _sampling(checkpoint)
    entries += general_entries(checkpoint, n_params)
    for parameter in architecture.parameters:
        key, value = f"{name}.{parameter.key}", parameter_value(config, parameter)
        entries.append(Entry.u32(key, int(value)) if parameter.kind is int else Entry.f32(key, value))
    entries.append(Entry.u32("general.file_type", FILE_TYPE_IDS[quant]))
    entries += [Entry.flag(f"{name}.{key}", value) for key, value in architecture.extra]
    entries.append(Entry.u32(f"{name}.pooling_type", modules.pooling.value))
    entries.append(Entry.u32("general.quantization_version", _QUANTIZATION_VERSION))
    entries += tokenizer_entries(checkpoint, architecture.tokenizer, architecture.sizes(config)["vocab"])
    return entries + _own(checkpoint, architecture, modules)


def checksum_entry(checksums: Iterable[tuple[str, str]]) -> Entry:
    """The weights' SHA-256; as long before they are known as after.

    checksums  (hex digest, file name)
    """
    return Entry.strings("qgguf.source.sha256", [f"{digest} {name}" for digest, name in checksums])


def _sampling(checkpoint: Checkpoint) -> list[Entry]:
    said, entries = checkpoint.json("generation_config.json"), {}
    for source, target, kind in _SAMPLING:
        key, value = f"general.sampling.{target}", said.get(source)
        if kind is str and isinstance(value, str) and value:
            entries[key] = Entry.string(key, value)
        elif kind is int and type(value) is int and -(1 << 31) <= value < 1 << 31:
            entries[key] = Entry.i32(key, value)
        elif kind is float and isinstance(value, int | float) and abs(value) < 1e30:
            entries[key] = Entry.f32(key, value)
    return list(entries.values())


def _own(checkpoint: Checkpoint, architecture: Architecture, modules: SentenceModules) -> list[Entry]:
    """qgguf.*: all that the runtime needs and llama.cpp has no key for."""
    config, dims = checkpoint.config, size(checkpoint.config, "hidden_size")
    entries = [Entry.string(f"qgguf.prompt.{name}", text) for name, text in modules.prompts.items()]
    if modules.default_prompt_name is not None:
        entries.append(Entry.string("qgguf.default_prompt_name", modules.default_prompt_name))
    is_family = _is_qwen3_embedding(architecture, config, modules.pooling)
    if is_family:
        entries.append(Entry.string("qgguf.instruction_template", QWEN3_INSTRUCTION_TEMPLATE))
    trained = [_QWEN3_SMALLEST_DIMS, dims] if is_family and dims >= _QWEN3_SMALLEST_DIMS else _matryoshka(config, dims)
    if trained:
        entries += [Entry.u32("qgguf.mrl.min_dims", min(trained)), Entry.u32("qgguf.mrl.max_dims", max(trained))]
    if modules.max_tokens is not None:
        entries.append(Entry.u32("qgguf.max_tokens", modules.max_tokens))
    if checkpoint.repo:
        entries.append(Entry.string("qgguf.source.repo", checkpoint.repo))
        entries.append(Entry.string("qgguf.source.revision", checkpoint.revision))
    entries.append(Entry.string("qgguf.version", __version__))
    return entries


def _is_qwen3_embedding(architecture: Architecture, config: dict[str, Any], pooling: Pooling) -> bool:
    return (
        architecture.name == "qwen3"
        and pooling is Pooling.LAST
        and config.get("vocab_size") in _QWEN3_EMBEDDING_VOCABULARIES
    )


def _matryoshka(config: dict[str, Any], dims: int) -> list[int]:
    said = config.get("matryoshka_dimensions")
    return [item for item in said if type(item) is int and 0 < item <= dims] if isinstance(said, list) else []
