"""Warnings of libraries that are dropped for a while, safely in several threads."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_lock = threading.Lock()
_held: list[ExitStack] = []  # what to undo, while there is a block that somebody is in
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """For the block no Python warning is shown or raised.

    ``warnings.catch_warnings`` alone changes what belongs to all threads: of two that overlap, the last to leave would put
    the other's silence back, for ever. Here the first to enter silences, and the last to leave restores.
    """
    global _inside
    with _lock:
        if not _inside:
            stack = ExitStack()
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _held.append(stack)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _held.pop().close()
