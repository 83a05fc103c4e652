"""Small tokenizers of every kind that embedding models have: their tokenizer.json, and the same in a GGUF header.

The pieces are the first merges of a real byte-level BPE, so that nothing has to be trained and every machine makes
the same ones. The headers are written as llama.cpp's converter does (conversion/base.py and bert.py).
"""

import base64
import json
import lzma
import math
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.checkpoints import small_tokenizer_json
from tests.support.texts import CODE, LANGUAGES, SIGNS

Json = dict[str, Any]

# Normalisation rule nmt_nfkc of sentencepiece, XLM-RoBERTa's: tests/data/README.md.
CHARSMAP = Path(__file__).resolve().parent.parent / "data" / "sentencepiece" / "nmt_nfkc.charsmap.xz"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"  # how sentencepiece writes a space


@cache
def _real_tokenizer() -> Json:
    tokenizer: Json = json.loads(small_tokenizer_json())
    return tokenizer


def real_bpe() -> Json:
    """A new copy of Qwen3's real tokenizer.json with its first 1,792 merges."""
    copy: Json = json.loads(json.dumps(_real_tokenizer()))
    return copy


def _bytes_of_letters() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte -> the byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


@cache
def pieces() -> tuple[str, ...]:
    """Pieces of text that are worth a token, the more frequent first; a word's first one has a SPACE before it.

    Those of the merges, and of the words of the texts in other scripts than Latin.
    """
    letters = _bytes_of_letters()
    found = []
    for left, right in _real_tokenizer()["model"]["merges"]:
        raw = bytes(letters[letter] for letter in left + right)
        try:
            piece = raw.decode("utf-8").replace(" ", SPACE)
        except UnicodeDecodeError:
            continue
        if SPACE not in piece.lstrip(SPACE):
            found.append(piece)
    for sentence in LANGUAGES.values():
        for word in sentence.split():
            if not word.isascii():
                found += [word[:2], SPACE + word[:1], SPACE + word[:2], SPACE + word[:3]]
    return tuple(piece for piece in dict.fromkeys(found) if len(piece) > 1 and piece.isprintable())


@cache
def characters() -> tuple[str, ...]:
    """The characters of the pieces, and of the texts in every form, ordered.

    One in 17 of the texts' own is left out, so that texts have unknown ones.
    """
    of_pieces = set("".join(pieces())) - {SPACE}
    text = "".join([*LANGUAGES.values(), *CODE.values(), *SIGNS.values(), "é한😉"])
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD", "NFKC")]
    found = sorted({*"".join([*forms, *(form.lower() for form in forms)]), *of_pieces})
    known = (char for char in found if char.isascii() or char in of_pieces or ord(char) % 17)
    return tuple(char for char in known if char.isprintable() and not char.isspace())


def added(content: str, number: int, **flags: bool) -> Json:
    """An added token of a tokenizer.json; special, and not normalised, where the flags do not say otherwise."""
    default = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": content} | default | flags


def template(before: str, after: str, ids: Mapping[str, int]) -> Json:
    """TemplateProcessing with these special tokens around a text; "" for none."""

    def sequence(kind: str) -> Json:
        return {"Sequence": {"id": kind, "type_id": 0}}

    def around(inner: list[Json]) -> list[Json]:
        special = [[{"SpecialToken": {"id": token, "type_id": 0}}] if token else [] for token in (before, after)]
        return [*special[0], *inner, *special[1]]

    tokens = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (before, after) if token}
    pair = around([sequence("A"), sequence("B")])
    return {"type": "TemplateProcessing", "single": around([sequence("A")]), "pair": pair, "special_tokens": tokens}


def _tokenizer(model: Json, added_tokens: list[Json], **parts: Any) -> Json:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return {"version": "1.0", **empty, "added_tokens": added_tokens, **parts, "model": model}


def wordpiece(*, lowercase: bool, user_tokens: Iterable[str] = ()) -> Json:
    """BERT's kind: [CLS] text [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [piece.lstrip(SPACE) if piece[0] == SPACE else "##" + piece for piece in pieces()]
    letters = [char for char in characters() if not lowercase or char == char.lower()]
    alone = [*letters, *("##" + char for char in letters)]
    tokens = dict.fromkeys([*special, *alone, *(word.lower() if lowercase else word for word in words), *user_tokens])
    ids = {token: number for number, token in enumerate(token for token in tokens if token)}
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": ids,
    }
    normalizer = {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": lowercase,
    }
    own = [added(token, ids[token], normalized=True, special=False) for token in user_tokens]
    return _tokenizer(
        model,
        [*(added(token, ids[token]) for token in special), *own],
        normalizer=normalizer,
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=template("[CLS]", "[SEP]", ids),
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
    )


def unigram() -> Json:
    """XLM-RoBERTa's kind: <s> text </s>."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [(piece, _float32(-3 - math.log(rank + 2))) for rank, piece in enumerate(pieces())]
    known = dict.fromkeys([SPACE, *characters()])
    alone = [(char, _float32(-12 - rank / 1024)) for rank, char in enumerate(known)]
    scored = dict([*((token, 0.0) for token in special), *words, *alone, ("<mask>", 0.0)])
    ids = {token: number for number, token in enumerate(scored)}
    model = {"type": "Unigram", "unk_id": ids["<unk>"], "vocab": [list(item) for item in scored.items()]}
    charsmap = base64.b64encode(charsmap_of_sentencepiece()).decode("ascii")
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    return _tokenizer(
        model | {"byte_fallback": False},
        [*(added(token, ids[token]) for token in special), added("<mask>", ids["<mask>"], lstrip=True)],
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        post_processor=template("<s>", "</s>", ids),
        decoder=metaspace,
    )


def _float32(score: float) -> float:
    """A score that a GGUF file can hold, as those of sentencepiece are; rounded first, for other libraries of maths."""
    return float(np.float32(round(score, 6)))


def charsmap_of_sentencepiece() -> bytes:
    """The compiled rule that brings texts to sentencepiece's NFKC."""
    return lzma.decompress(CHARSMAP.read_bytes())


def _merges_of(vocabulary: Mapping[str, int], ranked: Iterable[str]) -> Iterator[list[str]]:
    """The pairs that make each piece, as transformers reads them from sentencepiece's scores."""
    for piece in ranked:
        pairs = [[piece[:cut], piece[cut:]] for cut in range(1, len(piece))]
        known = [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
        yield from sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))


def _sentencepiece_bpe(special: list[str], own: list[str], ranked: list[str]) -> Json:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = dict.fromkeys([*special, *own, *bytes_, *ranked, SPACE, *characters()])
    ids = {token: number for number, token in enumerate(tokens)}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "ignore_merges": False,
        "vocab": ids,
        "merges": list(_merges_of(ids, ranked)),
    }


def llama_sentencepiece() -> Json:
    """Llama 2's and Mistral's kind: <s> text </s>, letters without a piece as bytes."""
    special = ["<unk>", "<s>", "</s>"]
    model = _sentencepiece_bpe(special, [], list(pieces()))
    prepend = {"type": "Prepend", "prepend": SPACE}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    return _tokenizer(
        model,
        [added(token, model["vocab"][token]) for token in special],
        normalizer={"type": "Sequence", "normalizers": [prepend, replace]},
        post_processor=template("<s>", "</s>", model["vocab"]),
    )


def gemma_sentencepiece() -> Json:
    """EmbeddingGemma's kind: <bos> text <eos>, no space before the text, own tokens for line ends and tags."""
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    own = ["\n\n", "\n\n\n", "<table>", "</table>"]
    model = _sentencepiece_bpe(special, own, list(pieces()))
    model["vocab"]["\n"] = len(model["vocab"])
    return _tokenizer(
        model,
        [
            *(added(token, model["vocab"][token]) for token in special),
            *(added(token, model["vocab"][token], special=False) for token in own),
        ],
        normalizer={"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        pre_tokenizer={
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        post_processor=template("<bos>", "<eos>", model["vocab"]),
    )


def _byte_bpe(first: list[str], last: list[str], **changes: Any) -> Json:
    """Byte-level BPE whose vocabulary has these tokens before and after the bytes and merges."""
    real = _real_tokenizer()["model"]
    middle = sorted(real["vocab"], key=real["vocab"].__getitem__)
    ids = {token: number for number, token in enumerate([*first, *middle, *last])}
    return real | {"vocab": ids, "continuing_subword_prefix": None, "end_of_word_suffix": None} | changes


def _take_from_vocabulary(model: Json, tokens: list[Json]) -> None:
    """Leave only the bytes and merges in the vocabulary: a published file has its added tokens outside."""
    contents = {token["content"] for token in tokens}
    model["vocab"] = {token: number for token, number in model["vocab"].items() if token not in contents}


_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def roberta() -> Json:
    """RoBERTa's kind: <s> text </s>, GPT-2's way to split texts."""
    first = ["<s>", "<pad>", "</s>", "<unk>"]
    model = _byte_bpe(first, ["<mask>"])
    ids = model["vocab"]
    post_processor = {
        "type": "RobertaProcessing",
        "sep": ["</s>", ids["</s>"]],
        "cls": ["<s>", ids["<s>"]],
        "trim_offsets": True,
        "add_prefix_space": False,
    }
    # RoBERTa's own tokens are normalised; its texts are not.
    tokens = [added(token, ids[token], normalized=True) for token in first]
    return _tokenizer(
        model,
        [*tokens, added("<mask>", ids["<mask>"], lstrip=True)],
        pre_tokenizer=_BYTE_LEVEL,
        post_processor=post_processor,
        decoder=_BYTE_LEVEL,
    )


def modernbert() -> Json:
    """ModernBERT's kind: [CLS] text [SEP], NFC, runs of spaces as tokens."""
    spaces = [" " * length for length in range(24, 1, -1)]
    masks = ["|||EMAIL_ADDRESS|||", "|||PHONE_NUMBER|||"]
    special = ["<|endoftext|>", "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    model = _byte_bpe(["|||IP_ADDRESS|||", "<|padding|>"], [*spaces, *masks, *special])
    ids = model["vocab"]
    own = [
        added("|||IP_ADDRESS|||", 0, normalized=True, special=False),
        added("<|padding|>", 1),
        *(added(token, ids[token], normalized=True, special=False) for token in (*spaces, *masks)),
        *(added(token, ids[token], lstrip=token == "[MASK]") for token in special),
    ]
    # The first two are in the published vocabulary too.
    _take_from_vocabulary(model, own[2:])
    return _tokenizer(
        model,
        own,
        normalizer={"type": "NFC"},
        pre_tokenizer=_BYTE_LEVEL,
        post_processor=template("[CLS]", "[SEP]", ids),
        decoder=_BYTE_LEVEL,
    )


_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def llama3(*, begin: bool, end: bool) -> Json:
    """Llama 3's kind: <|begin_of_text|> before and <|end_of_text|> after a text, where asked for."""
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    model = _byte_bpe([], special, ignore_merges=True)
    ids = model["vocab"]
    tokens = [added(token, ids[token]) for token in special]
    _take_from_vocabulary(model, tokens)
    split = {"type": "Split", "pattern": {"Regex": _LLAMA3_SPLIT}, "behavior": "Isolated", "invert": False}
    frame = template(special[0] if begin else "", special[1] if end else "", ids)
    return _tokenizer(
        model,
        tokens,
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL | {"use_regex": False}]},
        post_processor={"type": "Sequence", "processors": [_BYTE_LEVEL, frame]},
        decoder=_BYTE_LEVEL,
    )


def qwen2(*, end: bool) -> Json:
    """Qwen2's and Qwen3's kind: text <|endoftext|>, or the text alone."""
    tokenizer = real_bpe()
    if not end:
        del tokenizer["post_processor"]["processors"][1]
    return tokenizer


def for_plain_text(tokenizer: Json) -> Json:
    """The same tokenizer.json, whose model cannot make a special token out of text that spells it.

    `encode_special_tokens` does not look for special tokens in a text, but Unigram still finds them in its vocabulary.
    Special is also what llama.cpp's converter takes for it, whatever the checkpoint says.
    """
    added_tokens = [
        token | {"special": token["special"] or _looks_special(token["content"])} for token in tokenizer["added_tokens"]
    ]
    tokenizer = tokenizer | {"added_tokens": added_tokens}
    vocabulary = tokenizer["model"]["vocab"]
    if not isinstance(vocabulary, list):
        return tokenizer
    special = {token["content"] for token in added_tokens if token["special"]}
    # No text has a private character before a token's name.
    hidden = [["\ue000" + token if token in special else token, score] for token, score in vocabulary]
    return tokenizer | {"model": tokenizer["model"] | {"vocab": hidden}}


def n_tokens(tokenizer: Json) -> int:
    """The number of ids, those of the added tokens included."""
    return len(tokens_of(tokenizer))


def tokens_of(tokenizer: Json) -> list[str]:
    """The tokens in the order of their ids."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, list):
        return [token for token, _ in vocabulary]
    ids = {number: token for token, number in vocabulary.items()}
    ids |= {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    assert sorted(ids) == list(range(len(ids)))
    return [ids[number] for number in range(len(ids))]


def gguf_vocabulary(tokenizer: Json, kind: str, pre: str, size: int, special: Mapping[str, str]) -> Json:
    """The keys tokenizer.ggml.* of a GGUF header for a tokenizer.json, those of the frame apart.

    kind     tokenizer.ggml.model: "bert", "t5", "llama" or "gpt2"
    pre      tokenizer.ggml.pre
    size     rows of the token embedding; what is beyond the tokens is filled up
    special  role -> token: {"bos": "<s>"}
    """
    tokens = tokens_of(tokenizer)
    ids = {token: number for number, token in enumerate(tokens)}
    types = [NORMAL] * len(tokens)
    for token in tokenizer["added_tokens"]:
        types[token["id"]] = CONTROL if token["special"] or _looks_special(token["content"]) else USER_DEFINED
    scores: list[float] = []
    if kind == "t5":
        scores = [score for _, score in tokenizer["model"]["vocab"]]
    if kind == "llama":
        scores = [_score(token, number, types[number]) for number, token in enumerate(tokens)]
        types = [BYTE if token.startswith("<0x") else types[number] for number, token in enumerate(tokens)]
    if kind in ("t5", "llama"):
        types[ids["<unk>"]] = UNKNOWN
    if kind == "bert":
        tokens = [_phantom(token, types[number]) for number, token in enumerate(tokens)]
    missing = range(len(tokens), size)
    values: Json = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *(SPACE * (kind == "bert") + f"[PAD{number}]" for number in missing)],
        "tokenizer.ggml.token_type": [*types, *(UNUSED for _ in missing)],
    }
    if scores:
        values["tokenizer.ggml.scores"] = [*scores, *(-10000.0 for _ in missing)]
    if kind == "gpt2":
        values["tokenizer.ggml.merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    return values | {f"tokenizer.ggml.{role}_token_id": ids[token] for role, token in special.items()}


def _looks_special(token: str) -> bool:
    return token in ("<pad>", "<mask>") or (token.startswith("<|") and token.endswith("|>"))


def _phantom(token: str, kind: int) -> str:
    if kind == CONTROL:
        return token
    return token[2:] if token.startswith("##") else SPACE + token


def _score(token: str, number: int, kind: int) -> float:
    """Sentencepiece's BPE scores fall with the rank; bytes and special tokens have 0, other added tokens -1000."""
    if kind == USER_DEFINED:
        return -1000.0
    return 0.0 if kind == CONTROL or token.startswith("<0x") else -float(number)
