"""Waiting for what another thread, task or process does, without a clock in the test itself."""

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def until(condition: Callable[[], Value], timeout_s: float = 60) -> Value:
    """Call `condition` until its result is true, and return that result.

    timeout_s  limit for a program that hangs; long, because a busy machine is slow and not wrong
    raises     AssertionError when the time is up
    """
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"the condition is still {value!r} after {timeout_s} s"
        time.sleep(0.001)
    return value
