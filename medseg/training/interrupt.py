"""Signals that ask for a stop: noted, and obeyed between two steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import FrameType

from medseg.core.errors import Interrupted


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


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """For the block, SIGTERM raises Interrupted where the work stands, as SIGINT raises KeyboardInterrupt.

    So locks and temporary files go as after any error. Outside the main thread nothing changes.
    """
    if current_thread() is not main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise Interrupted("stopped before the work was done; go on with --resume", number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
