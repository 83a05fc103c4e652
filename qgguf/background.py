"""A function that runs in a thread beside its caller.

`concurrent.futures.ThreadPoolExecutor` takes no work once the main thread has ended, when other threads may still open
models and embed texts.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

_Result = TypeVar("_Result")


class BackgroundCall(Generic[_Result]):
    """A call in a thread that the interpreter waits for at its end.

    Creating it and starting it are two steps, so that an interrupt between them leaves no thread that no caller knows.

    name  of the thread
    """

    def __init__(self, function: Callable[[], _Result], *, name: str) -> None:
        self._function = function
        self._future: Future[_Result] = Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=False)

    def start(self) -> "BackgroundCall[_Result]":
        """Start the thread, and return this object."""
        self._thread.start()
        return self

    def result(self) -> _Result:
        """Wait for the function's end, and return its result or raise its exception."""
        return self._future.result()

    def join(self) -> None:
        """Wait until the thread has ended, if it was started."""
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._future.set_result(self._function())
        except BaseException as error:
            self._future.set_exception(error)
