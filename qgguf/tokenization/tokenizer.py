"""Tokenizer: a text to the ids that its model was trained on."""

from collections.abc import Mapping

import numpy as np

from qgguf.batching import Ids
from qgguf.model.prompts import NO_PROMPT, Prompt
from qgguf.native.model import NativeModel
from qgguf.tokenization.hugging_face import HuggingFaceTokenizer
from qgguf.tokenization.llama_cpp import LlamaCppTokenizer


class Tokenizer:
    """Ids of texts, with the special tokens that the model puts before and after every text.

    model   open; only read, so any number of threads may tokenise at once
    header  metadata of the model's file
    built   its Hugging Face tokenizer; None: there is none, and llama.cpp's is used
    """

    def __init__(self, model: NativeModel, header: Mapping[str, object], built: HuggingFaceTokenizer | None) -> None:
        self._prefix_ids = np.array(model.special_tokens.prefix_ids, np.int32)
        self._suffix_ids = np.array(model.special_tokens.suffix_ids, np.int32)
        self._tokenizer = built or LlamaCppTokenizer(model, header)

    def ids(self, text: str, prompt: Prompt = NO_PROMPT) -> Ids:
        """Return the ids of a prompt and a text of any length, special tokens included: (n_tokens,) int32.

        The name of a control token in the text is plain text; in the prompt it is that token.

        raises  UnicodeEncodeError: lone surrogates
        """
        return np.concatenate((self._prefix_ids, self._tokenizer.ids(text, prompt), self._suffix_ids))

    def prompt_ids(self, prompt: Prompt) -> Ids:
        """Return the ids that texts with this prompt begin with: (n_tokens,) int32; none for an empty one.

        The last ones may differ in a text, where one token holds the end of the prompt and the beginning of the text.
        """
        if not prompt.text:
            return self._prefix_ids[:0]
        ids = self.ids("", prompt)
        return ids[: len(ids) - len(self._suffix_ids)]

    def truncate(self, ids: Ids, max_tokens: int) -> Ids:
        """Return the first `max_tokens` ids, the special tokens all kept."""
        if len(ids) <= max_tokens:
            return ids
        return np.concatenate((ids[: max_tokens - len(self._suffix_ids)], self._suffix_ids))
