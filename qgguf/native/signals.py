"""Signals, put off while llama.cpp calls back into Python: ctypes drops what their handlers raise in a callback."""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]

# Asked once: it takes ten times as long as all the rest of holding them.
_SIGNALS = tuple(signal.valid_signals())


class HeldSignals:
    """A context in which signals are only noted; on leaving it their handlers run, and what they raise is raised.

    stops  the signals that came and are sure to raise (Ctrl-C, where nobody took it over): true as soon as there is
           one, and what runs is to be stopped

    Python runs handlers in the main thread, so anywhere else this does nothing.
    """

    def __init__(self) -> None:
        self._noted: list[int] = []
        self.stops: list[int] = []
        self._handlers: dict[int, Handler] = {}

    def __enter__(self) -> "HeldSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._handlers[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number in self._noted:
            self._handlers[number](number, None)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.append(number)
        if self._handlers[number] is signal.default_int_handler:
            self.stops.append(number)
