"""A scan in a zip archive: checked by its directory, unpacked under names of our own, read, and gone again.

Nothing is ever written under a name that the archive chooses; ``io.zipped`` has the limits and what is refused.
"""

import io
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from medseg.core.errors import DataError, MedsegError
from medseg.io.dicom_files import has_dicom_mark, looks_like_bare_dataset
from medseg.io.source import open_regular, shown
from medseg.io.zipped import allowance, check_sizes, checked_zip, copied, printed

_IMAGES = (".nii.gz", ".nii", ".mha", ".nrrd")
_DETACHED = (".mhd", ".nhdr", ".hdr", ".img")  # their voxels lie in another file, found by its name
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
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
    with checked_zip(path, file, folder) as archive:
        wanted, notes = _without_ignored([info for info in archive.infolist() if not info.is_dir()])
        if not wanted:
            what = "; ".join(notes) or "it is empty"
            raise DataError(f"{shown(path)}: no image or DICOM file in this zip archive ({what})")
        check_sizes(path, wanted, size, folder)
        members = {f"{n + 1:04d}{_suffix(info.filename)}": info for n, info in enumerate(wanted)}
        total = 0
        for name, info in members.items():
            with archive.open(info) as source, (folder / name).open("wb") as target:
                total += copied(path, info, source, target, most=allowance(size) - total)
    return {name: printed(info) for name, info in members.items()}, notes


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


def _several(infos: Sequence[zipfile.ZipInfo]) -> str:
    more = len(infos) - _NAMES_SHOWN
    return ", ".join(printed(info) for info in infos[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
