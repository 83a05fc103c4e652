"""Progress bars: on stderr, only on a terminal, only when the work is long."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# Work that ends sooner shows no bar.
PATIENCE_SECONDS = 1.0


@contextmanager
def bar(what: str, unit: str = "B") -> Iterator[Callable[[int, int], None]]:
    """A function that takes bytes done and bytes in all (0: unknown), and draws them behind the words `what`.

    unit  what is counted, if not bytes
    """
    started = time.monotonic()
    line: Any = None

    def show(done: int, total: int) -> None:
        nonlocal line
        finished = bool(total) and done >= total
        # tqdm has a delay of its own, but draws before it when a log line is written past the bar.
        if line is None and not finished and time.monotonic() - started > PATIENCE_SECONDS:
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

    return tqdm(
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        leave=False,
        dynamic_ncols=True,
    )
