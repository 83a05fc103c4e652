"""Async versions of the Embedder's methods. Each call runs in a worker thread; cancelling the task stops the work."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from qgguf.inference.engine import Engine
from qgguf.inference.scheduler import Call, CallCancelledError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="HasWaiters")

MOST_WAITERS = 64
"""Calls that are awaited at the same time and share batches; a thread that waits costs little."""


class Cancellation:
    """Stops a call from another thread, whatever it is doing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._running: tuple[Engine, Call] | None = None

    @contextmanager
    def watching(self, engine: Engine, call: Call) -> Iterator[None]:
        """While the call runs; raises CallCancelledError where it is not to be begun."""
        with self._lock:
            self.check()
            self._running = engine, call
        try:
            yield
        finally:
            with self._lock:
                self._running = None

    def check(self) -> None:
        """raises  CallCancelledError: whoever made the call has given it up"""
        if self._cancelled:
            raise CallCancelledError

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._running is not None:
                engine, call = self._running
                engine.cancel(call)


_cancellation: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar("qgguf_cancellation", default=None)


def current_cancellation() -> Cancellation:
    """Return the cancellation of this thread's call; a fresh one, never cancelled, outside async calls."""
    return _cancellation.get() or Cancellation()


class Waiters:
    """Threads for awaited calls, started as they are needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    async def run(self, work: Callable[[], R]) -> R:
        """The work's result. Cancelled, it stops the work between two native calls."""
        cancellation = Cancellation()
        context = contextvars.copy_context()
        context.run(_cancellation.set, cancellation)
        with self._lock:
            if self._pool is None and not self._closed:
                self._pool = ThreadPoolExecutor(MOST_WAITERS, thread_name_prefix="qgguf-await")
            future: asyncio.Future[R] | None = None
            if self._pool is not None:
                # Before the lock is let go: a pool that is closed meanwhile takes nothing.
                future = asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)
        if future is None:
            return work()  # it says that the Embedder is closed, and needs no thread for that
        try:
            return await future
        except BaseException:
            cancellation.cancel()
            raise

    def close(self) -> None:
        """Let the threads end; work under way is not waited for."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


class HasWaiters(Protocol):
    @property
    def waiters(self) -> Waiters: ...


def awaitable(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """The method as a coroutine of the same arguments, whose types are kept."""

    async def later(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.waiters.run(lambda: method(self, *args, **kwargs))

    update_wrapper(later, method)
    later.__name__ = f"a{method.__name__}"
    later.__qualname__ = f"{method.__qualname__.removesuffix(method.__name__)}{later.__name__}"
    later.__doc__ = (
        f"{inspect.cleandoc(method.__doc__ or '')}\n\n"
        "To be awaited: calls of many tasks share batches, and cancelling a task stops its work."
    )
    return later
