"""Async versions of the Embedder's methods. Each call runs in a worker thread; cancelling the task stops the work."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from qgguf import lifetime
from qgguf.inference.call import Cancellation

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="HasAsyncRunner")

MOST_ASYNC_CALLS = 64
"""Asynchronous calls that are under way at the same time and share batches. A thread that waits costs little."""

THREAD_NAME_PREFIX = "qgguf-async"

_cancellation: contextvars.ContextVar[Cancellation | None] = contextvars.ContextVar("qgguf_cancellation", default=None)


def current_cancellation() -> Cancellation:
    """Return the cancellation of this thread's call; a fresh one, never cancelled, outside async calls."""
    return _cancellation.get() or Cancellation()


class AsyncRunner:
    """Runs functions in worker threads, which are started as they are needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._process = lifetime.process_number()

    async def run(self, work: Callable[[], R]) -> R:
        """Return the result of `work`. When the task is cancelled, the work stops between two native calls.

        raises  ForkError; what `work` raises
        """
        # The threads of the pool do not exist in a forked process, and its lock may be held for ever.
        lifetime.check_process(self._process)
        cancellation = Cancellation()
        context = contextvars.copy_context()
        context.run(_cancellation.set, cancellation)
        with self._lock:
            if self._pool is None and not self._closed:
                self._pool = ThreadPoolExecutor(MOST_ASYNC_CALLS, thread_name_prefix=THREAD_NAME_PREFIX)
            future: asyncio.Future[R] | None = None
            if self._pool is not None:
                # While the lock is held: a pool that is closed meanwhile takes nothing.
                future = asyncio.get_running_loop().run_in_executor(self._pool, context.run, work)
        if future is None:
            return work()  # raises that the Embedder is closed, and needs no thread for that
        try:
            return await future
        except BaseException:
            cancellation.cancel()
            raise

    def close(self) -> None:
        """Let the threads end. Does not wait for work under way."""
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


class HasAsyncRunner(Protocol):
    """An object whose methods `asynchronous` can wrap."""

    _async_runner: AsyncRunner


def asynchronous(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Return the method as a coroutine function with the same arguments and their types."""

    async def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._async_runner.run(lambda: method(self, *args, **kwargs))

    update_wrapper(wrapper, method)
    wrapper.__name__ = f"a{method.__name__}"
    wrapper.__qualname__ = f"{method.__qualname__.removesuffix(method.__name__)}{wrapper.__name__}"
    wrapper.__doc__ = (
        f"{inspect.cleandoc(method.__doc__ or '')}\n\n"
        "This is the asynchronous form: calls of many tasks share batches, and cancelling a task stops its work."
    )
    return wrapper
