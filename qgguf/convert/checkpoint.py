"""Reads and checks a Hugging Face checkpoint folder: its JSON files and its list of weights."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qgguf.convert.safetensors import StoredTensor, read_tensors
from qgguf.errors import CheckpointError
from qgguf.hub.snapshot import save_as_safetensors
from qgguf.lfs_pointer import is_lfs_pointer, pointer_message

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# tokenizer.json of large vocabularies is 11-17 MB; nothing else comes near.
_MAX_JSON_BYTES = 256 << 20


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint folder.

    folder    where config.json, the tokenizer and the weights are
    name      name of the model, for the output file and its metadata
    repo      "owner/name" for a checkpoint from the hub, else ""
    revision  the hub's commit, else ""
    top       where modules.json is, if the Transformer is in a subfolder ("0_Transformer")
    """

    folder: Path
    name: str
    repo: str = ""
    revision: str = ""
    top: Path | None = None
    _read: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def whole(self) -> "Checkpoint":
        """The checkpoint with the folder of modules.json and of the model card; mostly this object."""
        return self if self.top is None else Checkpoint(self.top, self.name, self.repo, self.revision)

    def json(self, name: str, *, needed: bool = False) -> dict[str, Any]:
        """Return the JSON object in a file of the folder; {} where it is absent and not needed.

        raises  CheckpointError: needed and missing, not JSON, not an object
        """
        value = self.json_value(name)
        if value is None:
            if needed:
                raise CheckpointError(f"{self.folder} has no {name}. Give a complete Hugging Face checkpoint folder.")
            return {}
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.folder / name} is not a JSON object. Download the checkpoint again.")
        return value

    def json_value(self, name: str) -> Any:
        """Do as `json`, for any value; return None where the file is absent."""
        if name not in self._read:
            self._read[name] = _read_json(self.folder / name)
        return self._read[name]

    def text(self, name: str) -> str | None:
        """Return the content of a text file of the folder; None where it is absent."""
        raw = _read_bytes(self.folder / name)
        return None if raw is None else raw.decode("utf-8", "replace")

    def lines(self, name: str) -> list[str] | None:
        """Return the lines of a UTF-8 file as Python's text files have them; None where it is absent.

        raises  CheckpointError: not UTF-8, a git-lfs pointer
        """
        raw = _read_bytes(self.folder / name)
        if raw is None:
            return None
        _refuse_pointer(self.folder / name, raw)
        try:
            lines = re.split(r"\r\n|\r|\n", raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self.folder / name} is not UTF-8. Download the checkpoint again.") from error
        return lines if lines[-1] else lines[:-1]

    @cached_property
    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return self.json("config.json", needed=True)

    @cached_property
    def weight_files(self) -> list[Path]:
        """The .safetensors files, in the order of their names.

        raises  CheckpointError: none, or one that the index names is missing
        """
        if (self.folder / SINGLE).is_file():
            return [self.folder / SINGLE]
        names = sorted(set(self._index().values()))
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{self.folder} lacks {len(missing)} of its {len(names)} weight files: {', '.join(missing[:3])}"
                f"{', ...' if len(missing) > 3 else ''}. Download the checkpoint again."
            )
        return [self.folder / name for name in names]

    def tensors(self, is_dropped: Callable[[str], bool] = lambda name: False) -> list[StoredTensor]:
        """Return every tensor of every weight file, in the order of the files and of their offsets.

        is_dropped  whether an embedding does not need a tensor of this name: the index need not be right about it
        raises  CheckpointError: a damaged file, or shards that differ from the index
        """
        tensors = [tensor for path in self.weight_files for tensor in read_tensors(path)]
        if self.weight_files[0].name != SINGLE:
            needed = [tensor for tensor in tensors if not is_dropped(tensor.name)]
            self._check_index({tensor.name: tensor.file.name for tensor in needed}, len(needed), is_dropped)
        return tensors

    def _index(self) -> dict[str, str]:
        index = self.json(INDEX)
        if not index:
            raise CheckpointError(f"{self.folder} has no {SINGLE}. {self._next_step()}")
        names = index.get("weight_map")
        if not isinstance(names, dict) or not names or not all(_is_shard_name(name) for name in names.values()):
            raise CheckpointError(f"{self.folder / INDEX} has no usable weight_map. Download the checkpoint again.")
        return names

    def _check_index(self, stored: dict[str, str], n_stored: int, is_dropped: Callable[[str], bool]) -> None:
        listed = {name: file for name, file in self._index().items() if not is_dropped(name)}
        wrong = sorted(name for name in listed.keys() | stored.keys() if listed.get(name) != stored.get(name))
        if wrong or n_stored != len(stored):
            some = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
            raise CheckpointError(
                f"{self.folder / INDEX} and the weight files disagree on {some or 'tensors that are stored twice'}. "
                "Download the checkpoint again."
            )

    def _next_step(self) -> str:
        if (self.folder / "adapter_config.json").is_file():
            return "It is an adapter: merge it into its base model first."
        pickled = sorted(self.folder.glob("pytorch_model*.bin"))
        for path in pickled:
            _refuse_pointer(path, path.read_bytes() if path.stat().st_size < 4096 else b"")
        if pickled:
            return (
                f"It has pickled weights (pytorch_model.bin), which are not read. {save_as_safetensors('that folder')}"
            )
        return "Give a complete Hugging Face checkpoint folder."


def _is_shard_name(name: object) -> bool:
    """Return whether this is a plain file name: an index must not point out of its folder."""
    return isinstance(name, str) and name.endswith(".safetensors") and not set(name) & set("/\\:\0")


def _read_bytes(path: Path) -> bytes | None:
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise CheckpointError(f"{path} is larger than {_MAX_JSON_BYTES:,} bytes. Download the checkpoint again.")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error


def _refuse_pointer(path: Path, raw: bytes) -> None:
    if is_lfs_pointer(raw[:100], len(raw)):
        raise CheckpointError(pointer_message(str(path)))


def _read_json(path: Path) -> Any:
    raw = _read_bytes(path)
    if raw is None:
        return None
    _refuse_pointer(path, raw)
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON. Download the checkpoint again.") from error
