"""The special tokens of a tokenizer: those that it adds to a text, and those with another role."""

from dataclasses import dataclass, field
from typing import Any

from qgguf.convert.checkpoint import Checkpoint
from qgguf.errors import CheckpointError
from qgguf.gguf_format import keys

# In the order in which llama.cpp's converter writes them. It has no key for cls, which is the same token as bos.
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
ID_KEYS = {
    "bos": keys.BOS_ID,
    "eos": keys.EOS_ID,
    "unk": keys.UNKNOWN_ID,
    "sep": keys.SEPARATOR_ID,
    "pad": keys.PADDING_ID,
    "mask": keys.MASK_ID,
    "eot": keys.EOT_ID,
}
"""Role -> GGUF key of the token's id."""

ADD_KEYS = {"bos": keys.ADD_BOS, "eos": keys.ADD_EOS, "sep": keys.ADD_SEP}
"""Role -> GGUF key of the flag that the tokenizer adds this token."""

# The names in BERT vocabularies, for checkpoints without tokenizer_config.json.
_BERT_NAMES = {"pad": "[PAD]", "mask": "[MASK]"}


@dataclass(frozen=True)
class TokenRoles:
    """The special tokens by their role.

    ids  role -> id
    add  "bos", "eos", "sep" -> whether the tokenizer adds this token to a text
    """

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Template:
    """The tokens before, after and between texts."""

    first: str | None
    last: str | None
    between: tuple[str, ...]


def token_roles(checkpoint: Checkpoint, tokenizer: dict[str, Any], id_of: dict[str, int]) -> TokenRoles:
    """Read the roles from tokenizer.json, tokenizer_config.json and config.json; the earlier file wins.

    The token that ends a text is the one that tokenizer.json's template appends, even where tokenizer_config.json names
    another one as eos.

    id_of   text of every token -> id
    raises  CheckpointError: a template that GGUF cannot express
    """
    template = _template(tokenizer.get("post_processor"))
    names = _names(checkpoint.json("tokenizer_config.json"))
    if tokenizer["model"]["type"] == "WordPiece":
        if template.first is None or template.last is None:
            raise CheckpointError(
                "tokenizer.json puts no token before or after a text; llama.cpp's WordPiece always does. "
                "Use the original model's tokenizer.json."
            )
        unknown = str(tokenizer["model"].get("unk_token", "[UNK]"))
        if unknown not in id_of:
            raise CheckpointError(
                f"tokenizer.json's vocabulary lacks its own unknown token {unknown!r}. Download it again."
            )
        names = {"unk": unknown, "cls": template.first, "sep": template.last, **_BERT_NAMES, **names}
    names = _corrected(names, template)
    ids = {role: id_of[names[role]] for role in (*_ROLES, "eot") if names.get(role) in id_of}
    for role, text in (("bos", template.first), ("eos", template.last)):
        if text is not None and role not in ids:
            raise CheckpointError(f"tokenizer.json adds {text!r} to each text, but its vocabulary does not have it.")
    for role in _ROLES:
        declared = checkpoint.config.get(f"{role}_token_id")
        if role not in ids and type(declared) is int and 0 <= declared < len(id_of):
            ids[role] = declared
    add = {"bos": template.first is not None, "eos": template.last is not None}
    if template.between:
        add["sep"] = len(template.between) == 2 or template.last is None
    return TokenRoles(ids, add)


def _corrected(names: dict[str, str], template: _Template) -> dict[str, str]:
    """Return the names with the template's bos and eos; another eos becomes eot, the end of a turn in a chat."""
    names = dict(names)
    for role, substitute in (("bos", "cls"), ("eos", "sep")):
        if role not in names and substitute in names:
            names[role] = names[substitute]
    if template.first is not None:
        names["bos"] = template.first
    if template.last is not None:
        if names.get("eos", template.last) != template.last:
            names["eot"] = names["eos"]
        names["eos"] = template.last
    return names


def _names(config: dict[str, Any]) -> dict[str, str]:
    """Return role -> token of tokenizer_config.json, which writes a token as a text or as {"content": text}."""
    names: dict[str, str] = {}
    for role in _ROLES:
        entry = config.get(f"{role}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            names[role] = text
    return names


def _template(post_processor: Any) -> _Template:
    processors = post_processor.get("processors") if isinstance(post_processor, dict) else None
    for processor in processors if isinstance(processors, list) else [post_processor]:
        kind = processor.get("type") if isinstance(processor, dict) else None
        if kind == "TemplateProcessing":
            return _parse_template(processor)
        if kind == "BertProcessing":
            first, last = str(processor["cls"][0]), str(processor["sep"][0])
            return _Template(first, last, (last,))
        if kind not in (None, "ByteLevel"):
            raise CheckpointError(f"tokenizer.json has a post_processor {kind!r}, which qgguf does not know.")
    return _Template(None, None, ())


def _parse_template(processor: dict[str, Any]) -> _Template:
    before, *others = _runs_of_tokens(processor.get("single"))
    if len(others) != 1 or len(before) > 1 or len(others[0]) > 1:
        tokens = [token for run in (before, *others) for token in run]
        raise CheckpointError(
            f"tokenizer.json puts {tokens} around a text; GGUF can express one token before and one after it. "
            "Use the original model's tokenizer.json."
        )
    after = others[0]
    pair = _runs_of_tokens(processor.get("pair"))
    # Of two texts there are three runs: before the first one, between them, and after the second one.
    between = pair[1] if len(pair) == 3 else []
    return _Template(before[0] if before else None, after[0] if after else None, tuple(between))


def _runs_of_tokens(template: Any) -> list[list[str]]:
    """Return the tokens before the first text, between each text and the next one, and after the last text."""
    runs: list[list[str]] = [[]]
    for piece in template if isinstance(template, list) else []:
        kind, inner = next(iter(piece.items())) if isinstance(piece, dict) and piece else ("", None)
        if kind not in ("Sequence", "SpecialToken") or not isinstance(inner, dict):
            raise CheckpointError("tokenizer.json has a TemplateProcessing that cannot be read. Download it again.")
        if kind == "Sequence":
            runs.append([])
        else:
            runs[-1].append(str(inner.get("id")))
    return runs
