"""Which tokens a tokenizer puts around a text, and the other tokens with a part to play."""

from dataclasses import dataclass, field
from typing import Any

from qgguf.convert.checkpoint import Checkpoint
from qgguf.errors import CheckpointError

# In the order llama.cpp's converter writes them; cls has no key of its own there (bos is the same token).
_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
GGUF_KEYS = {
    "bos": "tokenizer.ggml.bos_token_id",
    "eos": "tokenizer.ggml.eos_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
    "sep": "tokenizer.ggml.seperator_token_id",  # spelt so in the format
    "pad": "tokenizer.ggml.padding_token_id",
    "mask": "tokenizer.ggml.mask_token_id",
    "eot": "tokenizer.ggml.eot_token_id",
}
# Where tokenizer_config.json is absent: what BERT vocabularies call these.
_USUAL = {"pad": "[PAD]", "mask": "[MASK]"}


@dataclass(frozen=True)
class SpecialTokens:
    """ids  kind -> id; add  "bos", "eos", "sep" -> whether the tokenizer puts it around a text."""

    ids: dict[str, int] = field(default_factory=dict)
    add: dict[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class _Template:
    """What stands around one text, and between two."""

    first: str | None
    last: str | None
    between: tuple[str, ...]


def special_tokens(checkpoint: Checkpoint, tokenizer: dict[str, Any], id_of: dict[str, int]) -> SpecialTokens:
    """Read them from tokenizer.json, tokenizer_config.json and config.json, in this order of trust.

    The token that ends a text is the one tokenizer.json's template appends, whatever tokenizer_config.json calls eos.

    id_of   text of every token -> id
    raises  CheckpointError: a template that GGUF cannot express
    """
    template = _template(tokenizer.get("post_processor"))
    names = _named(checkpoint.json("tokenizer_config.json"))
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
        names = {"unk": unknown, "cls": template.first, "sep": template.last, **_USUAL, **names}
    names = _corrected(names, template)
    ids = {kind: id_of[names[kind]] for kind in (*_KINDS, "eot") if names.get(kind) in id_of}
    for kind, text in (("bos", template.first), ("eos", template.last)):
        if text is not None and kind not in ids:
            raise CheckpointError(f"tokenizer.json adds {text!r} to each text, but its vocabulary does not have it.")
    for kind in _KINDS:
        said = checkpoint.config.get(f"{kind}_token_id")
        if kind not in ids and type(said) is int and 0 <= said < len(id_of):
            ids[kind] = said
    add = {"bos": template.first is not None, "eos": template.last is not None}
    if template.between:
        add["sep"] = len(template.between) == 2 or template.last is None
    return SpecialTokens(ids, add)


def _corrected(names: dict[str, str], template: _Template) -> dict[str, str]:
    """The names with bos and eos as the template has them; another eos becomes eot, the end of a chat's turn."""
    names = dict(names)
    for kind, stand_in in (("bos", "cls"), ("eos", "sep")):
        if kind not in names and stand_in in names:
            names[kind] = names[stand_in]
    if template.first is not None:
        names["bos"] = template.first
    if template.last is not None:
        if names.get("eos", template.last) != template.last:
            names["eot"] = names["eos"]
        names["eos"] = template.last
    return names


def _named(config: dict[str, Any]) -> dict[str, str]:
    """tokenizer_config.json's special tokens, written as text or as {"content": text}."""
    names: dict[str, str] = {}
    for kind in _KINDS:
        entry = config.get(f"{kind}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(text, str):
            names[kind] = text
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
            raise CheckpointError(f"tokenizer.json has a post_processor {kind!r}, which is not known here.")
    return _Template(None, None, ())


def _parse_template(processor: dict[str, Any]) -> _Template:
    single = _items(processor.get("single"))
    around = [text for is_text, text in single if not is_text]
    where = [is_text for is_text, _ in single]
    if where.count(True) != 1 or len(where) > 3 or (len(where) == 3 and not where[1]):
        raise CheckpointError(
            f"tokenizer.json puts {around} around a text; one token before and one after is all that GGUF can say. "
            "Use the original model's tokenizer.json."
        )
    first = None if where[0] else around[0]
    last = None if where[-1] else around[-1]
    pair = _items(processor.get("pair"))
    texts = [place for place, (is_text, _) in enumerate(pair) if is_text]
    between = tuple(text for _, text in pair[texts[0] + 1 : texts[1]]) if len(texts) == 2 else ()
    return _Template(first, last, between)


def _items(template: Any) -> list[tuple[bool, str]]:
    """(is it the text, else the token) of each piece of a template."""
    items = []
    for piece in template if isinstance(template, list) else []:
        kind, inner = next(iter(piece.items())) if isinstance(piece, dict) and piece else ("", None)
        if kind not in ("Sequence", "SpecialToken") or not isinstance(inner, dict):
            raise CheckpointError("tokenizer.json has a TemplateProcessing that cannot be read. Download it again.")
        items.append((kind == "Sequence", str(inner.get("id"))))
    return items
