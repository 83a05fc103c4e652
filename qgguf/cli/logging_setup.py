"""The library's log on stderr: warnings always, the rest with -v, llama.cpp's own lines with -vv."""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from typing import TextIO

    Handler = logging.StreamHandler[TextIO]
else:
    Handler = logging.StreamHandler  # takes no [...] before Python 3.11

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        if record.levelno >= logging.ERROR:
            return f"Error: {message}"
        return f"Warning: {message}" if record.levelno >= logging.WARNING else message


class _Stderr(Handler):
    """A handler that writes above a progress bar, not into it."""

    def emit(self, record: logging.LogRecord) -> None:
        bars = sys.modules.get("tqdm")
        if bars is None:
            super().emit(record)
        else:
            bars.tqdm.write(self.format(record), file=sys.stderr)


def _of_interest(record: logging.LogRecord) -> bool:
    # llama.cpp's warnings are about itself (unused metadata, unequal token types): for -vv.
    return not record.name.startswith("qgguf.llama") or logging.getLogger("qgguf").level <= logging.DEBUG


def _set_level(_context: click.Context, _parameter: click.Parameter, count: int) -> None:
    logger = logging.getLogger("qgguf")
    if not any(isinstance(handler, _Stderr) for handler in logger.handlers):
        handler = _Stderr(sys.stderr)
        handler.setFormatter(_Line())
        handler.addFilter(_of_interest)
        logger.addHandler(handler)
        logger.setLevel(logging.WARNING)
    # `qgguf -v embed -v` calls this twice; the more verbose one counts.
    logger.setLevel(min(logger.level, _LEVELS[min(count, len(_LEVELS) - 1)]))


def is_verbose() -> bool:
    """Return whether -v was given."""
    return logging.getLogger("qgguf").level < logging.WARNING


def verbose_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option -v to the group or to a command."""
    return click.option(
        "-v",
        "--verbose",
        count=True,
        is_eager=True,
        expose_value=False,
        callback=_set_level,
        help="Log what is done; -vv adds llama.cpp's log.",
    )(command)
