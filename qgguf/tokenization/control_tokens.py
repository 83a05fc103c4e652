"""Control tokens, which a prompt may name and a text may not."""

import re
from collections.abc import Mapping

from qgguf.model.prompts import Prompt


def looks_like_control(text: str) -> bool:
    """Return whether a token is a control token although nothing marks it as one; the rule of llama.cpp's converter."""
    return (
        text in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (text.startswith("<|") and text.endswith("|>"))
        or (text.startswith("<｜") and text.endswith("｜>"))
        or (text.startswith("<unused") and text.endswith(">"))
    )


class ControlTokens:
    """Finder of the control tokens in prompts.

    ids  name of each control token -> its id
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = dict(ids)
        # Longest first: of two names with the same beginning, the longer one is matched.
        names = sorted(filter(None, ids), key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, names)) + ")").split if names else None

    def pieces(self, prompt: Prompt, text: str) -> list[str | int]:
        """Return a text with its prompt as the texts between control tokens, and the ids of those, in their order.

        >>> ControlTokens({"<|user|>": 7}).pieces(Prompt("<|user|> Q: "), "is <|user|> a token?")
        [7, ' Q: is <|user|> a token?']
        """
        pieces: list[str | int] = [""]
        for part, may_name in (
            (prompt.before, True),
            (prompt.instruction, False),
            (prompt.after, True),
            (text, False),
        ):
            split = self._split(part) if may_name and part and self._split else [part]
            # A split by a pattern in brackets gives plain text at even indices and the names at odd ones.
            for index, piece in enumerate(split):
                if index % 2:
                    pieces += [self._ids[piece], ""]
                else:
                    pieces[-1] = str(pieces[-1]) + piece
        return [piece for piece in pieces if piece != ""]
