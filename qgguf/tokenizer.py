"""Tokenizer: a text to the ids that its model was trained on."""

import unicodedata

import numpy as np
from numpy.typing import NDArray

from qgguf.native.model import NativeModel

Ids = NDArray[np.int32]


class Tokenizer:
    """Ids of texts, with the model's frame: what stands before and after every text.

    model  open; read only, so any number of threads may tokenise at once
    """

    def __init__(self, model: NativeModel) -> None:
        self._model = model
        self._before = np.array(model.frame.before, np.int32)
        self._after = np.array(model.frame.after, np.int32)

    def ids(self, text: str) -> Ids:
        """(n_tokens,) int32, the frame included, however long.

        raises  UnicodeEncodeError for lone surrogates
        """
        return np.concatenate((self._before, self._model.tokenize(unicodedata.normalize("NFC", text)), self._after))

    def truncate(self, ids: Ids, max_tokens: int) -> Ids:
        """The first tokens that fit, the frame kept whole."""
        if len(ids) <= max_tokens:
            return ids
        return np.concatenate((ids[: max_tokens - len(self._after)], self._after))
