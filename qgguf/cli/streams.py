"""Stand-ins for the standard streams that the shell or a service manager has closed (`<&-`, `>&-`, `2>&-`)."""

import io
import os
import sys
from typing import Any, NoReturn

import click

from qgguf.errors import OutputError


class _NoBytes(io.RawIOBase):
    """The bytes of a closed stdout."""

    def writable(self) -> bool:
        return True

    def write(self, _data: Any) -> NoReturn:
        raise OutputError("stdout is closed, and the result goes there. Open it, or write to a file where there is -o.")


class _NoOutput(io.TextIOBase):
    """A closed stdout: what is written to it is an error, so that no result is lost in silence."""

    encoding = "utf-8"
    buffer = _NoBytes()

    def writable(self) -> bool:
        return True

    def write(self, _text: str) -> NoReturn:
        self.buffer.write(b"")


def open_missing_streams() -> None:
    """Open a stand-in for each closed standard stream. Call it before any file is opened.

    The next file that is opened would get the number of a closed descriptor, and what other code prints would be
    written into that file.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is given, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdout is None:
        sys.stdout = _NoOutput()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def has_stdin() -> bool:
    """Return whether stdin is open."""
    return sys.stdin is not None


def has_stdout() -> bool:
    """Return whether stdout is open."""
    return not isinstance(sys.stdout, _NoOutput)


def report(line: str) -> None:
    """Print a line about work that is done, which is no error where stdout is closed."""
    if has_stdout():
        click.echo(line)
