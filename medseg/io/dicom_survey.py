"""Which files of a folder are CT, MR or PET images; everything else is set aside with a line that says so."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import DataError
from medseg.io.dicom_files import cannot_read, find_files, has_dicom_mark, looks_like_bare_dataset, named
from medseg.io.dicom_header import Header, items, printable, read_header, text
from medseg.io.source import shown

IMAGE_CLASSES = {  # PS3.4, B.5: the storage classes whose frames are slices in the patient
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT
    "1.2.840.10008.5.1.4.1.1.4",  # MR
    "1.2.840.10008.5.1.4.1.1.4.1",  # Enhanced MR
    "1.2.840.10008.5.1.4.1.1.4.4",  # Legacy Converted Enhanced MR
    "1.2.840.10008.5.1.4.1.1.128",  # PET
    "1.2.840.10008.5.1.4.1.1.128.1",  # Legacy Converted Enhanced PET
    "1.2.840.10008.5.1.4.1.1.130",  # Enhanced PET
}
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
_IMAGE_MODALITIES = {"CT", "MR", "PT"}


@dataclass(frozen=True, eq=False)
class Survey:
    """What lies at ``place``: the headers of its ``images``, ``notes`` on what is set aside, and the ``broken`` files' errors."""

    place: Path
    images: tuple[Header, ...]
    notes: tuple[str, ...]
    broken: tuple[DataError, ...]

    def check_images(self) -> None:
        """Raise DataError if a file is DICOM but damaged (it may be a slice of the series), or if there is no image."""
        if self.broken:
            raise self.broken[0]
        if not self.images:
            what = "; ".join(self.notes) or ("the folder is empty" if self.place.is_dir() else "the file is empty")
            raise DataError(
                f"{shown(self.place)}: no CT, MR or PET image with pixel data found by DICOM class ({what})"
            )


def survey(place: Path) -> Survey:
    """The headers of all image files at ``place``: a file, a folder with all below it, or a DICOMDIR, meaning its folder.

    Raises DataError if the place itself cannot be read.
    """
    notes = []
    if place.is_file() and is_dicomdir(place):
        place = place.parent
        notes.append("DICOMDIR given: its whole folder is read, its list of files is not used")
    found = find_files(place)
    images: list[Header] = []
    broken: list[DataError] = []
    aside: dict[str, list[Path]] = defaultdict(list)
    for path in found.files:
        try:
            kind = _sorted_in(path, images)
        except DataError as error:
            broken.append(error)
            continue
        if kind:
            aside[kind].append(path)
    notes += found.notes
    notes += [f"set aside, {kind} ({len(paths)}): {named(paths, place)}" for kind, paths in sorted(aside.items())]
    return Survey(place, tuple(images), tuple(notes), tuple(broken))


def _sorted_in(path: Path, images: list[Header]) -> str:
    """Add the header of an image to ``images``; of another file the kind, in words."""
    header = _dicom_header(path)
    if header is None:
        return "not DICOM"
    if header.sop_class == _DIRECTORY_CLASS:
        _refuse_references_outside(header)
        return "DICOMDIR"
    if not _is_image(header):
        return printable(header.sop_class.name) or "unknown class"
    images.append(header)
    return ""


def is_dicomdir(path: Path) -> bool:
    """True for the directory file of a DICOM medium, by its class, not by its name."""
    try:
        header = _dicom_header(path)
    except DataError:
        return False
    return header is not None and header.sop_class == _DIRECTORY_CLASS


def _dicom_header(path: Path) -> Header | None:
    """The header of ``path``; None if it is not DICOM."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError as error:
        raise cannot_read(path, error) from error
    if has_dicom_mark(head):
        return read_header(path)
    if 0 < len(head) < 132 and not any(head):
        raise DataError(f"{shown(path)}: truncated DICOM file: it ends in the empty preamble; copy or export it again")
    if not looks_like_bare_dataset(head):
        return None
    try:
        header = read_header(path)
    except DataError as error:
        raise DataError(
            f"{shown(path)}: DICOM without its preamble (no DICM at byte 128), and not readable: {error}"
        ) from error
    return header if header.sop_class or header.pixels else None


def _is_image(header: Header) -> bool:
    """True for a slice image; False for another kind of object. Raises DataError for an image without pixels."""
    uid = header.sop_class
    known = uid in IMAGE_CLASSES or (not uid and text(header.dataset, "Modality") in _IMAGE_MODALITIES)
    if header.pixels is None and (known or not uid):
        raise DataError(
            f"{shown(header.path)}: this DICOM file has no pixel data; it is truncated or one of its lengths is wrong, "
            "export the series again"
        )
    return known


def _refuse_references_outside(directory: Header) -> None:
    """Raise DataError if a DICOMDIR names files outside its folder. None of its references is ever opened."""
    for record in items(directory.dataset, "DirectoryRecordSequence"):
        parts = text(record, "ReferencedFileID").replace("\\", "/").split("/")
        if ".." in parts or (len(parts) > 1 and parts[0] == "") or any(":" in part or "\0" in part for part in parts):
            raise DataError(
                f"{shown(directory.path)}: this DICOMDIR names a file outside its own folder, {printable('/'.join(parts))!r}; "
                "it is wrong or hostile: remove the DICOMDIR, medseg reads the folder without it"
            )
