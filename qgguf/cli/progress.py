"""Progress bars: on stderr, only on a terminal, only when the work is long."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function that takes bytes done and bytes in all (0: unknown), and draws them behind the words `what`."""
    from tqdm import tqdm

    with tqdm(
        desc=what,
        unit="B",
        unit_scale=True,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        delay=1,
        leave=False,
        dynamic_ncols=True,
    ) as line:

        def show(done_bytes: int, total_bytes: int) -> None:
            line.total = total_bytes or None
            line.update(done_bytes - line.n)

        yield show
