"""Progress bar of a call, in tokens."""

import collections
import sys
import threading
import time

from tqdm import tqdm

SECONDS_BEFORE_SHOWN = 2.0
"""A bar is shown for work that takes longer. In quicker work it would only flicker."""

_SECONDS_BETWEEN_DRAWINGS = 0.1
# A program whose main thread was interrupted inside a bar of tqdm holds tqdm's lock for good: do not wait for it.
_SECONDS_TO_END = 2.0


class TokenBar:
    """A progress bar on stderr. Its total is estimated from the characters until all texts are tokenised.

    A separate thread draws it. An interrupt (Ctrl-C) is raised in the main thread only; inside tqdm's drawing, it would
    leave a lock that other threads wait for.

    shown         False: nothing is ever printed, as in a windowed program, which has no stderr
    n_characters  characters of all texts

    total         estimated number of tokens of all texts; None before the first `expect`
    """

    def __init__(self, shown: bool, n_characters: int) -> None:
        self.total: int | None = None
        self._characters_left, self._tokens_seen, self._characters_seen = n_characters, 0, 0
        self._computed: collections.deque[int] = collections.deque()
        self._n_tokens = 0
        self._ended = threading.Event()
        self._shown = shown and sys.stderr is not None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "TokenBar":
        if self._shown:
            self._thread = threading.Thread(target=self._draw, name="qgguf progress bar", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_SECONDS_TO_END)

    @property
    def n_tokens(self) -> int:
        """Number of tokens drawn so far; when the block has ended, of those reported; 0 when the bar is not shown."""
        return self._n_tokens

    def expect(self, n_characters: int, n_tokens: int) -> None:
        """Count these characters as tokenised into these tokens, and estimate the total anew. For one thread."""
        self._characters_left -= n_characters
        self._characters_seen += n_characters
        self._tokens_seen += n_tokens
        tokens_per_character = self._tokens_seen / max(1, self._characters_seen)
        self.total = self._tokens_seen + round(self._characters_left * tokens_per_character)

    def add_tokens(self, n_tokens: int) -> None:
        """Report that so many more tokens are computed. May be called from any thread."""
        if self._shown:
            self._computed.append(n_tokens)

    def _draw(self) -> None:
        """Show the bar after a while, and draw what is reported until the block ends."""
        started = time.time()
        if self._ended.wait(SECONDS_BEFORE_SHOWN):
            self._count()
            return
        # With a delay, however short, tqdm does not draw an empty bar first.
        with tqdm(total=self.total, unit="tok", unit_scale=True, delay=1e-9) as bar:
            bar.start_t = bar.last_print_t = started
            while True:
                ended = self._ended.wait(_SECONDS_BETWEEN_DRAWINGS)
                computed = self._count()
                bar.total = self.total
                if computed:
                    bar.update(computed)
                if ended:
                    return

    def _count(self) -> int:
        """Add what was reported since the last time to `n_tokens`, and return it."""
        computed = 0
        while self._computed:
            computed += self._computed.popleft()
        self._n_tokens += computed
        return computed
