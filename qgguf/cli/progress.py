"""Progress bars of commands: on stderr, only on a terminal, and only for long work."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def bar(what: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr while the block runs, if that takes longer than SECONDS_BEFORE_SHOWN.

    what    text before the bar
    unit    unit of the amounts; "B" for bytes
    yields  a function of (amount done, total; 0 if unknown)
    """
    # Imported here, because it brings tqdm.
    from qgguf.inference.token_bar import SECONDS_BEFORE_SHOWN

    started = time.monotonic()
    line: Any = None

    def show(done: int, total: int) -> None:
        nonlocal line
        finished = bool(total) and done >= total
        # tqdm's own delay is not used, because a log line written past the bar would show it earlier.
        if line is None and not finished and time.monotonic() - started > SECONDS_BEFORE_SHOWN:
            line = _draw(what, unit)
        if line is not None:
            line.total = total or None
            line.update(done - line.n)
        if finished and line is not None:
            line.close()
            line = None

    try:
        yield show
    finally:
        if line is not None:
            line.close()


def _draw(what: str, unit: str) -> Any:
    from tqdm import tqdm

    # tqdm's own thread waits for a lock that an interrupt inside a drawing leaves locked, and closing waits for it.
    tqdm.monitor_interval = 0
    return tqdm(
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    )
