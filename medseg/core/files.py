"""Durable files: written beside their place, flushed, verified, renamed. Nothing else in medseg opens for writing."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medseg.core.errors import MedsegError, OutputError, ResourceError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


def write_durable(path: Path, content: bytes | Callable[[Path], None]) -> str:
    """Write ``content`` to ``path`` so that the name holds either the old file or the whole new one; return its sha256.

    ``content`` is the bytes, or a function that writes them to the temporary path it is given. Raises
    OutputError on a read-only place and ResourceError on a full disk; the old file then stands untouched.
    """
    temporary = path.with_name(f".{path.name[:180]}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(temporary)
            digest = sha256_of(temporary)
        else:
            digest = hashlib.sha256(content).hexdigest()
            with temporary.open("wb") as file:
                file.write(content)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if not callable(content) and sha256_of(temporary) != digest:
            raise ResourceError(f"{path}: what was written does not read back equal; the disk may be full or failing")
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return digest


def write_text(path: Path, text: str) -> str:
    """``write_durable`` for text in UTF-8."""
    return write_durable(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> str:
    """``write_durable`` for JSON, indented; NaN is refused, because JSON has none."""
    return write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, or of a folder: of the sorted relative names and hashes of the files in it."""
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(path)}\0{sha256_of(part)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents. Raises OutputError on a read-only place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explained(error, path) from error
    return path


def check_writable(folder: Path) -> None:
    """Raise OutputError or ResourceError now rather than after the work, if nothing can be written in ``folder``.

    ``folder`` need not exist yet: the nearest existing parent is tried, and nothing is left behind.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{folder}: cannot write there, because {existing} is a file, not a folder")
    probe = existing / f".medseg-probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise _explained(error, folder) from error
    finally:
        with suppress(OSError):
            probe.unlink()


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A temporary folder beside ``final`` that takes its name when the block ends well, and vanishes otherwise.

    An existing ``final`` is replaced as a whole.
    """
    staging = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        make_folder(staging)
        yield staging
        old = final.with_name(f".{final.name}.{os.getpid()}.old.tmp")
        if final.exists():
            final.rename(old)
        staging.rename(final)
        _sync_folder(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise _explained(error, final) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; a lock left by a dead process is taken over.

    Raises OutputError naming the owner where another living process holds it.
    """
    lock = folder / "run.lock"
    for _ in range(2):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            break
        except FileExistsError:
            owner = _owner(lock)
            if owner is not None and _alive(owner):
                raise OutputError(
                    f"{folder}: held by another run (process {owner}); wait for it, or choose another --output"
                ) from None
            with suppress(OSError):
                lock.unlink()
        except OSError as error:
            raise _explained(error, folder) from error
    else:
        raise OutputError(f"{folder}: another run took it at the same moment; choose another --output")
    try:
        os.write(handle, str(os.getpid()).encode())
        os.close(handle)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()


def _owner(lock: Path) -> int | None:
    try:
        return int(lock.read_text())
    except (OSError, ValueError):
        return None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some file systems cannot sync a folder; the rename still holds
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _explained(error: OSError, path: Path) -> MedsegError:
    if error.errno in _FULL:
        free = _free_bytes(path)
        return ResourceError(
            f"{path}: the disk is full ({free}); free some space and run again, nothing was overwritten"
        )
    if error.errno in _FORBIDDEN:
        return OutputError(f"{path}: cannot write there ({error.strerror}); choose another place with --output")
    return OutputError(f"{path}: cannot write there ({error.strerror or error})")


def _free_bytes(path: Path) -> str:
    existing = path
    while not existing.exists():
        existing = existing.parent
    try:
        return f"{shutil.disk_usage(existing).free / 2**20:.1f} MiB free"
    except OSError:
        return "free space unknown"
