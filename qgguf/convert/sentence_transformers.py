"""Reads pooling, prompts and token limit from the files of sentence-transformers in a checkpoint."""

import math
from dataclasses import dataclass
from typing import Any

from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.vocab_file import read_tokenizer
from qgguf.errors import CheckpointError
from qgguf.model.spec import Pooling

# The file of the Transformer's settings: its name, and those of the first releases. The first that exists is read.
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
    "sentence_camembert_config.json", "sentence_albert_config.json", "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)  # fmt: skip
# No text is that long: tokenizers without a limit write 1e30, as a float or as an integer.
_NO_LIMIT = 1 << 31
# Both styles of <n>_Pooling/config.json: a flag per mode, and one word since sentence-transformers 5.
_MODES = {"mean": Pooling.MEAN, "cls": Pooling.CLS, "lasttoken": Pooling.LAST}
_FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


@dataclass(frozen=True, slots=True)
class SentenceModules:
    """What the files of sentence-transformers declare.

    max_tokens  longest text in tokens; None where none is declared
    """

    pooling: Pooling
    prompts: dict[str, str]
    default_prompt_name: str | None
    max_tokens: int | None


def read_modules(
    checkpoint: Checkpoint, allowed: tuple[Pooling, ...], override: Pooling | None = None
) -> SentenceModules:
    """Read modules.json and the files it names.

    allowed   poolings that the architecture can be used with
    override  the user's pooling, where the checkpoint declares none or a wrong one
    raises    CheckpointError: no pooling, one that llama.cpp cannot do, a Dense or an unknown module
    """
    pooling_folder = _pooling_folder(checkpoint.whole)
    pooling = override
    if pooling is None:
        if pooling_folder is None:
            raise CheckpointError(
                f"{checkpoint.folder} declares no pooling (no modules.json with a Pooling module). "
                f"Set the one that it was trained with: --pooling {' or '.join(mode.name.lower() for mode in allowed)}."
            )
        pooling = _pooling(checkpoint.whole, pooling_folder)
    if pooling not in allowed:
        raise CheckpointError(
            f"Pooling {pooling.name.lower()} does not go with this architecture; "
            f"{' or '.join(mode.name.lower() for mode in allowed)} does. Set it with --pooling."
        )
    prompts, default_prompt_name = _prompts(checkpoint.whole)
    return SentenceModules(pooling, prompts, default_prompt_name, _max_tokens(checkpoint))


def transformer_folder(checkpoint: Checkpoint) -> str:
    """Return the subfolder of the Transformer's files by modules.json: "" for the checkpoint's own folder.

    raises  CheckpointError: modules.json cannot be read, or points out of its folder
    """
    folders = [path for name, path in _modules(checkpoint) or [] if name == "Transformer"]
    if len(set(folders)) > 1:
        raise CheckpointError(
            f"modules.json has several Transformers ({', '.join(map(repr, folders))}); a GGUF has one. "
            "This model cannot be converted."
        )
    return folders[0] if folders else ""


def _modules(checkpoint: Checkpoint) -> list[tuple[str, str]] | None:
    """Return kind and folder of each module in modules.json; None where there is no such file."""
    modules = checkpoint.json_value("modules.json")
    if modules is None:
        return None
    found = []
    for module in modules if isinstance(modules, list) else [None]:
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise CheckpointError(f"{checkpoint.folder / 'modules.json'} cannot be read. Download it again.")
        parts = path.split("/")
        if set(path) & set("\\:\0") or ".." in parts or path.startswith("/"):
            raise CheckpointError(f"modules.json points out of its folder: {path!r}. Download the checkpoint again.")
        name = kind.rsplit(".", 1)[-1]
        # The first releases had a separate module for each kind of Transformer.
        name = "Transformer" if name == "BERT" else name
        found.append((name, "/".join(part for part in parts if part not in ("", "."))))
    return found


def _pooling_folder(checkpoint: Checkpoint) -> str | None:
    """Return the folder of the Pooling module; refuse modules that a GGUF cannot express."""
    modules = _modules(checkpoint)
    if modules is None:
        return None
    folder = None
    for name, path in modules:
        if name == "Pooling" and folder is None:
            folder = path
        elif name not in ("Transformer", "Normalize"):
            raise CheckpointError(
                f"modules.json has a {name} module, which a GGUF cannot express: the vectors would be other ones. "
                "This model cannot be converted."
            )
    return folder


def _pooling(checkpoint: Checkpoint, folder: str) -> Pooling:
    config = checkpoint.json(f"{folder}/config.json", needed=True)
    mode = config.get("pooling_mode")
    modes = [mode] if isinstance(mode, str) else mode if isinstance(mode, list) else []
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    modes = modes or [_FLAGS.get(key, key.removeprefix("pooling_mode_")) for key in flags]
    if len(modes) != 1 or modes[0] not in _MODES:
        raise CheckpointError(
            f"{folder}/config.json declares pooling {', '.join(map(str, modes)) or 'none'}; "
            "one of mean, cls, lasttoken is needed. Set it with --pooling if this is wrong."
        )
    pooling = _MODES[modes[0]]
    # Last and first token are the same with and without a prompt; a mean is not.
    if config.get("include_prompt", True) is not True and pooling is Pooling.MEAN:
        raise CheckpointError(
            f"{folder}/config.json leaves the prompt out of the mean (include_prompt false), "
            "which llama.cpp cannot do. This model cannot be converted."
        )
    return pooling


def _prompts(checkpoint: Checkpoint) -> tuple[dict[str, str], str | None]:
    config = checkpoint.json("config_sentence_transformers.json")
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise _unreadable("config_sentence_transformers.json", "prompts", prompts)
    if default is not None and default not in prompts:
        raise _unreadable("config_sentence_transformers.json", "default_prompt_name", default)
    return prompts, default


def _max_tokens(checkpoint: Checkpoint) -> int | None:
    """Return the longest text in tokens by the rule of sentence-transformers 6.

    That is the length that the Transformer's own file names; else the smaller of the tokenizer's and the number of
    positions. None where the positions decide, which the GGUF has anyway.
    """
    file, config = _transformer_config(checkpoint)
    if config.get("do_lower_case") and not _lowercases(checkpoint):
        raise CheckpointError(
            f"{file} sets do_lower_case, but the tokenizer keeps capitals. "
            "A GGUF cannot express both, so this model cannot be converted."
        )
    arguments = config.get("processor_kwargs", config.get("tokenizer_args"))
    if isinstance(arguments, dict) and arguments.get("model_max_length") is not None:
        return _length(file, "model_max_length", arguments["model_max_length"])
    if config.get("max_seq_length") is not None:
        return _length(file, "max_seq_length", config["max_seq_length"])
    tokenizer_config = checkpoint.json("tokenizer_config.json")
    # max_len is the key of the first releases of transformers.
    key = next((key for key in ("model_max_length", "max_len") if key in tokenizer_config), None)
    if key is None or tokenizer_config[key] is None:
        return None
    length = _length("tokenizer_config.json", key, tokenizer_config[key])
    return length if length is not None and length < _most_positions(checkpoint.config) else None


def _transformer_config(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    for file in _TRANSFORMER_CONFIGS:
        if config := checkpoint.json(file):
            return file, config
    return _TRANSFORMER_CONFIGS[0], {}


def _most_positions(config: dict[str, Any]) -> float:
    """Return max_position_embeddings; infinity where it is absent, or -1 as XLNet writes it for no limit."""
    positions = config.get("max_position_embeddings")
    return positions if type(positions) is int and positions > 0 else math.inf


def _length(file: str, key: str, value: Any) -> int | None:
    """Return a number of tokens; None for a number that is no limit.

    raises  CheckpointError: not a whole number above 0
    """
    if type(value) in (int, float) and value >= _NO_LIMIT:
        return None
    if type(value) not in (int, float) or not value >= 1 or value != int(value):
        raise _unreadable(file, key, value)
    return int(value)


def _lowercases(checkpoint: Checkpoint) -> bool:
    normalizer = read_tokenizer(checkpoint).get("normalizer")
    return isinstance(normalizer, dict) and normalizer.get("lowercase") is True


def _unreadable(file: str, key: str, value: Any) -> CheckpointError:
    return CheckpointError(f"{file} has {key} {str(value)[:80]!r}, which cannot be used. Correct or remove it.")
