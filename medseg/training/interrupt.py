"""Signals that ask for a stop: noted, and obeyed between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import FrameType


@dataclass
class StopFlag:
    """``signal_number`` of the signal that asked for a stop; None while nobody did."""

    signal_number: int | None = None


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catch SIGINT and SIGTERM for the block; the flag tells. A second SIGINT leaves at once.

    Outside the main thread, where signals cannot be caught, the flag never rises.
    """
    flag = StopFlag()
    if current_thread() is not main_thread():
        yield flag
        return

    def note(number: int, frame: FrameType | None) -> None:
        if flag.signal_number == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal_number = number

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
