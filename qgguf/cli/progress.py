"""Progress bars: on stderr, only on a terminal, only when the work is long."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def bar(what: str, *, unit: str, seconds: float = 1.0) -> Iterator[Callable[[int, int], None]]:
    """A function that takes (done, in all); 0 in all is "unknown".

    what     the words before the bar
    unit     "B" for bytes, else what is counted
    seconds  work shorter than this shows no bar
    """
    from tqdm import tqdm

    with tqdm(
        desc=what,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
        delay=seconds,
        leave=False,
        dynamic_ncols=True,
    ) as line:

        def show(done: int, total: int) -> None:
            line.total = total or None
            line.update(done - line.n)

        yield show
