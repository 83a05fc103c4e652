"""Make the general.* entries: name, size, licence, parent models, by the rules of the package gguf.

The rules read the model card, which strangers write by hand: a value that cannot be used is left out with a warning.

The package gguf is optional (the extra "convert"). Nothing computes with what it adds, so a conversion without it is
not refused: it leaves the model card out, as it does for a card that cannot be read, and logs how to install the
package. The name and the size, which every file has, are then derived here from the checkpoint.
"""

import logging
import re
from pathlib import Path
from typing import Any

from qgguf.convert.checkpoint import Checkpoint
from qgguf.errors import CheckpointError
from qgguf.gguf_format import keys
from qgguf.gguf_format.writer import Entry

_log = logging.getLogger("qgguf")

_SIZE_STEPS = (("T", 1e-12), ("B", 1e-9), ("M", 1e-6))


def general_entries(checkpoint: Checkpoint, n_params: int) -> list[Entry]:
    """Return every general.* entry that llama.cpp's converter writes for a checkpoint; at least name and size.

    n_params  weights in all tensors, from which the size follows if the model's name does not contain it
    """
    try:
        import gguf
    except ImportError:
        _log.warning(
            "The package gguf is not installed: the model card of %s (licence, tags, base models) is left out. "
            'To include it: pip install "qgguf[convert]"',
            checkpoint.folder,
        )
        return [
            Entry.string(keys.NAME, title_of(checkpoint.name)),
            Entry.string(keys.SIZE_LABEL, size_label(n_params)),
        ]
    try:
        card = gguf.Metadata.load_model_card(checkpoint.whole.folder)
        return _entries_by_gguf(gguf, checkpoint, card, n_params)
    except Exception as error:  # a YAML parser, and rules that stop at whatever they did not expect
        reason = " ".join(str(error).split())[:200]
        _log.warning("The model card of %s cannot be read (%s): it is left out.", checkpoint.folder, reason)
    return _entries_by_gguf(gguf, checkpoint, {}, n_params)


def title_of(name: str) -> str:
    """Return a model's name as a title, as the package gguf writes it.

    >>> title_of("all-MiniLM-L6-v2"), title_of("qwen3-embedding-0.6b")
    ('All MiniLM L6 v2', 'Qwen3 Embedding 0.6b')
    """
    words = name.replace("-", " ").split()
    is_version = re.compile(r"v\d+(\.\d+)*|\d.*")
    return " ".join(word.title() if word.islower() and not is_version.fullmatch(word) else word for word in words)


def size_label(n_params: int) -> str:
    """Return a number of weights in two digits or more, as the package gguf writes it.

    >>> size_label(22_713_216), size_label(7_567_295_488)
    ('23M', '7.6B')
    """
    suffix, scale = next((step for step in _SIZE_STEPS if n_params * step[1] > 1), ("K", 1e-3))
    n_digits = len(str(round(n_params * scale)).lstrip("0"))
    return f"{n_params * scale:.{max(2 - n_digits, 0)}f}{suffix}"


def _entries_by_gguf(gguf: Any, checkpoint: Checkpoint, card: dict[str, Any], n_params: int) -> list[Entry]:
    is_named = isinstance(checkpoint.config.get("_name_or_path"), str)
    config = checkpoint.config if is_named else {}
    # The rules read the model's name from a path; a folder in the hub's cache is named by its commit.
    about = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, config, Path(checkpoint.name), n_params)
    about.name = about.name if isinstance(about.name, str) and about.name else checkpoint.name
    about.size_label = about.size_label or gguf.size_label(n_params, n_params, 0, 0)
    writer = gguf.GGUFWriter(path=None, arch="")
    about.set_gguf_meta_model(writer)
    values = {key: value for key, value in writer.kv_data[0].items() if key != keys.ARCHITECTURE}
    return [entry for key, value in values.items() for entry in _entry_of(key, value.value, value.type.name)]


def _entry_of(key: str, value: Any, kind: str) -> list[Entry]:
    """Return the entry of a value from the card; none where it is empty, or not of the key's type."""
    try:
        if kind == "UINT32" and type(value) is int:
            return [Entry.u32(key, value)]
        if kind == "STRING" and isinstance(value, str):
            return [Entry.string(key, value)] if value else []
        if kind == "ARRAY" and all(isinstance(item, str) for item in value):
            return [Entry.strings(key, value)] if value else []
    except CheckpointError as error:
        _log.warning("%s is left out: %s", key, error)
        return []
    _log.warning("%s is left out: it is %r in the model card, a text is needed.", key, value)
    return []
