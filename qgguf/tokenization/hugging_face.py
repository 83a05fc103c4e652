"""Tokenizers of Hugging Face's package `tokenizers`, built from the header of a GGUF file.

Their ids are those that the model was trained on. llama.cpp's own differ for Korean and Indic scripts (WordPiece), for
letters newer than Unicode 15, for added tokens with conditions, and for combining marks (Unigram).
"""

import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as TokenizersTokenizer

from qgguf.batching import Ids
from qgguf.errors import ModelFileError, TextError
from qgguf.gguf_format import keys
from qgguf.model.prompts import NO_PROMPT, Prompt
from qgguf.model.tokenizer_parts import parts_of_header
from qgguf.tokenization.control_tokens import ControlTokens, looks_like_control
from qgguf.tokenization.kept_parts import KeptParts, load_parts, original_text

log = logging.getLogger("qgguf")


@dataclass(frozen=True, slots=True)
class _Added:
    """A token that is found in a text before the text is split.

    flags  single_word, lstrip, rstrip, normalized: as in tokenizer.json
    """

    text: str
    id: int
    is_control: bool
    flags: Mapping[str, bool]


class HuggingFaceTokenizer:
    """Ids of texts, without the special tokens around them.

    header  metadata of a GGUF file
    kept    what the file keeps of its checkpoint's tokenizer.json; None: only the header is known
    parts   tokenizer.json without vocabulary and merges
    raises  ModelFileError: these do not make a tokenizer
    """

    def __init__(self, header: Mapping[str, object], kept: KeptParts | None, parts: Mapping[str, Any]) -> None:
        try:
            self._build(header, kept, parts)
        except Exception as error:  # whatever tokenizers and a hostile file bring
            raise ModelFileError(
                f"The file's tokenizer cannot be built: {str(error)[:200]}. Download or convert the model again."
            ) from error

    def _build(self, header: Mapping[str, Any], kept: KeptParts | None, parts: Mapping[str, Any]) -> None:
        tokens: list[str] = header[keys.TOKENS]
        types: list[int] = header.get(keys.TOKEN_TYPES) or [keys.NORMAL] * len(tokens)
        texts = _original_texts(tokens, types, kept, parts["model"]["type"])
        added = list(_kept_tokens(kept) if kept else _tokens_of_header(texts, types, parts["model"]["type"]))
        outside = kept.outside if kept else {token.id for token in added}
        # A name that no text can contain, so that only prompts, where it replaces the token's own, lead to the token.
        secret = secrets.token_hex(8)
        self._names = {token.id: f"\ufdd0{secret}.{token.id}\ufdd1" for token in added if token.is_control}
        self._control = ControlTokens({token.text: token.id for token in added if token.is_control})

        # Ids inside `tokenizers` are consecutive; `_ids` gives the file's.
        unknown = _unknown_id(header, texts, parts["model"])
        hidden = set(outside)
        if kept is None or parts["model"]["type"] == "Unigram":
            # A Unigram would prefer the piece "</s>" of its vocabulary to the letters of a text that names it.
            hidden |= {token.id for token in added if token.is_control}
        hidden -= {unknown}
        ids = [number for number, type_ in enumerate(types) if type_ != keys.UNUSED and number not in hidden]
        names = [texts[number] for number in ids]
        if unknown in ids and parts["model"]["type"] == "Unigram":
            names[ids.index(unknown)] = "\ufdd0unknown"  # the text "<unk>" is no unknown character

        shell = {name: parts.get(name) for name in ("version", "normalizer", "pre_tokenizer")}
        shell |= {"version": "1.0", "added_tokens": [], "model": _EMPTY_MODELS[parts["model"]["type"]]}
        tokenizer = TokenizersTokenizer.from_str(json.dumps(shell))
        try:
            tokenizer.model = _model(parts["model"], names, header, ids, unknown)
        except Exception:
            if parts["model"]["type"] != "BPE":
                raise
            # A merge makes an added token, or one that is not there. Only kept parts show which added tokens belong
            # to the vocabulary.
            ids += sorted(hidden)
            names += [texts[number] for number in sorted(hidden)]
            tokenizer.model = _model(parts["model"], names, _with_known_merges(header, names), ids, unknown)
        entries = {self._names.get(token.id, token.text): token for token in added if token.text}
        found = _without_equal_ones(entries, tokenizer)
        tokenizer.add_tokens([_added_token(text, token) for text, token in found.items()])
        table = dict(enumerate(ids))
        for text, token in entries.items():
            if (inside := tokenizer.token_to_id(text)) is not None:
                table[inside] = token.id
        self._ids = np.zeros(max(table, default=0) + 1, np.int32)
        self._ids[list(table)] = list(table.values())
        self._tokenizer = tokenizer

    def ids(self, text: str, prompt: Prompt = NO_PROMPT) -> Ids:
        """Return the ids of a prompt and a text: (n_tokens,) int32.

        raises  UnicodeEncodeError: lone surrogates; TextError: `tokenizers` fails
        """
        if prompt is not NO_PROMPT:
            pieces = self._control.pieces(prompt, text)
            text = "".join(piece if isinstance(piece, str) else self._names[piece] for piece in pieces)
        if not text.isascii():
            text.encode("utf-8")
        found: Ids = self._ids[np.array(self._encode(text), np.intp)]
        return found

    def _encode(self, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            # A panic of Rust's code is no Exception. There is one for tokens with lstrip and rstrip side by side.
            if type(error).__name__ != "PanicException":
                raise
            raise TextError(
                f"The text {text[:40]!r} cannot be tokenised: Hugging Face's tokenizers stops with {str(error)!r}. "
                "Change the text where it names tokens of the model."
            ) from None
        return ids


def hugging_face_tokenizer(header: Mapping[str, object]) -> HuggingFaceTokenizer | None:
    """Return the tokenizer of a GGUF file; None where nothing but llama.cpp's own is known for it.

    header  the file's metadata
    raises  ModelFileError: what the file keeps of its tokenizer.json cannot be read
    """
    stored = header.get(keys.TOKENIZER)
    if isinstance(stored, str):
        try:
            kept = load_parts(stored)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelFileError(
                f"The file's key {keys.TOKENIZER} cannot be read: {error}. Download or convert the model again."
            ) from error
        return HuggingFaceTokenizer(header, kept, kept.parts)
    parts = parts_of_header(header)
    return None if parts is None else HuggingFaceTokenizer(header, None, parts)


def _original_texts(tokens: Sequence[str], types: Sequence[int], kept: KeptParts | None, kind: str) -> list[str]:
    """Return the tokens as tokenizer.json spells them, by id."""
    is_word_piece = kind == "WordPiece"
    texts = [original_text(token, type_, is_word_piece) for token, type_ in zip(tokens, types, strict=True)]
    for number, text in (kept.texts if kept else {}).items():
        texts[number] = text
    return texts


def _kept_tokens(kept: KeptParts) -> Iterator[_Added]:
    """Yield the added tokens of the checkpoint's tokenizer.json."""
    for token in kept.parts.get("added_tokens") or []:
        text = token["content"]
        flags = {name: bool(token.get(name)) for name in ("single_word", "lstrip", "rstrip", "normalized")}
        yield _Added(text, token["id"], bool(token.get("special")) or looks_like_control(text), flags)


def _tokens_of_header(texts: Sequence[str], types: Sequence[int], kind: str) -> Iterator[_Added]:
    """Yield the added tokens that a header shows; their conditions are those that `add_tokens` gives by default."""
    for number, (text, type_) in enumerate(zip(texts, types, strict=True)):
        if type_ == keys.CONTROL or (type_ == keys.USER_DEFINED and looks_like_control(text)):
            yield _Added(text, number, True, {"normalized": False})
        elif type_ == keys.USER_DEFINED:
            own = text.removeprefix("##") if kind == "WordPiece" else text
            yield _Added(own, number, False, {"normalized": kind == "WordPiece"})


def _unknown_id(header: Mapping[str, Any], texts: Sequence[str], model: Mapping[str, Any]) -> int | None:
    """Return the id of the unknown token: the header's, else that of WordPiece's usual one."""
    declared = header.get(keys.UNKNOWN_ID)
    if isinstance(declared, int) or model["type"] != "WordPiece":
        return declared
    usual = model.get("unk_token") or "[UNK]"
    return texts.index(usual) if usual in texts else None


def _added_token(text: str, token: _Added) -> AddedToken:
    flags = dict(token.flags)
    if token.is_control:
        flags["normalized"] = False  # its name here is no text that can be normalised
    return AddedToken(text, special=False, **flags)


def _without_equal_ones(entries: Mapping[str, _Added], tokenizer: TokenizersTokenizer) -> dict[str, _Added]:
    """Leave out added tokens that are another one's text after normalisation, such as "Map" and "map" in lower case.

    `tokenizers` finds one of them, which differs from process to process. Here it is the one with the lowest id.
    """
    normalizer, first, kept = tokenizer.normalizer, dict[str, _Added](), dict[str, _Added]()
    for text, token in sorted(entries.items(), key=lambda entry: entry[1].id):
        if normalizer is not None and token.flags.get("normalized") and not token.is_control:
            other = first.setdefault(normalizer.normalize_str(text), token)
            if other is not token:
                log.warning(
                    "The tokenizer's added tokens %r and %r are the same text after normalisation. The first one is "
                    "used; Hugging Face's tokenizers uses either, from process to process.", other.text, token.text
                )  # fmt: skip
                continue
        kept[text] = token
    return kept


def _with_known_merges(header: Mapping[str, Any], names: Sequence[str]) -> Mapping[str, Any]:
    """Return the metadata without the merges that lead to no token, which llama.cpp ignores too."""
    known = set(names)
    pairs = [(merge, merge.split(" ")) for merge in header[keys.MERGES]]
    merges = [merge for merge, parts in pairs if len(parts) == 2 and known.issuperset((*parts, "".join(parts)))]
    return {**header, keys.MERGES: merges}


_EMPTY_MODELS: Mapping[str, Mapping[str, Any]] = {
    "BPE": {"type": "BPE", "vocab": {}, "merges": []},
    "WordPiece": {
        "type": "WordPiece",
        "vocab": {},
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
    },
    "Unigram": {"type": "Unigram", "unk_id": None, "vocab": []},
}


_BPE_OPTIONS = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
)


def _model(
    parts: Mapping[str, Any],
    names: Sequence[str],
    header: Mapping[str, Any],
    ids: Sequence[int],
    unknown: int | None,
) -> models.Model:
    """Return the model of `tokenizers`.

    parts    "model" of tokenizer.json, without vocabulary and merges
    names    its vocabulary
    ids      the file's id of each of these
    unknown  the file's id of the token for what is not in the vocabulary
    """
    if parts["type"] == "Unigram":
        scores = header[keys.SCORES]
        vocabulary = [(name, float(scores[number])) for name, number in zip(names, ids, strict=True)]
        at = ids.index(unknown) if unknown in ids else None
        return models.Unigram(vocabulary, at, bool(parts.get("byte_fallback")))
    vocab = {name: index for index, name in enumerate(names)}
    if parts["type"] == "WordPiece":
        unknown_text = parts.get("unk_token") or ("[UNK]" if unknown is None else names[ids.index(unknown)])
        return models.WordPiece(
            vocab,
            unk_token=unknown_text,
            max_input_chars_per_word=parts.get("max_input_chars_per_word", 100),
            continuing_subword_prefix=parts.get("continuing_subword_prefix", "##"),
        )
    # A dropout, which would be random, is left out.
    options = {name: parts[name] for name in _BPE_OPTIONS if parts.get(name)}
    return models.BPE(vocab, [tuple(merge.split(" ")) for merge in header[keys.MERGES]], **options)
