"""Progress bar of a call, in tokens."""

import sys
import threading

from tqdm import tqdm

SECONDS_BEFORE_SHOWN = 2.0
"""A bar is shown for work that takes longer. In quicker work it would only flicker."""


class TokenBar:
    """A progress bar on stderr. Its total is estimated from the characters until all texts are tokenised.

    shown         False: nothing is ever printed, as in a windowed program, which has no stderr
    n_characters  characters of all texts
    """

    def __init__(self, shown: bool, n_characters: int) -> None:
        self._lock = threading.Lock()
        self._characters_left, self._tokens_seen, self._characters_seen = n_characters, 0, 0
        self._bar = tqdm(
            total=None, unit="tok", unit_scale=True, delay=SECONDS_BEFORE_SHOWN, disable=not shown or sys.stderr is None
        )

    def __enter__(self) -> "TokenBar":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    @property
    def n_tokens(self) -> int:
        """Number of tokens reported so far; 0 when the bar is not shown."""
        return int(self._bar.n)

    @property
    def total(self) -> int | None:
        """Estimated number of tokens of all texts; None before the first `expect`."""
        return None if self._bar.total is None else int(self._bar.total)

    def expect(self, n_characters: int, n_tokens: int) -> None:
        """Count these characters as tokenised into these tokens, and estimate the total anew."""
        with self._lock:
            self._characters_left -= n_characters
            self._characters_seen += n_characters
            self._tokens_seen += n_tokens
            tokens_per_character = self._tokens_seen / max(1, self._characters_seen)
            self._bar.total = self._tokens_seen + round(self._characters_left * tokens_per_character)

    def add_tokens(self, n_tokens: int) -> None:
        """Report that so many more tokens are computed. May be called from any thread."""
        with self._lock:
            self._bar.update(n_tokens)
