"""Lifetime of native objects: when they are freed, also at the end of the process and in forked processes.

At the end of a process, Python stops daemon threads anywhere in their code, and the system unloads llama.cpp. A thread
that computes at that moment reads freed memory. So at exit this module waits for the native calls under way, keeps
other threads from starting new ones, and then frees what is left.

A forked process has the parent's objects in its memory, but neither its threads nor its GPU contexts. It must not use
them, nor free them.
"""

import atexit
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from qgguf.background import BackgroundCall
from qgguf.errors import ForkError, NativeError

_Result = TypeVar("_Result")

_numbers = itertools.count()


class _Process:
    """What is known of the current process. A fork starts a new one."""

    def __init__(self, forked_thread: int | None = None) -> None:
        self.number = next(_numbers)
        self.forked_thread = forked_thread
        self.exiting = False
        self.opening = threading.RLock()
        self.changed = threading.Condition()
        # Thread -> number of its native calls, one within the other. Each thread changes only its own entry.
        self.running: dict[threading.Thread, int] = {}
        self.finalizers: dict[int, Callable[[], object]] = {}


_process = _Process()


def process_number() -> int:
    """Return a number that differs between a process and those forked from it."""
    return _process.number


def check_process(number: int) -> None:
    """Check that an object is used in the process that made it.

    number  `process_number()` of that time
    raises  ForkError: the current process was forked from it
    """
    if number != _process.number:
        raise ForkError(
            "This model was opened before the process was forked, and llama.cpp's threads do not exist in the child. "
            "Open it in the child: Embedder(...)"
        )


def opening_lock() -> threading.RLock:
    """Return the lock under which an unpickled object opens its model, so that several threads open it once."""
    return _process.opening


def check_exit() -> None:
    """Block a thread that would start to compute while the process ends; a daemon thread ends with it.

    raises  NativeError: the thread is the main thread, which must not wait
    """
    if not _process.exiting:
        return
    if threading.current_thread() is threading.main_thread():
        raise NativeError("The program is ending, and its models are closed.")
    while True:
        threading.Event().wait()


def is_exiting() -> bool:
    """Return whether the process is ending."""
    return _process.exiting


@contextmanager
def native_call() -> Iterator[None]:
    """Run a native call that uses a model's memory in the block: the process does not end inside it."""
    process, thread = _process, threading.current_thread()
    process.running[thread] = process.running.get(thread, 0) + 1
    try:
        if process.exiting and process.running[thread] == 1:
            # `_at_exit` may not have seen this call, and this thread not that the process ends: one of the two does.
            _leave(process, thread)
            check_exit()
        yield
    finally:
        _leave(process, thread)


def _leave(process: _Process, thread: threading.Thread) -> None:
    n_calls = process.running.get(thread, 0)
    if n_calls > 1:
        process.running[thread] = n_calls - 1
        return
    process.running.pop(thread, None)
    if process.exiting:
        with process.changed:
            process.changed.notify_all()


def run_parallel(call: Callable[[], _Result]) -> _Result:
    """Return the result of a native call that computes in several threads.

    In the thread that survives a fork, GNU's OpenMP waits for the parent's threads for ever. A new thread starts anew.
    """
    if threading.get_ident() != _process.forked_thread:
        return call()
    return BackgroundCall(call, name="qgguf-forked").start().result()


def free_with(owner: object, free: Callable[[Any], object], handle: Any) -> Callable[[], object]:
    """Free a native object when its owner is collected, at exit, or when the returned function is first called.

    A process that was forked from this one never frees it.
    """
    process = _process
    number = next(_numbers)

    def run() -> None:
        process.finalizers.pop(number, None)
        if process is _process:
            free(handle)

    finalizer = weakref.finalize(owner, run)
    # weakref frees at exit without waiting for native calls; `_at_exit` does both.
    finalizer.atexit = False
    process.finalizers[number] = finalizer
    return finalizer


@atexit.register
def _at_exit() -> None:
    """Wait for the native calls of other threads, and free all native objects, the newest first."""
    process = _process
    process.exiting = True
    main = threading.main_thread()
    with process.changed:
        process.changed.wait_for(
            lambda: not any(thread is not main and thread.is_alive() for thread in [*process.running])
        )
    for finalizer in reversed([*process.finalizers.values()]):
        finalizer()


def _after_fork() -> None:
    global _process
    _process = _Process(threading.get_ident())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
