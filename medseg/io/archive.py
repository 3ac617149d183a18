"""A scan in a zip archive: checked by its directory, unpacked under names of our own, read, and gone again.

Nothing is ever written under a name that the archive chooses. What it claims is checked before any byte is unpacked, and
the bytes that really come out are counted (limits: 20,000 files, 4 GiB, 200 times its own size beyond 256 MiB).
"""

import io
import os
import re
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from medseg.core.errors import DataError, MedsegError, ResourceError
from medseg.core.files import DISK_FULL
from medseg.io.dicom_files import has_dicom_mark, looks_like_bare_dataset
from medseg.io.source import BOMB_RATIO, IMAGE_BOMB_BYTES, open_regular, shown

MOST_FILES = 20_000
MOST_BYTES = 2**32
_MOST_DIRECTORY_BYTES = 512 * MOST_FILES
_STEP = 2**20
_IMAGES = (".nii.gz", ".nii", ".mha", ".nrrd")
_DETACHED = (".mhd", ".nhdr", ".hdr", ".img")  # their voxels lie in another file, found by its name
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others may take any amount of memory
_OURS = r"(\d{4,5}\.(?:dcm|nii\.gz|nii|mha|nrrd))"
_NAMES_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Unpacked:
    """The unpacked scan: ``path`` is one image file or a folder of DICOM files; ``notes`` say what is ignored.

    ``members`` has the archive's own name for each of our file names.
    """

    archive: Path
    folder: Path
    path: Path
    members: dict[str, str]
    notes: tuple[str, ...]

    def told(self, message: str) -> str:
        """``message`` about our temporary files, by path or by name, as one about the archive and its members."""
        return self._renamed(message, f"(?:({re.escape(str(self.folder))}/)|(?<![\\w./-])){_OURS}")

    def _renamed(self, message: str, ours: str) -> str:
        def theirs(found: re.Match[str]) -> str:
            return (f"{shown(self.archive)}/" if found[1] else "") + self.members.get(found[2], found[2])

        return re.sub(ours, theirs, message).replace(str(self.folder), shown(self.archive))

    @contextmanager
    def named(self) -> Iterator[None]:
        """For the block that reads the scan: errors name the archive and its members, as ``told`` does."""
        try:
            yield
        except MedsegError as error:
            error.args = (self.told(str(error)), *error.args[1:])
            raise


def is_archive(path: Path) -> bool:
    """True for a file by the name of a zip archive."""
    return path.name.lower().endswith(".zip") and not os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises on odd names


@contextmanager
def unpacked(path: Path) -> Iterator[Unpacked]:
    """The scan in the zip archive ``path``, in a private temporary folder for the block.

    Raises DataError for an archive that is damaged, hostile or too large, or that holds more than one scan's files.
    """
    with tempfile.TemporaryDirectory(prefix="medseg-") as name:
        folder = Path(name)
        with open_regular(path) as file:
            members, notes = _unpack(path, file, folder)
        found = Unpacked(path, folder, _only_scan(path, folder, members), members, notes)
        try:
            yield found
        except MedsegError as error:  # of any work in the block: only our paths are for certain ours
            error.args = (found._renamed(str(error), f"({re.escape(name)}/){_OURS}"), *error.args[1:])
            raise


def _unpack(path: Path, file: BinaryIO, folder: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Unpack what may be a scan; our names with the archive's, and what was ignored."""
    size = file.seek(0, io.SEEK_END)
    try:
        entries = _directory_entries(file, size)
        with zipfile.ZipFile(file) as archive:
            if len(archive.infolist()) != entries:
                raise zipfile.BadZipFile(
                    f"its directory has {len(archive.infolist())} entries, its end record says {entries}"
                )
            _check_names(path, archive.infolist())
            wanted, notes = _without_ignored([info for info in archive.infolist() if not info.is_dir()])
            if not wanted:
                what = "; ".join(notes) or "it is empty"
                raise DataError(f"{shown(path)}: no image or DICOM file in this zip archive ({what})")
            _check_sizes(path, wanted, size, shutil.disk_usage(folder).free)
            members = {f"{n + 1:04d}{_suffix(info.filename)}": info for n, info in enumerate(wanted)}
            total = 0
            for name, info in members.items():
                with archive.open(info) as source, (folder / name).open("wb") as target:
                    total += _copied(path, info, source, target, most=_allowance(size) - total)
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, ValueError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{shown(path)}: no sound zip archive, truncated or corrupt ({words}); copy it again") from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise ResourceError(f"{shown(path)}: no room to unpack it in {folder.parent}; free some space") from None
        raise
    return {name: _printed(info) for name, info in members.items()}, notes


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
            raise DataError(
                f"{shown(path)}: zip member {_printed(info)} is {what}; unzip it with care, or pack it anew"
            )
        seen.add(raw)


def _without_ignored(infos: Sequence[zipfile.ZipInfo]) -> tuple[list[zipfile.ZipInfo], tuple[str, ...]]:
    """The members that may belong to a scan, and a note on each kind of the others."""
    wanted, system, inner = [], [], []
    for info in infos:
        parts = PurePosixPath(info.filename).parts
        if "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] in (".DS_Store", "Thumbs.db"):
            system.append(info)
        elif parts[-1].lower().endswith(_ARCHIVES) and not parts[-1].lower().endswith(_IMAGES):
            inner.append(info)
        else:
            wanted.append(info)
    kinds = (("file of the operating system", system), ("archive inside the archive", inner))
    notes = [f"ignored, {kind} ({len(found)}): {_several(found)}" for kind, found in kinds if found]
    return wanted, tuple(notes)


def _allowance(size: int) -> int:
    """The most bytes that an archive of ``size`` bytes may open to."""
    return min(MOST_BYTES, max(IMAGE_BOMB_BYTES, BOMB_RATIO * size))


def _check_sizes(path: Path, infos: Sequence[zipfile.ZipInfo], size: int, free: int) -> None:
    """Raise before anything is unpacked, if it is too much: by what the directory claims."""
    claimed = sum(info.file_size for info in infos)
    if claimed > _allowance(size):
        raise _too_large(path, claimed, size)
    if claimed > free:
        raise ResourceError(
            f"{shown(path)}: unpacking needs {claimed} bytes, {free} are free in {tempfile.gettempdir()}; free some space"
        )


def _too_large(path: Path, count: int, size: int) -> DataError:
    return DataError(
        f"{shown(path)}: too large: a zip of {size} bytes opens to {count} bytes or more; the limit is {MOST_BYTES >> 30} GiB, "
        f"and a ratio of {BOMB_RATIO} beyond {IMAGE_BOMB_BYTES >> 20} MiB; if it is sound, unzip it first"
    )


def _copied(path: Path, info: zipfile.ZipInfo, source: IO[bytes], target: BinaryIO, *, most: int) -> int:
    """Unpack one member and return its bytes. Raises DataError if they are not as many as the directory says, or too many."""
    count = 0
    while piece := source.read(_STEP):  # checks the CRC at the end
        count += len(piece)
        if count > most:
            raise _too_large(path, count, path.stat().st_size)
        target.write(piece)
    if count != info.file_size:
        raise DataError(
            f"{shown(path)}: corrupt zip: the size of {_printed(info)} is {info.file_size} bytes by its directory, {count} "
            "by its content; copy it again"
        )
    return count


def _only_scan(path: Path, folder: Path, members: dict[str, str]) -> Path:
    """The one image among the unpacked files, or the folder for DICOM. Raises DataError where there are several scans."""
    images = [name for name in members if not name.endswith(".dcm")]
    dicom = any(_is_dicom(folder / name) for name in members if name.endswith(".dcm"))
    if dicom + len(images) > 1:
        kinds = [*(members[name] for name in images[:_NAMES_SHOWN]), *(["DICOM files"] if dicom else [])]
        raise DataError(
            f"{shown(path)}: holds several scans ({', '.join(kinds)}); unzip it and give the one that is meant"
        )
    if images:
        return folder / images[0]
    if not dicom and any(name.lower().endswith(_DETACHED) for name in members.values()):
        raise DataError(
            f"{shown(path)}: an image with its header in a file of its own is not read from a zip archive; unzip it first"
        )
    return folder


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(132)
    return has_dicom_mark(head) or looks_like_bare_dataset(head)


def _suffix(name: str) -> str:
    return next((suffix for suffix in _IMAGES if name.lower().endswith(suffix)), ".dcm")


def _printed(info: zipfile.ZipInfo) -> str:
    """The member's name for a message, at most 80 characters of it."""
    name = shown(Path(info.orig_filename.replace("\0", "?")))
    return name if len(name) <= 80 else f"...{name[-77:]}"


def _several(infos: Sequence[zipfile.ZipInfo]) -> str:
    more = len(infos) - _NAMES_SHOWN
    return ", ".join(_printed(info) for info in infos[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
