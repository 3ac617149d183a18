"""Processes that begin with everything imported, so that a kill falls into the work and not into Python's start."""

import os
import time
from collections.abc import Callable


def fork(work: Callable[[], int]) -> int:
    """The process that does ``work`` and ends with its code."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def ended(child: int, seconds: float) -> int | None:
    """The exit status of ``child`` once it ends, None while it still runs after ``seconds``."""
    until = time.monotonic() + seconds
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def silenced(log: str) -> None:
    """Send what this process prints to the file ``log``."""
    handle = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
