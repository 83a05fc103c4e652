"""llama.cpp's own tokenizer, for the models whose Hugging Face tokenizer is not known from the header."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from qgguf.batching import Ids
from qgguf.gguf_format import keys
from qgguf.model.prompts import NO_PROMPT, Prompt
from qgguf.native.model import NativeModel
from qgguf.tokenization.control_tokens import ControlTokens


class LlamaCppTokenizer:
    """Ids of texts, without the special tokens around them.

    header  the file's metadata
    """

    def __init__(self, model: NativeModel, header: Mapping[str, Any]) -> None:
        self._model = model
        tokens, types = header[keys.TOKENS], header.get(keys.TOKEN_TYPES) or []
        control = {tokens[number]: number for number, type_ in enumerate(types) if type_ == keys.CONTROL}
        self._control = ControlTokens(control)

    def ids(self, text: str, prompt: Prompt = NO_PROMPT) -> Ids:
        """Return the ids of a prompt and a text: (n_tokens,) int32.

        raises  UnicodeEncodeError: lone surrogates
        """
        if prompt is NO_PROMPT:
            return self._model.tokenize(text)
        pieces = self._control.pieces(prompt, text)
        ids = [self._model.tokenize(one) if isinstance(one, str) else np.array([one], np.int32) for one in pieces]
        return np.concatenate(ids) if ids else np.empty(0, np.int32)
