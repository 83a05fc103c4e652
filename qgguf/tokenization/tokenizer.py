"""Tokenizer: a text to the ids that its model was trained on."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from qgguf.batching import Ids
from qgguf.model.from_gguf import Header, read_header
from qgguf.native.model import NativeModel
from qgguf.tokenization.byte_bpe import ByteBpe, has_newer_letters
from qgguf.tokenization.nfc import Nfc
from qgguf.tokenization.wordpiece import WordPiece

_USER_DEFINED = 4  # token type of what users may write, like <think>


class Tokenizer:
    """Ids of texts, with the model's frame: what stands before and after every text.

    model   open; read only, so any number of threads may tokenise at once
    header  of the model's file
    path    the file itself, read again for the few texts that need its merges
    """

    def __init__(self, model: NativeModel, header: Header, path: Path) -> None:
        self._before = np.array(model.frame.before, np.int32)
        self._after = np.array(model.frame.after, np.int32)
        self._own_ids = _choose(model, header, path)

    def ids(self, text: str) -> Ids:
        """(n_tokens,) int32, the frame included, however long.

        raises  UnicodeEncodeError for lone surrogates
        """
        own = np.asarray(self._own_ids(text), np.int32)
        return np.concatenate((self._before, own, self._after))

    def prompt_ids(self, prompt: str) -> Ids:
        """What texts with this prompt begin with, but for tokens that join the two: (n_tokens,) int32; none for ""."""
        if not prompt:
            return self._before[:0]
        ids = self.ids(prompt)
        return ids[: len(ids) - len(self._after)]

    def truncate(self, ids: Ids, max_tokens: int) -> Ids:
        """The first tokens that fit, the frame kept whole."""
        if len(ids) <= max_tokens:
            return ids
        return np.concatenate((ids[: max_tokens - len(self._after)], self._after))


def _choose(model: NativeModel, header: Header, path: Path) -> Callable[[str], Iterable[int]]:
    """llama.cpp's tokenizer where it is right, ours where it is not (see the two modules)."""
    says: Any = header.metadata
    if says.get("tokenizer.ggml.model") == "bert":
        return _word_piece(says)
    if says.get("tokenizer.ggml.pre") == "qwen2":
        return _Qwen2(model, header, path).ids
    return model.tokenize


def _word_piece(says: Any) -> Callable[[str], Iterable[int]]:
    lowercase = says.get("tokenizer.ggml.normalizer.lowercase", True)
    pieces = WordPiece(
        says["tokenizer.ggml.tokens"],
        says.get("tokenizer.ggml.unknown_token_id", 100),
        lowercase=lowercase,
        strip_accents=says.get("tokenizer.ggml.normalizer.strip_accents", lowercase),
    )

    def ids(text: str) -> list[int]:
        if not text.isascii():
            text.encode("utf-8")  # lone surrogates are refused here as everywhere
        return pieces.ids(text)

    return ids


class _Qwen2:
    """NFC, then llama.cpp; byte-level BPE of our own for letters younger than llama.cpp's table."""

    def __init__(self, model: NativeModel, header: Header, path: Path) -> None:
        self._model, self._path = model, path
        self._nfc = Nfc(_kept(header))
        self._ours: ByteBpe | None = None
        self._reading = threading.Lock()

    def ids(self, text: str) -> Iterable[int]:
        text = self._nfc(text)
        return self._byte_bpe().ids(text) if has_newer_letters(text) else self._model.tokenize(text)

    def _byte_bpe(self) -> ByteBpe:
        with self._reading:
            if self._ours is None:
                header = read_header(self._path)
                says: Any = header.metadata
                self._ours = ByteBpe(says["tokenizer.ggml.tokens"], says["tokenizer.ggml.merges"], _kept(header))
        return self._ours


def _kept(header: Header) -> dict[str, int]:
    """Text -> id of the tokens that users may write."""
    says: Any = header.metadata
    types = says.get("tokenizer.ggml.token_type", [])
    tokens = says["tokenizer.ggml.tokens"]
    return {
        tokens[number]: number
        for number, kind in enumerate(types)
        # llama.cpp takes what looks like a control token for one, whatever its type.
        if kind == _USER_DEFINED and not (tokens[number].startswith("<|") and tokens[number].endswith("|>"))
    }
