"""Tokenizer: a text to the ids that its model was trained on."""

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from qgguf.batching import Ids
from qgguf.gguf_format import keys
from qgguf.gguf_format.reader import Header, read_header
from qgguf.native.model import NativeModel
from qgguf.tokenization.byte_bpe import ByteBpe, has_newer_letters
from qgguf.tokenization.nfc import Nfc
from qgguf.tokenization.wordpiece import WordPiece


class Tokenizer:
    """Ids of texts, with the special tokens that the model puts before and after every text.

    model   open; only read, so any number of threads may tokenise at once
    header  of the model's file
    path    the file itself; it is read again for the few texts that need its merges
    """

    def __init__(self, model: NativeModel, header: Header, path: Path) -> None:
        self._prefix_ids = np.array(model.special_tokens.prefix_ids, np.int32)
        self._suffix_ids = np.array(model.special_tokens.suffix_ids, np.int32)
        self._text_ids = _choose(model, header, path)

    def ids(self, text: str) -> Ids:
        """Return the ids of a text of any length, special tokens included: (n_tokens,) int32.

        raises  UnicodeEncodeError: lone surrogates
        """
        text_ids = np.asarray(self._text_ids(text), np.int32)
        return np.concatenate((self._prefix_ids, text_ids, self._suffix_ids))

    def prompt_ids(self, prompt: str) -> Ids:
        """Return the ids that texts with this prompt begin with: (n_tokens,) int32; none for "".

        The last ones may differ in a text, where one token holds the end of the prompt and the beginning of the text.
        """
        if not prompt:
            return self._prefix_ids[:0]
        ids = self.ids(prompt)
        return ids[: len(ids) - len(self._suffix_ids)]

    def truncate(self, ids: Ids, max_tokens: int) -> Ids:
        """Return the first `max_tokens` ids, the special tokens all kept."""
        if len(ids) <= max_tokens:
            return ids
        return np.concatenate((ids[: max_tokens - len(self._suffix_ids)], self._suffix_ids))


def _choose(model: NativeModel, header: Header, path: Path) -> Callable[[str], Iterable[int]]:
    """Return llama.cpp's tokenizer where its ids are right, ours where they are not (see wordpiece and byte_bpe)."""
    metadata: Any = header.metadata
    if metadata.get(keys.TOKENIZER_MODEL) == keys.WORDPIECE_MODEL:
        return _word_piece(metadata)
    if metadata.get(keys.PRE_TOKENIZER) == keys.QWEN2_PRE_TOKENIZER:
        return _Qwen2(model, header, path).ids
    return model.tokenize


def _word_piece(metadata: Any) -> Callable[[str], Iterable[int]]:
    lowercase = metadata.get(keys.LOWERCASE, True)
    pieces = WordPiece(
        metadata[keys.TOKENS],
        metadata.get(keys.UNKNOWN_ID, 100),
        lowercase=lowercase,
        strip_accents=metadata.get(keys.STRIP_ACCENTS, lowercase),
    )

    def ids(text: str) -> list[int]:
        if not text.isascii():
            text.encode("utf-8")  # raises for lone surrogates, as the other tokenizers do
        return pieces.ids(text)

    return ids


class _Qwen2:
    """NFC, then llama.cpp's tokenizer, or our byte-level BPE for letters that are missing in llama.cpp's table."""

    def __init__(self, model: NativeModel, header: Header, path: Path) -> None:
        self._model, self._path = model, path
        self._nfc = Nfc(_user_tokens(header))
        self._byte_bpe: ByteBpe | None = None
        self._lock = threading.Lock()

    def ids(self, text: str) -> Iterable[int]:
        text = self._nfc(text)
        return self._opened_byte_bpe().ids(text) if has_newer_letters(text) else self._model.tokenize(text)

    def _opened_byte_bpe(self) -> ByteBpe:
        with self._lock:
            if self._byte_bpe is None:
                header = read_header(self._path)
                metadata: Any = header.metadata
                self._byte_bpe = ByteBpe(metadata[keys.TOKENS], metadata[keys.MERGES], _user_tokens(header))
        return self._byte_bpe


def _user_tokens(header: Header) -> dict[str, int]:
    """Return text -> id of the user-defined tokens: those that a text may contain, like `<think>`."""
    metadata: Any = header.metadata
    tokens = metadata[keys.TOKENS]
    return {
        tokens[number]: number
        for number, token_type in enumerate(metadata.get(keys.TOKEN_TYPES, []))
        # llama.cpp treats what looks like a control token as one, whatever its type.
        if token_type == keys.USER_DEFINED and not (tokens[number].startswith("<|") and tokens[number].endswith("|>"))
    }
