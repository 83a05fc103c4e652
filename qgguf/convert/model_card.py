"""The general.* values: name, size, licence, parents, by llama.cpp's own rules (gguf-py).

They come from the model card, which is free text by strangers: what cannot be used is left out with a warning.
"""

import logging
from pathlib import Path
from typing import Any

import gguf

from qgguf.convert.checkpoint import Checkpoint
from qgguf.errors import CheckpointError
from qgguf.gguf_format import keys
from qgguf.gguf_format.writer import Entry

_log = logging.getLogger("qgguf")


def general_entries(checkpoint: Checkpoint, n_params: int) -> list[Entry]:
    """Every general.* value that llama.cpp's converter finds; at least the name.

    n_params  weights in all tensors: what the size label is made of, where the name does not tell
    """
    try:
        card = gguf.Metadata.load_model_card(checkpoint.folder)
        return _by_the_rules(checkpoint, card, n_params)
    except Exception as error:  # a YAML parser and rules that stop at whatever they did not expect
        what = " ".join(str(error).split())[:200]
        _log.warning("The model card of %s cannot be read (%s): it is left out.", checkpoint.folder, what)
    return _by_the_rules(checkpoint, {}, n_params)


def _by_the_rules(checkpoint: Checkpoint, card: dict[str, Any], n_params: int) -> list[Entry]:
    said = checkpoint.config.get("_name_or_path")
    config = checkpoint.config if isinstance(said, str) else {}
    # The rules read the model's name from a path; a folder in the hub's cache is named by its commit.
    about = gguf.Metadata.apply_metadata_heuristic(gguf.Metadata(), card, config, Path(checkpoint.name), n_params)
    about.name = about.name if isinstance(about.name, str) and about.name else checkpoint.name
    about.size_label = about.size_label or gguf.size_label(n_params, n_params, 0, 0)
    writer = gguf.GGUFWriter(path=None, arch="")
    about.set_gguf_meta_model(writer)
    found = {key: value for key, value in writer.kv_data[0].items() if key != keys.ARCHITECTURE}
    return [entry for key, value in found.items() for entry in _entry_of(key, value.value, value.type)]


def _entry_of(key: str, value: Any, kind: gguf.GGUFValueType) -> list[Entry]:
    """The entry of a free value; none where it is empty, or not of the key's kind."""
    try:
        if kind == gguf.GGUFValueType.UINT32 and type(value) is int:
            return [Entry.u32(key, value)]
        if kind == gguf.GGUFValueType.STRING and isinstance(value, str):
            return [Entry.string(key, value)] if value else []
        if kind == gguf.GGUFValueType.ARRAY and all(isinstance(item, str) for item in value):
            return [Entry.strings(key, value)] if value else []
    except CheckpointError as error:
        _log.warning("%s is left out: %s", key, error)
        return []
    _log.warning("%s is left out: the model card says %r, a text is needed.", key, value)
    return []
