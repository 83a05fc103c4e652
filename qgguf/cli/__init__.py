"""The command `qgguf`, one file per command. Heavy modules are imported inside the commands only."""

import errno
import os
import sys
from typing import NoReturn

import click

from qgguf.cli.bench import bench
from qgguf.cli.convert import convert
from qgguf.cli.doctor import doctor
from qgguf.cli.embed import embed
from qgguf.cli.inspect import inspect
from qgguf.cli.logging_setup import is_verbose, verbose_option
from qgguf.cli.models import list_command, pull, rm
from qgguf.cli.plan import plan
from qgguf.cli.similarity import similarity
from qgguf.cli.streams import open_missing_streams
from qgguf.errors import QgError

INTERRUPTED = 130


def _print_version(context: click.Context, _parameter: click.Parameter, requested: bool) -> None:
    if requested:
        from qgguf._version import __version__

        click.echo(f"qgguf {__version__}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@verbose_option
def cli() -> None:
    """Text embeddings from GGUF files, on llama.cpp.

    \b
    qgguf pull qwen3-embedding-0.6b
    qgguf embed "how do I connect a database?" --prompt-name query
    qgguf embed -i documents.txt -o documents.npy
    """


for _command in (embed, similarity, inspect, plan, pull, list_command, rm, convert, bench, doctor):
    cli.add_command(_command)


def main() -> NoReturn:
    """Run the command line: 0 done, 1 an error or a closed pipe, 2 wrong usage, 130 interrupted."""
    open_missing_streams()
    _write_utf8()
    try:
        code = cli.main(prog_name="qgguf", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        _leave(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        _leave(INTERRUPTED)
    except QgError as error:
        _fail(str(error))
    except OSError as error:
        if _is_closed_pipe(error):
            _leave_closed_pipe()
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
    except MemoryError:
        _fail("Out of memory. Give fewer texts at once, a smaller model, or fewer --threads.")
    except Exception as error:
        if is_verbose():
            raise
        _fail(f"{type(error).__name__}: {error}. This is a bug in qgguf: run it again with -v, and report its output.")
    _leave(code if isinstance(code, int) else 0)


def _write_utf8() -> None:
    """Write UTF-8 in every locale; a terminal that cannot show a character gets an escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            reconfigure(encoding="utf-8", errors="backslashreplace")


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    _leave(1)


def _is_closed_pipe(error: OSError) -> bool:
    # Windows reports a closed pipe as EINVAL.
    return isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL)


def _leave_closed_pipe() -> NoReturn:
    """Exit silently, as click does, when the reader of the output closed the pipe, as `head` does."""
    _leave(1)


def _leave(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except OSError:
        # What could not be written is still in the buffer; Python would try again at its end, and exit with 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)
