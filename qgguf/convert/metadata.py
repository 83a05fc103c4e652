"""All values of the GGUF: those that llama.cpp's own converter writes, in its order, then qgguf's own."""

from collections.abc import Iterable
from typing import Any

from qgguf._version import __version__
from qgguf.convert.architectures.table import Architecture, parameter_value, size
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.model_card import general_entries
from qgguf.convert.quant_recipes import FILE_TYPE_IDS
from qgguf.convert.sentence_transformers import SentenceModules
from qgguf.convert.tokenizer import tokenizer_entries
from qgguf.gguf_format import keys
from qgguf.gguf_format.writer import Entry
from qgguf.model.families import Card, Traits, family_of
from qgguf.model.prompts import template_of

_QUANTIZATION_VERSION = 2

# generation_config.json -> general.sampling.*: an embedding does not use them, but llama.cpp's converter writes them.
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
    """Return every value except the weights' checksums.

    raises  CheckpointError: a value of config.json, or the tokenizer
    """
    config, name = checkpoint.config, architecture.name
    vocab_size = architecture.sizes(config)["vocab"]
    entries = [Entry.string(keys.ARCHITECTURE, name), Entry.string(keys.TYPE, "model")]
    entries += _sampling(checkpoint)
    general = general_entries(checkpoint, n_params)
    entries += general
    for parameter in architecture.parameters:
        key, value = f"{name}.{parameter.key}", parameter_value(config, parameter)
        entries.append(Entry.u32(key, int(value)) if parameter.kind is int else Entry.f32(key, value))
    entries.append(Entry.u32(keys.FILE_TYPE, FILE_TYPE_IDS[quant]))
    entries += [Entry.flag(f"{name}.{key}", value) for key, value in architecture.extra]
    entries.append(Entry.u32(f"{name}.{keys.POOLING_TYPE}", modules.pooling.value))
    entries.append(Entry.u32(keys.QUANTIZATION_VERSION, _QUANTIZATION_VERSION))
    entries += tokenizer_entries(checkpoint, architecture.tokenizer, vocab_size)
    names = [entry.as_text() for entry in general if entry.key in (keys.NAME, keys.BASENAME, keys.FINETUNE)]
    template = template_of(modules.prompts.get("query", ""))
    traits = Traits.of(name, names, vocab_size, template)
    card = family_of(traits).card_of(traits.names)
    return entries + _qgguf_entries(checkpoint, modules, card, template or card.instruction_template)


def checksum_entry(checksums: Iterable[tuple[str, str]]) -> Entry:
    """Return the weights' SHA-256 as an entry; zeros as digests give an entry of the same length.

    checksums  (hex digest, file name)
    """
    return Entry.strings(keys.SOURCE_SHA256, [f"{digest} {name}" for digest, name in checksums])


def _sampling(checkpoint: Checkpoint) -> list[Entry]:
    config, entries = checkpoint.json("generation_config.json"), {}
    for source, target, kind in _SAMPLING:
        key, value = f"{keys.SAMPLING_PREFIX}{target}", config.get(source)
        if kind is str and isinstance(value, str) and value:
            entries[key] = Entry.string(key, value)
        elif kind is int and type(value) is int and -(1 << 31) <= value < 1 << 31:
            entries[key] = Entry.i32(key, value)
        elif kind is float and isinstance(value, int | float) and abs(value) < 1e30:
            entries[key] = Entry.f32(key, value)
    return list(entries.values())


def _qgguf_entries(checkpoint: Checkpoint, modules: SentenceModules, card: Card, template: str | None) -> list[Entry]:
    """Return qgguf.*: the values that the runtime needs and llama.cpp has no key for."""
    dims = size(checkpoint.config, "hidden_size")
    entries = [Entry.string(keys.PROMPT_PREFIX + name, text) for name, text in modules.prompts.items()]
    if modules.default_prompt_name is not None:
        entries.append(Entry.string(keys.DEFAULT_PROMPT_NAME, modules.default_prompt_name))
    if template is not None:
        entries.append(Entry.string(keys.INSTRUCTION_TEMPLATE, template))
    if card.smallest_dims is not None and dims >= card.smallest_dims:
        trained_dims = [card.smallest_dims, dims]
    else:
        trained_dims = _matryoshka_dims(checkpoint.config, dims)
    if trained_dims:
        entries.append(Entry.u32(keys.MRL_MIN_DIMS, min(trained_dims)))
        entries.append(Entry.u32(keys.MRL_MAX_DIMS, max(trained_dims)))
    if modules.max_tokens is not None:
        entries.append(Entry.u32(keys.MAX_TOKENS, modules.max_tokens))
    if checkpoint.repo:
        entries.append(Entry.string(keys.SOURCE_REPO, checkpoint.repo))
        entries.append(Entry.string(keys.SOURCE_REVISION, checkpoint.revision))
    entries.append(Entry.string(keys.QGGUF_VERSION, __version__))
    return entries


def _matryoshka_dims(config: dict[str, Any], dims: int) -> list[int]:
    declared = config.get("matryoshka_dimensions")
    if not isinstance(declared, list):
        return []
    return [item for item in declared if type(item) is int and 0 < item <= dims]
