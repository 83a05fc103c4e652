"""Delays signals while llama.cpp calls back into Python, where ctypes discards the exceptions of their handlers."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

# Read once: it takes ten times as long as the rest of HeldSignals.
_SIGNALS = tuple(signal.valid_signals())


class HeldSignals:
    """A context manager that records signals and runs their handlers, with their exceptions, at its end.

    Python runs handlers in the main thread only, so in other threads it does nothing.

    stops  recorded signals that will raise: Ctrl-C with Python's own handler. When there is one, the work should stop.
    """

    def __init__(self) -> None:
        self._recorded: list[int] = []
        self.stops: list[int] = []
        self._handlers: dict[int, Handler] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number in self._recorded:
            self._handlers[number](number, None)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self._recorded.append(number)
        if self._handlers[number] is signal.default_int_handler:
            self.stops.append(number)
