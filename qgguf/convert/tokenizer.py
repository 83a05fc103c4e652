"""tokenizer.json -> the tokenizer.ggml.* values: vocabulary, token types, merges, special tokens, chat template."""

from typing import Any

from qgguf.convert.architectures.table import size
from qgguf.convert.checkpoint import Checkpoint
from qgguf.convert.pretokenizer import bpe_pre_tokenizer, wordpiece_pre_tokenizer
from qgguf.convert.special_tokens import ADD_KEYS, ID_KEYS, token_roles
from qgguf.convert.vocab_file import USE_ANOTHER_FILE, read_tokenizer
from qgguf.errors import CheckpointError
from qgguf.gguf_format import keys
from qgguf.gguf_format.keys import CONTROL, NORMAL, UNUSED, USER_DEFINED, WORD_START
from qgguf.gguf_format.writer import Entry
from qgguf.tokenization.control_tokens import looks_like_control
from qgguf.tokenization.kept_parts import dump_parts

_MODELS = {"bpe": "BPE", "wordpiece": "WordPiece"}


def tokenizer_entries(checkpoint: Checkpoint, kind: str, vocab_size: int) -> list[Entry]:
    """Return all tokenizer.* values of the GGUF.

    kind        "bpe" or "wordpiece"
    vocab_size  rows of the token embedding; the vocabulary is filled up to this number
    raises      CheckpointError: missing, not readable, or not supported by llama.cpp
    """
    tokenizer = _read(checkpoint, kind)
    added = _added_tokens(tokenizer)
    tokens, types, id_of = _vocabulary(tokenizer, added, vocab_size)
    roles = token_roles(checkpoint, tokenizer, id_of)
    entries: list[Entry] = []
    normalizer: dict[str, bool] = {}
    if kind == "wordpiece":
        name, normalizer = wordpiece_pre_tokenizer(tokenizer)
        tokens = [_with_phantom_space(token, type_) for token, type_ in zip(tokens, types, strict=True)]
        entries.append(Entry.u32(keys.TOKEN_TYPE_COUNT, size(checkpoint.config, "type_vocab_size", 1)))
        entries.append(Entry.string(keys.TOKENIZER_MODEL, keys.WORDPIECE_MODEL))
    else:
        name = bpe_pre_tokenizer(tokenizer)
        entries.append(Entry.string(keys.TOKENIZER_MODEL, keys.BYTE_BPE_MODEL))
    _check_unique(tokens)
    entries += [
        Entry.string(keys.PRE_TOKENIZER, name),
        Entry.strings(keys.TOKENS, tokens),
        Entry.i32s(keys.TOKEN_TYPES, types),
    ]
    if kind == "bpe":
        entries.append(Entry.strings(keys.MERGES, _merges(tokenizer["model"])))
    entries += [Entry.u32(ID_KEYS[role], number) for role, number in roles.ids.items() if role in ID_KEYS]
    entries += [Entry.flag(ADD_KEYS[role], value) for role, value in roles.add.items()]
    if template := _chat_template(checkpoint):
        entries.append(Entry.string(keys.CHAT_TEMPLATE, template))
    entries += [Entry.flag(key, value) for key, value in normalizer.items()]
    return [*entries, Entry.string(keys.TOKENIZER, dump_parts(tokenizer, tokens, types))]


def _read(checkpoint: Checkpoint, kind: str) -> dict[str, Any]:
    tokenizer = read_tokenizer(checkpoint)
    model = tokenizer.get("model")
    # The first tokenizer.json files do not name their model's type; only a BPE has merges.
    inferred = "BPE" if isinstance(model, dict) and "merges" in model else "WordPiece"
    if isinstance(model, dict) and _is_unigram(model):
        raise CheckpointError(
            f"{checkpoint.folder / 'tokenizer.json'} is a 'Unigram' tokenizer (SentencePiece), as XLM-RoBERTa has it; "
            f"checkpoints with it cannot be converted, only those with {_MODELS[kind]}. "
            f"{USE_ANOTHER_FILE}"
        )
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise CheckpointError(f"{checkpoint.folder / 'tokenizer.json'} has no vocabulary. Download it again.")
    model_type = model.setdefault("type", inferred)
    if model_type != _MODELS[kind]:
        raise CheckpointError(
            f"tokenizer.json is a {model_type!r} tokenizer, the architecture needs {_MODELS[kind]}. "
            "Use the original model's tokenizer.json."
        )
    return tokenizer


def _is_unigram(model: dict[str, Any]) -> bool:
    """Return whether it is a Unigram model; the first tokenizer.json files do not name the type."""
    return model.get("type", "Unigram" if isinstance(model.get("vocab"), list) else None) == "Unigram"


def _added_tokens(tokenizer: dict[str, Any]) -> dict[int, dict[str, Any]]:
    added = tokenizer.get("added_tokens") or []
    by_id = {}
    for token in added if isinstance(added, list) else [None]:
        if not isinstance(token, dict) or type(token.get("id")) is not int or not isinstance(token.get("content"), str):
            raise CheckpointError("tokenizer.json has added_tokens that cannot be read. Download it again.")
        by_id[token["id"]] = token
    return by_id


def _vocabulary(
    tokenizer: dict[str, Any], added: dict[int, dict[str, Any]], vocab_size: int
) -> tuple[list[str], list[int], dict[str, int]]:
    """Return tokens and token types by id, and token -> id."""
    id_of: dict[str, int] = dict(tokenizer["model"]["vocab"])
    text_of = {number: text for text, number in id_of.items()}
    if len(text_of) != len(id_of) or not all(type(number) is int for number in text_of):
        raise CheckpointError("tokenizer.json gives one id to two tokens, or one that is no number. Download it again.")
    for number, token in added.items():
        if text_of.get(number, token["content"]) != token["content"] or id_of.get(token["content"], number) != number:
            raise CheckpointError(f"tokenizer.json gives token {token['content']!r} two ids. Download it again.")
        text_of[number], id_of[token["content"]] = token["content"], number
    if not text_of or min(text_of) < 0 or max(text_of) >= vocab_size:
        raise CheckpointError(
            f"tokenizer.json has ids up to {max(text_of, default=0)}, config.json has vocab_size {vocab_size}. "
            "Use the tokenizer.json that belongs to the weights."
        )
    texts = [text_of.get(number) for number in range(vocab_size)]
    tokens = [f"[PAD{number}]" if text is None else text for number, text in enumerate(texts)]
    types = [UNUSED if text is None else NORMAL for text in texts]
    for number, token in added.items():
        types[number] = CONTROL if token.get("special") or looks_like_control(tokens[number]) else USER_DEFINED
        if types[number] == USER_DEFINED:
            tokens[number] = tokens[number].replace(WORD_START, " ")
    return tokens, types, id_of


def _with_phantom_space(token: str, type_: int) -> str:
    """Return a WordPiece token as llama.cpp stores it: the start of a word is marked, not its continuation."""
    if type_ == CONTROL:
        return token
    return token[2:] if token.startswith("##") else WORD_START + token


def _check_unique(tokens: list[str]) -> None:
    """Refuse a token that occurs twice: llama.cpp aborts the process when it loads such a vocabulary."""
    seen: set[str] = set()
    for token in tokens:
        if token in seen:
            raise CheckpointError(f"tokenizer.json leads to two tokens {token!r}, which llama.cpp cannot load.")
        seen.add(token)


def _merges(model: dict[str, Any]) -> list[str]:
    """Return merges as "left right". Newer files store pairs; a space inside one is written as byte-level BPE does."""
    stored = model.get("merges") or []
    merges = []
    for merge in stored if isinstance(stored, list) else [stored]:
        try:
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            merges.append(left.replace(" ", "Ġ") + " " + right.replace(" ", "Ġ"))
        except (ValueError, TypeError, AttributeError) as error:
            seen = str(merge)[:80]
            raise CheckpointError(
                f"tokenizer.json has a merge that cannot be read: {seen!r}. Download it again."
            ) from error
    return merges


def _chat_template(checkpoint: Checkpoint) -> str | None:
    template = checkpoint.json("tokenizer_config.json").get("chat_template")
    if template is None:
        template = checkpoint.text("chat_template.jinja")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
