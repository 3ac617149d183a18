"""Zip archives from anywhere: what their directory claims is checked before any byte is unpacked, and what comes out is counted.

Limits: 20,000 files, 4 GiB, 200 times the archive's own size beyond 256 MiB. Links, paths that lead out, passwords and names
that stand twice are refused.
"""

import io
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from medseg.core.errors import DataError, ResourceError
from medseg.core.files import DISK_FULL
from medseg.io.source import BOMB_RATIO, IMAGE_BOMB_BYTES, shown

MOST_FILES = 20_000
MOST_BYTES = 2**32
_MOST_DIRECTORY_BYTES = 512 * MOST_FILES
_STEP = 2**20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may take any amount of memory


@contextmanager
def checked_zip(path: Path, file: BinaryIO, folder: Path) -> Iterator[zipfile.ZipFile]:
    """The open ``file`` at ``path`` as an archive whose directory is sound and whose names are safe, for unpacking to ``folder``.

    Raises DataError for what is damaged or hostile, also in the block, and ResourceError where the disk is full.
    """
    try:
        entries = _directory_entries(file, file.seek(0, io.SEEK_END))
        with zipfile.ZipFile(file) as archive:
            if len(archive.infolist()) != entries:
                raise zipfile.BadZipFile(
                    f"its directory has {len(archive.infolist())} entries, its end record says {entries}"
                )
            _check_names(path, archive.infolist())
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, ValueError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{shown(path)}: no sound zip archive, truncated or corrupt ({words}); copy it again") from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"{shown(path)}: no room to unpack it in {folder.parent}; free some space") from None
        raise


def _directory_entries(file: BinaryIO, size: int) -> int:
    """How many entries the archive's directory must have, by its end record (APPNOTE 4.3.16, 4.3.14).

    Raises BadZipFile if there is none, if the directory does not lie where it says (Python's reader would skip entries
    without a word), or is too large to be taken into memory.
    """
    start = max(0, size - 2**16 - 22)
    file.seek(start)
    tail = file.read(size - start)
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) < end + 22:
        raise zipfile.BadZipFile("it has no zip directory at its end")
    _, _, count, length, offset, comment = struct.unpack("<HHHLLH", tail[end + 6 : end + 22])
    after = start + end
    if tail[max(0, end - 20) : end].startswith(b"PK\6\7"):
        after = struct.unpack("<Q", tail[end - 12 : end - 4])[0]
        file.seek(after)
        count, length, offset = struct.unpack("<QQQ", file.read(56)[32:])
    if offset + length != after or len(tail) != end + 22 + comment:
        raise zipfile.BadZipFile("its directory is not where its end record says")
    if length > _MOST_DIRECTORY_BYTES:
        raise zipfile.BadZipFile(f"its directory of {length} bytes is over the limit of {MOST_FILES} files")
    return int(count)


def _check_names(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Raise DataError for what no scanner writes: links, paths out of the archive, passwords, a name twice."""
    if len(infos) > MOST_FILES:
        raise DataError(f"{shown(path)}: {len(infos)} entries, the limit of an archive is {MOST_FILES} files; unzip it")
    seen = set()
    for info in infos:
        raw = info.orig_filename
        parts = PurePosixPath(raw).parts
        what = None
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link or special file, which is unsafe"
        elif not parts or "\\" in raw or "\0" in raw or ".." in parts:
            what = "an unsafe path, which may lead outside"
        elif raw.startswith("/") or re.match(r"[A-Za-z]:", raw):
            what = "an absolute path, which is unsafe"
        elif info.is_dir() and info.file_size:
            what = "a folder with content, so the archive is corrupt"
        elif info.flag_bits & 0x41:
            what = "encrypted, and medseg takes no password"
        elif info.compress_type not in _METHODS:
            what = f"compressed by method {info.compress_type}, which is not read from a zip (deflate is)"
        elif raw in seen:
            what = "in it twice: a duplicate name"
        if what:
            raise DataError(f"{shown(path)}: zip member {printed(info)} is {what}; unzip it with care, or pack it anew")
        seen.add(raw)


def allowance(size: int, most: int | None = None) -> int:
    """The most bytes that an archive of ``size`` bytes may open to, ``most`` of them or 4 GiB."""
    return min(most or MOST_BYTES, max(IMAGE_BOMB_BYTES, BOMB_RATIO * size))


def check_sizes(path: Path, infos: Sequence[zipfile.ZipInfo], size: int, folder: Path, most: int | None = None) -> None:
    """Raise before anything is unpacked to ``folder``, if it is too much: by what the directory claims."""
    claimed, free = sum(info.file_size for info in infos), shutil.disk_usage(folder).free
    if claimed > allowance(size, most):
        raise _too_large(path, claimed, size, most or MOST_BYTES)
    if claimed > free:
        raise ResourceError(
            f"{shown(path)}: unpacking needs {claimed} bytes, {free} are free in {folder.parent}; free some space"
        )


def _too_large(path: Path, count: int, size: int, most: int) -> DataError:
    return DataError(
        f"{shown(path)}: too large: a zip of {size} bytes opens to {count} bytes or more; the limit is {most >> 30} GiB, "
        f"and a ratio of {BOMB_RATIO} beyond {IMAGE_BOMB_BYTES >> 20} MiB; if it is sound, unzip it first"
    )


def copied(path: Path, info: zipfile.ZipInfo, source: IO[bytes], target: BinaryIO, *, most: int) -> int:
    """Unpack one member and return its bytes. Raises DataError if they are not as many as the directory says, or too many."""
    count = 0
    while piece := source.read(_STEP):  # checks the CRC at the end
        count += len(piece)
        if count > most:
            raise _too_large(path, count, path.stat().st_size, MOST_BYTES)
        target.write(piece)
    if count != info.file_size:
        raise DataError(
            f"{shown(path)}: corrupt zip: the size of {printed(info)} is {info.file_size} bytes by its directory, {count} "
            "by its content; copy it again"
        )
    return count


def printed(info: zipfile.ZipInfo) -> str:
    """The member's name for a message, at most 80 characters of it."""
    name = shown(Path(info.orig_filename.replace("\0", "?")))
    return name if len(name) <= 80 else f"...{name[-77:]}"
