"""NFC, as the Hugging Face tokenizers do it."""

import re
import unicodedata
from collections.abc import Iterable

from qgguf.tokenization.unicode_tables import NEWER_MARKS


class Nfc:
    """Text -> NFC text, the same for every Python.

    The tokenizers differ from `unicodedata.normalize` in two ways that change ids: tokens that users may write, like
    `<think>`, are cut out first, so a mark after one does not compose with its ">"; and marks younger than Unicode 9
    neither move nor compose.

    kept  texts of such tokens
    """

    def __init__(self, kept: Iterable[str] = ()) -> None:
        # Longest first: of two tokens that start alike, the longer one is found.
        tokens = [re.escape(token) for token in sorted(kept, key=len, reverse=True)]
        self._apart = re.compile("(" + "|".join([*tokens, f"[{NEWER_MARKS}]"]) + ")")

    def __call__(self, text: str) -> str:
        """
        >>> Nfc(["<think>"])("e\\u0301 <think>\\u0338") == "\\u00e9 <think>\\u0338"
        True
        """
        if unicodedata.is_normalized("NFC", text):
            return text
        pieces = self._apart.split(text)
        pieces[::2] = [unicodedata.normalize("NFC", piece) for piece in pieces[::2]]
        return "".join(pieces)
