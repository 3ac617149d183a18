"""Signals that ask for a stop: noted, and obeyed between two steps, or at once where nothing can be lost."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import current_thread, main_thread
from types import FrameType


class Stopped(BaseException):
    """A signal came inside ``StopFlag.at_once``."""


@dataclass
class StopFlag:
    """``signal_number`` of the signal that asked for a stop; None while nobody did."""

    signal_number: int | None = None
    _at_once: bool = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For a block that may end anywhere: a signal raises Stopped in it, also one that came before."""
        self._at_once = True
        try:
            if self.signal_number is not None:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """Take a signal. A second SIGINT leaves at once."""
        if self.signal_number == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        if self._at_once:
            raise Stopped


@contextmanager
def stop_flag() -> Iterator[StopFlag]:
    """Catch SIGINT and SIGTERM for the block; the flag tells. A second SIGINT leaves at once.

    Outside the main thread, where signals cannot be caught, the flag never rises.
    """
    flag = StopFlag()
    if current_thread() is not main_thread():
        yield flag
        return
    before = {number: signal.signal(number, flag.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
