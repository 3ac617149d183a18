"""The files of a DICOM folder: found without following folder links, and told apart by their bytes, never by names."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import unpack

from medseg.core.errors import DataError
from medseg.io.source import shown

MOST_FILES = 100_000
_PREAMBLE = 128
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """The regular ``files`` under a folder in the order of their names, and ``notes`` on what was not entered."""

    files: tuple[Path, ...]
    notes: tuple[str, ...]


def find_files(place: Path) -> Found:
    """Every regular file under the folder ``place`` (or ``place`` itself, if it is a file).

    Links to files are followed; links to folders are not, so that a loop ends and nothing outside is read.
    Raises DataError if ``place`` is missing, not readable, or holds more than ``MOST_FILES`` files.
    """
    if place.is_file():
        return Found((place,), ())
    if not place.exists():
        raise DataError(f"{shown(place)}: no such file or folder exists; give a folder that holds one DICOM series")
    if not place.is_dir():
        raise DataError(
            f"{shown(place)}: not a regular file and not a folder; give a folder that holds one DICOM series"
        )
    files, links, odd = [], [], []
    for entry in _walk(place):
        if entry.is_file():
            files.append(Path(entry.path))
        elif entry.is_dir():
            links.append(Path(entry.path))
        else:
            odd.append(Path(entry.path))
        if len(files) > MOST_FILES:
            raise DataError(
                f"{shown(place)}: more than {MOST_FILES} files; give the folder of one series, not of an archive"
            )
    notes = []
    if links:
        notes.append(f"{named(links, place)}: link to a folder, not followed")
    if odd:
        notes.append(f"{named(odd, place)}: broken link or special file (pipe, device), set aside")
    return Found(tuple(sorted(files)), tuple(notes))


def _walk(place: Path) -> Iterator[os.DirEntry[str]]:
    """All entries below ``place`` except the folders that are entered; a stack, so that depth has no limit."""
    waiting = [os.fspath(place)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        yield entry
        except OSError as error:
            raise cannot_read(Path(folder), error) from error


def cannot_read(path: Path, error: OSError) -> DataError:
    """The DataError for a file or folder that the system does not let us read."""
    return DataError(f"{shown(path)}: cannot be read ({error.strerror or error}); check its permissions and the disk")


def has_dicom_mark(head: bytes) -> bool:
    """True if ``head``, the first 132 bytes or more of a file, carries ``DICM`` after the preamble (PS3.10, 7.1)."""
    return head[_PREAMBLE : _PREAMBLE + 4] == b"DICM"


def looks_like_bare_dataset(head: bytes) -> bool:
    """True if ``head`` begins like a DICOM data set that lost its preamble: an early element of group 2 or 8."""
    if len(head) < 16:
        return False
    group, element, vr, short_length = unpack("<HH2sH", head[:8])
    if (group, element) not in {
        (2, 0),
        (2, 1),
        (2, 2),
        (8, 0),
        (8, 1),
        (8, 5),
        (8, 8),
        (8, 0x12),
        (8, 0x16),
        (8, 0x18),
    }:
        return False
    explicit: bool = vr in {b"UL", b"OB", b"UI", b"CS", b"DA", b"TM"} and short_length < 512
    implicit: bool = group == 8 and int.from_bytes(head[4:8], "little") < 512
    return explicit or implicit


def named(paths: Iterable[Path], place: Path) -> str:
    """The names of ``paths`` below ``place`` for a message: the first five, and how many more."""
    names = [shown(path.relative_to(place) if path != place else path) for path in paths]
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
