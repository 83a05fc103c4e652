"""Reads texts from arguments, a file or stdin, one per line."""

import codecs
import sys
from pathlib import Path

import click

from qgguf.cli.streams import has_stdin


def read_texts(arguments: tuple[str, ...], file: str | None) -> list[str]:
    """Return the texts that a command was given.

    arguments  texts, or "-" alone for stdin
    file       path, "-" for stdin, None for no file
    raises     click.UsageError: none, or from two sources; click.ClickException: not UTF-8
    """
    if arguments and file is not None:
        raise click.UsageError("Texts come from the arguments or from -i FILE, not from both.")
    is_named = file == "-" or arguments == ("-",)
    if is_named and not has_stdin():
        raise click.UsageError("stdin is closed, so it gives no texts. Give them as arguments, or with -i FILE.")
    if is_named or (not arguments and file is None and has_stdin() and not sys.stdin.isatty()):
        return split_lines(sys.stdin.buffer.read(), "stdin")
    if file is not None:
        return split_lines(Path(file).read_bytes(), file)
    if not arguments:
        raise click.UsageError("No texts. Give them as arguments, with -i FILE, or pipe them in, one per line.")
    if "-" in arguments:
        raise click.UsageError("'-' (stdin) stands alone. For texts that start with a dash, put -- before them.")
    for number, text in enumerate(arguments, 1):
        # An argument whose bytes are not the locale's text reaches Python as lone surrogates.
        if not _is_text(text):
            raise click.UsageError(
                f"Argument {number} is not valid text in this locale. Put it in a UTF-8 file: -i FILE."
            )
    return list(arguments)


def split_lines(data: bytes, source: str) -> list[str]:
    r"""Split UTF-8 bytes into lines, which end with \n or \r\n only. The last one may lack its end.

    source  what to call the data in an error
    raises  click.ClickException naming the line that is not UTF-8

    >>> split_lines("é\r\n\n한\u2028글".encode(), "x")
    ['é', '', '한\u2028글']
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise click.ClickException(f"{source} is UTF-16. Save it as UTF-8.")
    *lines, rest = data.removeprefix(codecs.BOM_UTF8).split(b"\n")
    lines = [line.removesuffix(b"\r") for line in lines]
    if rest:
        lines.append(rest)
    return [_decode(line, number, source) for number, line in enumerate(lines, 1)]


def _decode(line: bytes, number: int, source: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        seen = f"byte {error.start + 1} (0x{line[error.start]:02x})"
        raise click.ClickException(f"{source}, line {number}: {seen} is not UTF-8. Save it as UTF-8.") from error


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
