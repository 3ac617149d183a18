"""Which files of a folder are the one image series in it; everything else is set aside with a line that says so."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.io.dicom_files import cannot_read, find_files, has_dicom_mark, looks_like_bare_dataset, named
from medseg.io.dicom_frames import Frame
from medseg.io.dicom_header import (
    UNDEFINED_LENGTH,
    Header,
    inflated,
    items,
    numbers,
    printable,
    read_header,
    shown,
    text,
)

Series = list[Header]

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
_SCOUT_WORDS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}


def image_headers(place: Path) -> tuple[list[Header], list[str]]:
    """The headers of all CT, MR and PET image files at ``place``, and a note on each kind of file set aside.

    Raises DataError if there are none, or if a file is DICOM but damaged: it may be a slice of the series.
    """
    found = find_files(place)
    notes = list(found.notes)
    images: list[Header] = []
    junk: list[Path] = []
    others: dict[str, list[Path]] = defaultdict(list)
    for path in found.files:
        header = _dicom_header(path)
        if header is None:
            junk.append(path)
        elif header.sop_class == _DIRECTORY_CLASS:
            _refuse_references_outside(header)
            others["DICOMDIR"].append(path)
        elif _is_image(header):
            images.append(header)
        else:
            others[printable(header.sop_class.name) or "unknown class"].append(path)
    if junk:
        notes.append(f"set aside, not DICOM ({len(junk)}): {named(junk, place)}")
    notes += [f"set aside, {kind} ({len(paths)}): {named(paths, place)}" for kind, paths in sorted(others.items())]
    if not images:
        what = "; ".join(notes) if found.files else "the folder is empty" if place.is_dir() else "the file is empty"
        raise DataError(f"{place}: no CT, MR or PET image with pixel data found by DICOM class ({what})")
    return images, notes


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
        raise DataError(f"{path}: truncated DICOM file: it ends in the empty preamble; copy or export it again")
    if not looks_like_bare_dataset(head):
        return None
    try:
        header = read_header(path)
    except DataError as error:
        raise DataError(
            f"{path}: DICOM without its preamble (no DICM at byte 128), and not readable: {error}"
        ) from error
    return header if header.sop_class or header.pixels else None


def _is_image(header: Header) -> bool:
    """True for a slice image; False for another kind of object. Raises DataError for an image without pixels."""
    uid = header.sop_class
    known = uid in IMAGE_CLASSES or (not uid and text(header.dataset, "Modality") in _IMAGE_MODALITIES)
    if header.pixels is None and (known or not uid):
        raise DataError(
            f"{header.path}: this DICOM file has no pixel data; it is truncated or one of its lengths is wrong, "
            "export the series again"
        )
    return known


def _refuse_references_outside(directory: Header) -> None:
    """Raise DataError if a DICOMDIR names files outside its folder. None of its references is ever opened."""
    for record in items(directory.dataset, "DirectoryRecordSequence"):
        parts = text(record, "ReferencedFileID").replace("\\", "/").split("/")
        if ".." in parts or (len(parts) > 1 and parts[0] == "") or any(":" in part or "\0" in part for part in parts):
            raise DataError(
                f"{directory.path}: this DICOMDIR names a file outside its own folder, {printable('/'.join(parts))!r}; "
                "it is wrong or hostile: remove the DICOMDIR, medseg reads the folder without it"
            )


def only_series(headers: Iterable[Header], place: Path) -> tuple[Series, list[str]]:
    """The one image series among ``headers``, and a note for each scout set aside.

    Raises DataError listing the series if there are several: which one is meant is the user's to say.
    """
    groups: dict[tuple[str, ...], Series] = defaultdict(list)
    for header in headers:
        groups[_series_key(header)].append(header)
    series = list(groups.values())
    if len(series) == 1:
        return series[0], []
    volumes = [one for one in series if not _is_scout(one)]
    if len(volumes) == 1:
        scouts = [one for one in series if one is not volumes[0]]
        return volumes[0], [f"set aside, scout (localizer) or single image: {_described(one)}" for one in scouts]
    listed = "; ".join(_described(one) for one in sorted(series, key=len, reverse=True)[:10])
    raise DataError(
        f"{place}: {len(series)} image series in one folder, and which one is meant cannot be told: {listed}. "
        "Give a folder that holds one series"
    )


def _series_key(header: Header) -> tuple[str, ...]:
    """SeriesInstanceUID; where anonymisation blanked it, what else tells series apart."""
    uid = text(header.dataset, "SeriesInstanceUID")
    if uid:
        return (uid,)
    return ("", *(text(header.dataset, key) for key in ("StudyInstanceUID", "SeriesNumber", "Modality")))


def _is_scout(series: Series) -> bool:
    """True for a localizer by its image type, for a single image, and for two or three images that cross each other."""
    if all(_SCOUT_WORDS & set(header.image_type.split("\\")) for header in series):
        return True
    if any(header.frame_count > 1 for header in series) or len(series) > 3:
        return False
    cosines = [numbers(header.dataset, "ImageOrientationPatient") for header in series]
    known = [c for c in cosines if c is not None and c.shape == (6,)]
    crossing = [not np.allclose(a, b, atol=0.1) for n, a in enumerate(known) for b in known[n + 1 :]]
    return len(series) == 1 or (len(known) == len(series) and all(crossing))


def _described(series: Series) -> str:
    """A series for a message: its UID, size and modality; never a description or a name."""
    sizes = Counter(f"{shown(h.dataset, 'Columns')}x{shown(h.dataset, 'Rows')}" for h in series)
    uid = shown(series[0].dataset, "SeriesInstanceUID") or "blank"
    modality = shown(series[0].dataset, "Modality")[:16] or "modality unknown"
    slices = sum(header.frame_count for header in series)
    return f"series {uid}: {slices} slice(s), {modality}, {' and '.join(list(sizes)[:2])} pixels"


def check_one_patient(series: Series, place: Path) -> None:
    """Raise DataError if one series carries two patients or two frames of reference; blank values do not count."""
    for keyword in ("PatientID", "PatientName"):
        values = [text(header.dataset, keyword).rstrip("^ ").upper() for header in series]
        if odd := _odd_one(values):
            raise DataError(
                f"{place}: one series with {odd[0]} different values of {keyword} (see {series[odd[1]].path.name}): "
                "slices of more than one patient are mixed; separate them by patient"
            )
    references = [text(header.dataset, "FrameOfReferenceUID") for header in series]
    if odd := _odd_one(references):
        raise GeometryError(
            f"{place}: one series with {odd[0]} values of the Frame of Reference UID (see {series[odd[1]].path.name}): "
            "positions in different frames of reference cannot be put on one grid; separate them"
        )


def _odd_one(values: list[str]) -> tuple[int, int] | None:
    """How many different values there are, and the index of the first that is not the most frequent; None if alike."""
    counts = Counter(value for value in values if value)
    if len(counts) < 2:
        return None
    usual = counts.most_common(1)[0][0]
    return len(counts), next(n for n, value in enumerate(values) if value and value != usual)


def without_copies(frames: Sequence[Frame], place: Path) -> tuple[list[Frame], list[str]]:
    """``frames`` without those that are the same SOP instance at the same place with the same pixels, and a note."""
    kept: list[Frame] = []
    copies: dict[Path, None] = {}
    at: dict[tuple[object, ...], Frame] = {}
    digests: dict[Header, bytes] = {}
    for frame in frames:
        uid = text(frame.header.dataset, "SOPInstanceUID")
        first = at.setdefault((uid, frame.index, *frame.position.tolist(), frame.slope, frame.intercept), frame)
        if first is not frame:
            for header in (first.header, frame.header):
                digests[header] = digests.get(header) or _pixel_digest(header)
        if first is not frame and digests[first.header] == digests[frame.header]:
            copies[frame.path] = None
        else:
            kept.append(frame)
    return kept, [f"set aside, copy of another file ({len(copies)}): {named(copies, place)}"] if copies else []


def _pixel_digest(header: Header) -> bytes:
    """A hash of the pixel data as stored."""
    if header.pixels is None:
        raise ValueError(f"{header.path} has no pixel data")
    size = header.pixels.length if header.pixels.length != UNDEFINED_LENGTH else -1
    if header.inflate_from is not None:
        return hashlib.sha256(inflated(header)[header.pixels.offset :]).digest()
    try:
        with header.path.open("rb") as file:
            file.seek(header.pixels.offset)
            return hashlib.sha256(file.read(size)).digest()
    except OSError as error:
        raise cannot_read(header.path, error) from error


def only_stack(frames: Sequence[Frame], place: Path) -> None:
    """Raise DataError if the frames of enhanced files belong to several stacks or time points."""
    for keyword, what in (("StackID", "stacks"), ("TemporalPositionIndex", "temporal positions (phases)")):
        values = {dict(frame.context).get(keyword, "") for frame in frames} - {""}
        if len(values) > 1:
            raise DataError(
                f"{place}: one series with {len(values)} {what} by {keyword} "
                f"({', '.join(printable(v) for v in sorted(values)[:5])}); medseg reads one volume at a time: export one of them"
            )
