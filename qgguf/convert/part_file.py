"""A file that appears whole or not at all: written beside its place as NAME.part, and renamed when it is complete."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qgguf.errors import OutputError, OutputExistsError


def refuse_existing(target: Path, force: bool) -> None:
    """raises  OutputExistsError: it is there, and may not be replaced"""
    if not force and target.exists():
        raise OutputExistsError(f"{target} is there already. Choose another name, or replace it with --force.")


@contextmanager
def told(target: Path) -> Iterator[None]:
    """What the system says against writing, as an OutputError; for our own calls only, not the caller's."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"Cannot write {target}: {error.strerror or error}. Nothing is kept.") from error


@contextmanager
def part_of(target: Path, force: bool) -> Iterator[Path]:
    """An empty file for the body of the `with` to fill and sync; it takes the target's place if all went well.

    raises  OutputError: it cannot be written; OutputExistsError: the target appeared meanwhile
    """
    part = target.with_name(target.name + ".part")
    try:
        with told(target):
            part.unlink(missing_ok=True)
            with part.open("xb") as file:
                made = os.fstat(file.fileno())
        yield part
        refuse_existing(target, force)
        with told(target):
            if not os.path.samestat(made, part.stat()):
                raise OutputError(f"{part} was replaced by another process. Convert again.")
            os.replace(part, target)
    finally:
        _forget(part)
    _sync_folder(target.parent)


def check_room(folder: Path, needed_bytes: int) -> None:
    """raises  OutputError: the disk has less room than that"""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{folder} has {free_bytes / 1e9:.2f} GB free, the file needs {needed_bytes / 1e9:.2f} GB. "
            "Make room, or write elsewhere."
        )


def _forget(part: Path) -> None:
    try:
        part.unlink(missing_ok=True)
    except OSError:
        pass  # what went wrong before is the thing to report


def _sync_folder(folder: Path) -> None:
    """Make the new name last through a power cut, where folders can be synced (not on Windows)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        pass  # some network file systems cannot; the file itself is synced
    finally:
        os.close(handle)
