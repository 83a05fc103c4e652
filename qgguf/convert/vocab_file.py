"""The tokenizer of a checkpoint: its tokenizer.json, or one made from vocab.txt, the file of the first BERT models."""

import re
from typing import Any

from qgguf.convert.checkpoint import Checkpoint
from qgguf.errors import CheckpointError

USE_ANOTHER_FILE = "A GGUF file of the model that others made can be used: qgguf pull OWNER/REPOSITORY"
"""The way out for a tokenizer that the runtime has and the converter has not."""

_CONTINUES = re.compile("##.")
# The defaults of BERT's tokenizer in transformers.
_SPECIAL_TOKENS = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_TOKENIZER_CLASSES = {
    name + suffix
    for name in ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert")
    for suffix in ("Tokenizer", "TokenizerFast")
}
_SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_SAVE_TOKENIZER = (
    "In that folder, with transformers installed, run: "
    "python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('.').save_pretrained('.')\""
)


def read_tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the content of tokenizer.json, or of the one that transformers would make from vocab.txt.

    raises  CheckpointError: neither of them, a file that cannot be read, settings that tokenizer.json cannot express
    """
    if checkpoint.json_value("tokenizer.json") is not None:
        return checkpoint.json("tokenizer.json")
    lines = checkpoint.lines("vocab.txt")
    if lines is None:
        raise _no_tokenizer(checkpoint)
    return _bert_tokenizer(checkpoint, {token: number for number, token in enumerate(lines)})


def _no_tokenizer(checkpoint: Checkpoint) -> CheckpointError:
    step = "Give a complete Hugging Face checkpoint folder."
    if (checkpoint.folder / "vocab.json").is_file():
        step = _SAVE_TOKENIZER
    for name in _SENTENCEPIECE_FILES:
        if (checkpoint.folder / name).is_file():
            step = f"Its tokenizer is {name}, of SentencePiece, which cannot be converted. {USE_ANOTHER_FILE}"
    return CheckpointError(f"{checkpoint.folder} has no tokenizer.json and no vocab.txt. {step}")


def _check_is_bert(checkpoint: Checkpoint, config: dict[str, Any], vocabulary: dict[str, int]) -> None:
    """Refuse a vocab.txt of another tokenizer than BERT's, such as those that split Japanese or Korean words first."""
    for name, declared in (("tokenizer_config.json", config), ("config.json", checkpoint.json("config.json"))):
        kind = declared.get("tokenizer_class")
        if kind is not None and str(kind) not in _TOKENIZER_CLASSES:
            raise CheckpointError(
                f"{checkpoint.folder} has vocab.txt without tokenizer.json, and {name} has tokenizer_class {kind!r}, "
                "which does not split words as BERT does. This checkpoint cannot be converted."
            )
    if any(token.startswith("\u2581") for token in vocabulary) and not any(map(_CONTINUES.match, vocabulary)):
        raise CheckpointError(
            f"{checkpoint.folder / 'vocab.txt'} is a vocabulary of SentencePiece: words begin with \u2581, and none "
            f"continues with ##. It cannot be converted. {USE_ANOTHER_FILE}"
        )


def _bert_tokenizer(checkpoint: Checkpoint, vocabulary: dict[str, int]) -> dict[str, Any]:
    """Return the tokenizer.json that transformers makes of a vocab.txt, with the settings of tokenizer_config.json."""
    config = checkpoint.json("tokenizer_config.json")
    if config.get("do_basic_tokenize") is False or config.get("never_split"):
        raise CheckpointError(
            f"{checkpoint.folder} has vocab.txt without tokenizer.json, and sets do_basic_tokenize or never_split in "
            "tokenizer_config.json, which only transformers 4 can do. This checkpoint cannot be converted."
        )
    _check_is_bert(checkpoint, config, vocabulary)
    special = _special_tokens(checkpoint, config)
    added = _added_tokens(checkpoint, config, vocabulary, special)
    ids = vocabulary | {token["content"]: token["id"] for token in added}
    for role in ("unk", "cls", "sep"):
        if special[role] not in ids:
            raise CheckpointError(
                f"{checkpoint.folder / 'vocab.txt'} lacks the token {special[role]!r}, which BERT needs. "
                "Use the vocab.txt that belongs to the weights."
            )
    cls, sep = special["cls"], special["sep"]
    text, start, end = {"Sequence": {"id": "A", "type_id": 0}}, _piece(cls, 0), _piece(sep, 0)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": _flag(config, "tokenize_chinese_chars", True),
            "strip_accents": _flag(config, "strip_accents", None),
            "lowercase": _flag(config, "do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text, end],
            "pair": [start, text, end, {"Sequence": {"id": "B", "type_id": 1}}, _piece(sep, 1)],
            "special_tokens": {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (cls, sep)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": special["unk"],
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    }


def _piece(token: str, type_id: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": token, "type_id": type_id}}


def _flag(config: dict[str, Any], key: str, default: bool | None) -> bool | None:
    value = config.get(key, default)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CheckpointError(f"tokenizer_config.json has {key} {value!r}; true or false is needed. Correct it.")
    return value


def _special_tokens(checkpoint: Checkpoint, config: dict[str, Any]) -> dict[str, str]:
    """Return role -> token: of tokenizer_config.json, else of special_tokens_map.json, else the default."""
    declared = checkpoint.json("special_tokens_map.json") | config
    special = {}
    for role, default in _SPECIAL_TOKENS.items():
        token = declared.get(f"{role}_token")
        token = token.get("content") if isinstance(token, dict) else token
        special[role] = token if isinstance(token, str) else default
    return special


def _added_tokens(
    checkpoint: Checkpoint, config: dict[str, Any], vocabulary: dict[str, int], special: dict[str, str]
) -> list[dict[str, Any]]:
    """Return the added tokens in the order of their ids: special ones, and those that a fine-tune added."""
    added = {
        vocabulary[token]: _added(vocabulary[token], token, True) for token in special.values() if token in vocabulary
    }
    for token, number in checkpoint.json("added_tokens.json").items():
        if type(number) is not int:
            raise CheckpointError("added_tokens.json gives a token no number. Download the checkpoint again.")
        added[number] = _added(number, token, token in special.values())
    decoder = config.get("added_tokens_decoder")
    for key, flags in decoder.items() if isinstance(decoder, dict) else ():
        content = flags.get("content") if isinstance(flags, dict) else None
        if not isinstance(content, str) or not re.fullmatch(r"[0-9]{1,9}", key):
            raise CheckpointError("tokenizer_config.json has an added_tokens_decoder that cannot be read. Correct it.")
        number, is_special = int(key), bool(flags.get("special", False))
        added[number] = _added(number, content, is_special) | {
            name: bool(flags[name]) for name in ("single_word", "lstrip", "rstrip", "normalized") if name in flags
        }
    return [added[number] for number in sorted(added)]


def _added(number: int, content: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special}
    return {"id": number, "content": content, **flags}
