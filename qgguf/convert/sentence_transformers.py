"""Reads pooling, prompts and token limit from the files of sentence-transformers in a checkpoint."""

from dataclasses import dataclass
from typing import Any

from qgguf.convert.checkpoint import Checkpoint
from qgguf.errors import CheckpointError
from qgguf.model.spec import Pooling

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
    pooling_folder = _pooling_folder(checkpoint)
    pooling = override
    if pooling is None:
        if pooling_folder is None:
            raise CheckpointError(
                f"{checkpoint.folder} declares no pooling (no modules.json with a Pooling module). "
                f"Set the one that it was trained with: --pooling {' or '.join(mode.name.lower() for mode in allowed)}."
            )
        pooling = _pooling(checkpoint, pooling_folder)
    if pooling not in allowed:
        raise CheckpointError(
            f"Pooling {pooling.name.lower()} does not go with this architecture; "
            f"{' or '.join(mode.name.lower() for mode in allowed)} does. Set it with --pooling."
        )
    prompts, default_prompt_name = _prompts(checkpoint)
    return SentenceModules(pooling, prompts, default_prompt_name, _max_tokens(checkpoint))


def _pooling_folder(checkpoint: Checkpoint) -> str | None:
    """Return the folder of the Pooling module; refuse modules that a GGUF cannot express."""
    modules = checkpoint.json_value("modules.json")
    if modules is None:
        return None
    folder = None
    for module in modules if isinstance(modules, list) else [None]:
        kind, path = (module.get("type"), module.get("path")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise CheckpointError(f"{checkpoint.folder / 'modules.json'} cannot be read. Download it again.")
        name = kind.rsplit(".", 1)[-1]
        if name == "Pooling" and folder is None:
            folder = path
        elif name == "Transformer" and path not in ("", "."):
            raise CheckpointError(
                f"modules.json keeps its Transformer in {path!r}. Give that folder's files at the top."
            )
        elif name not in ("Transformer", "Normalize"):
            raise CheckpointError(
                f"modules.json has a {name} module, which a GGUF cannot express: the vectors would be other ones. "
                "This model cannot be converted."
            )
    return folder


def _pooling(checkpoint: Checkpoint, folder: str) -> Pooling:
    if set(folder) & set("\\:\0") or ".." in folder.split("/") or folder.startswith("/"):
        raise CheckpointError(f"modules.json points out of its folder: {folder!r}. Download the checkpoint again.")
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
    config = checkpoint.json("sentence_bert_config.json")
    length = config.get("max_seq_length")
    if length is not None and (type(length) is not int or not 0 < length < 1 << 31):
        raise _unreadable("sentence_bert_config.json", "max_seq_length", length)
    if config.get("do_lower_case") and not _lowercases(checkpoint):
        raise CheckpointError(
            "sentence_bert_config.json sets do_lower_case, but the tokenizer keeps capitals. "
            "A GGUF cannot express both, so this model cannot be converted."
        )
    return length


def _lowercases(checkpoint: Checkpoint) -> bool:
    normalizer = checkpoint.json("tokenizer.json").get("normalizer")
    return isinstance(normalizer, dict) and normalizer.get("lowercase") is True


def _unreadable(file: str, key: str, value: Any) -> CheckpointError:
    return CheckpointError(f"{file} has {key} {str(value)[:80]!r}, which cannot be used. Correct or remove it.")
