"""The bytes of a file: only regular files, inflated in steps, never more of them than the header claims."""

import errno
import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from medseg.core.errors import DataError, MedsegError, ResourceError
from medseg.core.text import printable

GZIP_MAGIC = b"\x1f\x8b"
PADDING_BYTES = 16  # zeros that may follow the voxels: some writers round a file up
DEFLATE_LIMIT = 1032  # the most that one byte of deflate can open to
BOMB_RATIO = 200  # what real images stay below
IMAGE_BOMB_BYTES = 2**28  # where an image is held to BOMB_RATIO; smaller files cannot do harm
LABEL_BOMB_BYTES = 2**32  # a label map of a large scan is nearly all zeros and compresses honestly beyond 200
_STEP = 2**23
_DRAIN_BYTES = 2**26


def shown(path: Path) -> str:
    """``path`` as typed, on one line that any terminal can print: control and undecodable characters are escaped."""
    return printable(str(path))


def check_regular(path: Path) -> None:
    """Raise DataError unless ``path`` (links followed) is a regular file; nothing is opened, so no pipe can hang."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)}: {_reason(path, error)}") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{shown(path)}: this is a folder, not a file")
    if not stat.S_ISREG(mode):
        kind = "pipe (fifo)" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"
        raise DataError(f"{shown(path)}: not a regular file but a {kind}; give an image file")


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """``path`` opened for reading without ever waiting. Raises DataError saying why it cannot be read."""
    check_regular(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise DataError(f"{shown(path)}: {_reason(path, error)}") from None
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise DataError(f"{shown(path)}: not a regular file; give an image file")
        try:
            yield file
        except OSError as error:
            raise DataError(f"{shown(path)}: could not be read ({error.strerror or error})") from error


def _reason(path: Path, error: OSError | ValueError) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ELOOP:
        return "its symbolic links form a loop, so no file is found"
    if number == errno.ENOENT and path.is_symlink():
        return "a symbolic link to a file that does not exist"
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "not found: no such file or folder"
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied: this user may not read it"
    return f"could not be read ({getattr(error, 'strerror', None) or error})"


def check_plain_size(name: str, size: int, count: int) -> None:
    """Raise DataError unless ``size`` bytes on disk are the ``count`` bytes that a header claims, but for a little padding."""
    claim = f"the header claims {count} bytes of voxels (dim), the file size leaves {size}"
    if size < count:
        raise DataError(f"{name}: truncated, or a damaged header: {claim}")
    if size > count + PADDING_BYTES:
        raise DataError(f"{name}: trailing data: {claim}; the header or the file is damaged")


def check_packed_size(name: str, size: int, count: int, *, bomb_bytes: int) -> None:
    """Raise DataError unless ``size`` bytes of deflate can open to ``count`` bytes, and honestly would.

    Beyond ``bomb_bytes`` more than ``BOMB_RATIO`` times is refused: no scan compresses so well, and a small file must not
    fill the memory.
    """
    claim = f"the header claims {count} bytes (dim), {size} compressed bytes hold them"
    if count > size * DEFLATE_LIMIT:
        raise DataError(f"{name}: truncated, or a damaged header: {claim}, which no compression reaches (size)")
    if count > max(bomb_bytes, BOMB_RATIO * size):
        raise DataError(
            f"{name}: too large: {claim}; the limit is {BOMB_RATIO} times beyond {bomb_bytes / 2**20:.0f} MiB; "
            "if the image is sound, store it uncompressed"
        )


class Stream:
    """The plain bytes of one open file from its start: inflated where the file is gzip, counted, never looked back on."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self.size = os.fstat(file.fileno()).st_size
        self.compressed = os.pread(file.fileno(), 2, 0) == GZIP_MAGIC
        self.position = 0
        self._file: Any = igzip.IGzipFile(filename="", fileobj=file, mode="rb") if self.compressed else file

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer only at the end."""
        buffer = np.empty(count, np.uint8)
        return buffer[: self._read_into(buffer)].tobytes()

    def fill(self, array: npt.NDArray[Any]) -> None:
        """Fill the contiguous ``array`` with the next bytes. Raises DataError where the file ends before."""
        wanted = array.nbytes
        got = self._read_into(array.reshape(-1).view(np.uint8))
        if got < wanted:
            raise DataError(f"{self.name}: truncated: expected {wanted} bytes of voxels, the file holds {got}")

    def check_claim(self, start: int, count: int, *, bomb_bytes: int = IMAGE_BOMB_BYTES) -> None:
        """Raise DataError if this file cannot honestly hold ``count`` bytes of voxels from byte ``start`` on.

        Called before memory is taken; see ``check_plain_size`` and ``check_packed_size``.
        """
        if self.compressed:
            check_packed_size(self.name, self.size, start + count, bomb_bytes=bomb_bytes)
        else:
            check_plain_size(self.name, self.size - start, count)

    def finish(self) -> None:
        """Raise DataError if more than a little padding follows, or if the gzip checksum is wrong or missing."""
        rest = self.read(PADDING_BYTES + 1)
        if len(rest) > PADDING_BYTES or any(rest):
            raise DataError(
                f"{self.name}: trailing data beyond the size that the header claims (dim); the header or file is damaged"
            )

    def drain(self) -> None:
        """Inflate on, within limits, so that a damaged gzip is known as such whatever else it made look wrong."""
        buffer = np.empty(_STEP, np.uint8)
        end = self.position + _DRAIN_BYTES
        while self.compressed and self.position < end and self._read_into(buffer):
            pass

    def _read_into(self, buffer: npt.NDArray[np.uint8]) -> int:
        done = 0
        view = buffer.data
        while done < len(buffer):
            got = self._file.readinto(view[done : done + _STEP])
            if not got:
                break
            done += got
        self.position += done
        return done


@contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """``path`` as a Stream. Raises DataError where it is no regular file, empty, truncated, corrupt or unreadable."""
    name = shown(path)
    with open_regular(path) as file:
        stream = Stream(file, name)
        if stream.size == 0:
            raise DataError(f"{name}: the file is empty (0 bytes)")
        try:
            try:
                yield stream
            except MedsegError:
                stream.drain()
                raise
        except EOFError:
            raise DataError(f"{name}: truncated gzip: the file ends before its end marker and checksum") from None
        except gzip.BadGzipFile as error:
            raise DataError(f"{name}: corrupt gzip ({error}); its checksum (CRC) or length is wrong") from None
        except isal_zlib.error as error:
            raise DataError(f"{name}: corrupt gzip: invalid compressed data ({error})") from None
        except MemoryError:
            raise ResourceError(f"{name}: not enough memory to hold its voxels; free some or crop the scan") from None


def foreign_content(start: bytes) -> str | None:
    """What a file that is no image looks like from its first bytes, in words; None where nothing is known."""
    text = start[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page (a failed download?), not an image"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the image itself; run `git lfs pull`"
    known = {
        b"\x89PNG": "a PNG picture (a 2D image)",
        b"\xff\xd8\xff": "a JPEG picture (a 2D image)",
        b"PK\x03\x04": "a zip archive; rename it to .zip, or unzip it first",
        b"NRRD": "an NRRD image; rename it to .nrrd",
        b"\x89HDF": "an HDF5 file",
        GZIP_MAGIC: "gzip data",
    }
    found = next((words for magic, words in known.items() if start.startswith(magic)), None)
    return "a DICOM file; give the folder that holds its series" if start[128:132] == b"DICM" else found
