"""One run, one folder: a lock that ends with its process, however that ends."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medseg.core.errors import OutputError
from medseg.core.files import clear_unfinished, explained


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process, and clear away what a killed process left half-done in it.

    The operating system holds the lock, so it ends with its process, however that ends. Raises OutputError naming the
    owner where another living process holds it.
    """
    lock = folder / "run.lock"
    try:
        handle = _take(lock, folder)
    except OSError as error:
        raise explained(error, folder) from error
    try:
        with suppress(OSError):  # the number only serves the message to others
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
        clear_unfinished(folder.rglob(".*.tmp"))
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def _take(lock: Path, folder: Path) -> int:
    """The open and locked file ``lock``. An owner unlinks it at its end: who then locked the nameless file tries again."""
    while True:
        handle = os.open(
            lock, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
        )  # it is emptied: never another file
        if not _locked(handle):
            owner = os.read(handle, 32).decode("ascii", "replace") or "just started"
            os.close(handle)
            raise OutputError(
                f"{folder}: held by another run (process {owner}); wait for it, or choose another --output"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), lock.stat()):
                return handle
        os.close(handle)


def _locked(handle: int) -> bool:
    """True once this process holds the lock, and on a file system without locks: better unguarded than unusable."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOSYS, errno.ENOTSUP)
    return True
