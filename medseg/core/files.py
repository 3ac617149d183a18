"""Durable files: written beside their place, flushed, verified, renamed. Nothing else in medseg opens for writing."""

import errno
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from medseg.core.errors import DiskFullError, MedsegError, OutputError, ResourceError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
Content = bytes | Callable[[Path], None]
"""The bytes of a file, or a function that writes them to the temporary path it is given."""
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)(?P<old>\.old)?\.tmp", re.DOTALL)


def write_durable(path: Path, content: Content) -> str:
    """Write ``content`` to ``path`` so that the name holds either the old file or the whole new one; return its sha256.

    ``content`` is the bytes, or a function that writes them to the temporary path it is given. Raises
    OutputError on a read-only place and ResourceError on a full disk; the old file then stands untouched.
    """
    with _written(path, content) as (temporary, digest):
        _rename(temporary, path)
    return digest


def write_together(contents: Mapping[Path, Content]) -> dict[Path, str]:
    """``write_durable`` for files that belong together: none takes its name before all lie on the disk whole.

    Returns the sha256 of each. What a killed process left of the same files is cleared away.
    """
    for path in contents:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder, where a file is to be written; choose another --output")
        clear_unfinished(path.parent.glob(f".{glob.escape(_short(path))}.*.tmp"))
    with ExitStack() as stack:
        written = [(path, *stack.enter_context(_written(path, content))) for path, content in contents.items()]
        for path, temporary, _ in written:
            _rename(temporary, path)
    return {path: digest for path, _, digest in written}


@contextmanager
def _written(path: Path, content: Content) -> Iterator[tuple[Path, str]]:
    """``content`` under a temporary name beside ``path``, on the disk and verified, with its sha256; it vanishes after."""
    temporary = _temporary(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(temporary)
                digest = sha256_of(temporary)
            else:
                digest = hashlib.sha256(content).hexdigest()
                temporary.write_bytes(content)
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if not callable(content) and sha256_of(temporary) != digest:
                raise ResourceError(
                    f"{path}: what was written does not read back equal; the disk may be full or failing"
                )
        except OSError as error:
            raise explained(error, path) from error
        yield temporary, digest
    finally:
        with suppress(OSError):
            temporary.unlink()


def _rename(temporary: Path, path: Path) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise explained(error, path) from error
    _sync_folder(path.parent)


def copy_durable(source: Path, path: Path) -> str:
    """``write_durable`` of the bytes of the file ``source``, some at a time; their sha256, the same in both."""

    def copy(temporary: Path) -> None:
        shutil.copyfile(source, temporary)

    with _written(path, copy) as (temporary, digest):
        if digest != sha256_of(source):
            raise ResourceError(f"{path}: the copy does not read back equal to {source}; the disk may be failing")
        _rename(temporary, path)
    return digest


def write_text(path: Path, text: str) -> str:
    """``write_durable`` for text in UTF-8."""
    return write_durable(path, text.encode("utf-8"))


def write_json(path: Path, content: Any) -> str:
    """``write_durable`` for JSON, indented; NaN is refused, because JSON has none."""
    return write_durable(path, json_bytes(content))


def json_bytes(content: Any) -> bytes:
    """``content`` as indented JSON in UTF-8. The bytes of a file name that are no UTF-8 become JSON escapes (\\udcff)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode("utf-8", "backslashreplace")


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, or of a folder: of the sorted relative names and hashes of the files in it."""
    if path.is_dir():
        digest = hashlib.sha256()
        for part in sorted(p for p in path.rglob("*") if p.is_file()):
            digest.update(f"{part.relative_to(path)}\0{sha256_of(part)}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(content: Any) -> str:
    """sha256 of JSON in one line with sorted keys: equal contents, equal hashes."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8", "backslashreplace")).hexdigest()


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents. Raises OutputError on a read-only place."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, path) from error
    return path


def check_writable(folder: Path) -> None:
    """Raise OutputError or ResourceError now rather than after the work, if nothing can be written in ``folder``.

    ``folder`` need not exist yet: the nearest existing parent is tried, and nothing is left behind.
    """
    existing = folder.absolute()
    while not is_there(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{folder}: cannot write there, because {existing} is a file, not a folder")
    probe = existing / f".medseg-probe.{os.getpid()}.tmp"
    try:
        probe.write_bytes(b"x" * 4096)
    except OSError as error:
        raise explained(error, folder) from error
    finally:
        with suppress(OSError):
            probe.unlink()


def is_there(path: Path) -> bool:
    """True where ``path``, links followed, is something; False for nothing, or for a name that no file can have.

    Raises OutputError where the name is too long or its folder may not be looked into.
    """
    try:
        return path.exists()
    except OSError as error:
        raise explained(error, path) from None


def is_plain_file(path: Path) -> bool:
    """True where ``path`` itself is a regular file: no link, pipe, device or folder, and nothing is opened to tell."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except (OSError, ValueError):
        return False


@contextmanager
def staged_folder(final: Path) -> Iterator[Path]:
    """A temporary folder beside ``final`` that takes its name when the block ends well, and vanishes otherwise.

    An existing ``final`` is replaced as a whole. A process killed between the two renames leaves it as
    ``.NAME.PID.old.tmp``; ``core.lock.run_lock`` brings it back.
    """
    staging, old = _temporary(final), _temporary(final, "old.tmp")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        make_folder(staging)
        yield staging
        if final.exists():
            final.rename(old)
        try:
            staging.rename(final)
        except OSError:
            with suppress(OSError):
                old.rename(final)
            raise
        _sync_folder(final.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise explained(error, final) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def clear_unfinished(found: Iterable[Path]) -> None:
    """Bring back the folders, and remove the files, that a killed process had under a temporary name."""
    for path in sorted(found, reverse=True):
        match = _TEMPORARY.fullmatch(path.name)
        if match is None:
            continue
        if int(match["pid"]) != os.getpid() and _alive(int(match["pid"])):
            continue
        final = path.with_name(match["name"])
        with suppress(OSError):
            if match["old"] and not final.exists():
                path.rename(final)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def _temporary(path: Path, suffix: str = "tmp") -> Path:
    """A name beside ``path`` that no other process uses."""
    return path.with_name(f".{_short(path)}.{os.getpid()}.{suffix}")


def _short(path: Path) -> str:
    """The name of ``path``, or a hash where it leaves no room: file systems allow names of 255 bytes."""
    raw = os.fsencode(path.name)
    return path.name if len(raw) <= 200 else hashlib.sha256(raw).hexdigest()


def _alive(process: int) -> bool:
    if sys.platform == "win32":  # where os.kill ends a process, whatever the signal
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
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


def explained(error: OSError, path: Path) -> MedsegError:
    """The ResourceError (full disk) or OutputError (cannot write there) that says what the system refused at ``path``."""
    if error.errno in DISK_FULL:
        limit = " or the file size limit (ulimit -f) is reached" if error.errno == errno.EFBIG else ""
        return DiskFullError(
            f"{path}: the disk is full{limit} ({_free_bytes(path)}); free some space and run again, nothing was overwritten"
        )
    return OutputError(f"{path}: cannot write there ({error.strerror or error}); choose another place with --output")


def _free_bytes(path: Path) -> str:
    existing = path.absolute()
    try:
        while not existing.exists():
            existing = existing.parent
        return f"{shutil.disk_usage(existing).free / 2**20:.1f} MiB free"
    except OSError:
        return "free space unknown"
