"""Unicode normalisation form C as the Hugging Face tokenizers compute it."""

import re
import unicodedata
from collections.abc import Iterable

from qgguf.tokenization.unicode_tables import NEWER_MARKS


class Nfc:
    """Normaliser of texts to NFC, the same with every Python version.

    The tokenizers differ from `unicodedata.normalize` in two ways that change ids: user-defined tokens like `<think>`
    are taken out first, so a mark after one does not compose with its ">"; and marks that are newer than Unicode 9
    neither move nor compose.

    user_tokens  texts of the user-defined tokens
    """

    def __init__(self, user_tokens: Iterable[str] = ()) -> None:
        # Longest first: of two tokens with the same beginning, the longer one is matched.
        tokens = [re.escape(token) for token in sorted(user_tokens, key=len, reverse=True)]
        self._apart = re.compile("(" + "|".join([*tokens, f"[{NEWER_MARKS}]"]) + ")")

    def __call__(self, text: str) -> str:
        r"""Return the text in NFC.

        >>> Nfc(["<think>"])("e\u0301 <think>\u0338") == "\u00e9 <think>\u0338"
        True
        """
        if unicodedata.is_normalized("NFC", text):
            return text
        pieces = self._apart.split(text)
        pieces[::2] = [unicodedata.normalize("NFC", piece) for piece in pieces[::2]]
        return "".join(pieces)
