"""Usage gate: keeps a model's memory until no call uses it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from qgguf import lifetime
from qgguf.errors import NativeError


class UsageGate:
    """Lets calls in until it is closed, and closes when the last call has left.

    Freed memory under a running native call is a crash, so `close` waits. Calls `check` between two native calls, so it
    waits for one micro-batch at most. At the end of the program it does not wait: daemon threads never leave.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._n_calls = 0
        self._closed = False
        self._process = lifetime.process_number()

    @property
    def n_calls(self) -> int:
        """Number of calls inside."""
        return self._n_calls

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold the gate open inside the block.

        raises  NativeError: it is closed, or the program is ending; ForkError
        """
        # Before the lock: a parent's thread may have held it when the process was forked.
        lifetime.check_process(self._process)
        lifetime.check_exit()
        with self._changed:
            self.check()
            self._n_calls += 1
        try:
            yield
        finally:
            with self._changed:
                self._n_calls -= 1
                self._changed.notify_all()

    def check(self) -> None:
        """Raise NativeError when the gate is closed, or about to be."""
        lifetime.check_exit()
        if self._closed:
            raise NativeError("This Embedder is closed. Open the model again: Embedder(...)")

    def close(self) -> bool:
        """Let no call in any more, and wait until all have left.

        returns  True to the first caller, who frees the memory; False at once to the others, in a forked process, and
                 at the end of the program, which frees it too
        """
        if self._process != lifetime.process_number() or lifetime.is_exiting():
            return False
        with self._changed:
            if self._closed:
                return False
            self._closed = True
            self._changed.wait_for(lambda: self._n_calls == 0)
            return True
