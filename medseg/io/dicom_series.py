"""The series among image headers, in a stable order, and what makes one of them a volume: its frames on one grid."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.io.dicom_files import cannot_read, named
from medseg.io.dicom_frames import Frame, check_rescale, frames_of
from medseg.io.dicom_grid import Stack, stacked
from medseg.io.dicom_header import UNDEFINED_LENGTH, Header, inflated, numbers, printable, text
from medseg.io.dicom_pixels import layout_of
from medseg.io.scan import OnGap
from medseg.io.source import shown

Series = tuple[Header, ...]
_TIME_POINTS = "TemporalPositionIndex", "TemporalPositionIdentifier"
_ALIKE_ECHOES = 1.05  # echo times of one volume are equal but for rounding
_SCOUT_WORDS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}


@dataclass(frozen=True, eq=False)
class Placed:
    """One series before its pixels are read: the ``stack`` of its slices, and ``notes`` on copies and assumptions."""

    stack: Stack
    notes: tuple[str, ...]


def series_in(headers: Iterable[Header]) -> list[Series]:
    """The series among ``headers``, by study, series number and UID: the order, from 1, in which a user names them."""
    groups: dict[tuple[str, ...], list[Header]] = defaultdict(list)
    for header in headers:
        groups[_series_key(header)].append(header)

    def order(series: Series) -> tuple[str, float, str, str]:
        first = series[0].dataset
        number = text(first, "SeriesNumber")
        place = float(number) if number.lstrip("-").isdecimal() else np.inf
        return text(first, "StudyInstanceUID"), place, text(first, "SeriesInstanceUID"), text(first, "Modality")

    return sorted((tuple(group) for group in groups.values()), key=order)


def placed(series: Series, place: Path, on_gap: OnGap = "refuse") -> Placed:
    """The frames of ``series`` on one grid. Raises DataError or GeometryError for whatever has no certain place or value.

    Reads no pixels, but for files that look like copies of each other.
    """
    check_one_patient(series, place)
    for header in series:
        layout_of(header)
    frames, copies = without_copies([frame for header in series for frame in frames_of(header)], place)
    only_stack(frames, place)
    meant = check_rescale(frames, place)
    stack = stacked(frames, place, on_gap)
    return Placed(stack, (*copies, *meant, *stack.notes))


def check_no_end_slice(stack: Stack, others: Iterable[Series], place: Path) -> None:
    """Raise DataError where a single image of another series lies just where ``stack`` would go on: a slice that lost its UID.

    Set aside like a scout, it would leave the volume a slice short at that end, and no gap would show.
    """
    count = stack.geometry.shape[2]
    ends = stack.geometry.to_world([[0, 0, -1], [0, 0, count]])
    for header in (one[0] for one in others if len(one) == 1):
        position = numbers(header.dataset, "ImagePositionPatient")
        if position is None or position.shape != (3,):
            continue
        away = np.linalg.norm(ends - position * [-1, -1, 1], axis=1).min()  # DICOM's LPS to RAS
        if away <= 0.1 * min(stack.geometry.spacing_mm):
            raise DataError(
                f"{shown(place)}: {header.path.name} lies where the series of {count} slices would go on, but its "
                "SeriesInstanceUID is another or blank: a slice that was split off? Give it the series' UID, remove it, or "
                "choose by --series"
            )


def _series_key(header: Header) -> tuple[str, ...]:
    """SeriesInstanceUID; where anonymisation blanked it, what else tells series apart."""
    uid = text(header.dataset, "SeriesInstanceUID")
    if uid:
        return (uid,)
    return ("", *(text(header.dataset, key) for key in ("StudyInstanceUID", "SeriesNumber", "Modality")))


def is_scout(series: Series) -> bool:
    """True for a localizer by its image type, for a single image, and for two or three images that cross each other."""
    if all(_SCOUT_WORDS & set(header.image_type.split("\\")) for header in series):
        return True
    if any(header.frame_count > 1 for header in series) or len(series) > 3:
        return False
    cosines = [numbers(header.dataset, "ImageOrientationPatient") for header in series]
    known = [c for c in cosines if c is not None and c.shape == (6,)]
    crossing = [not np.allclose(a, b, atol=0.1) for n, a in enumerate(known) for b in known[n + 1 :]]
    return len(series) == 1 or (len(known) == len(series) and all(crossing))


def check_one_patient(series: Series, place: Path) -> None:
    """Raise DataError if one series carries two patients or two frames of reference; blank values do not count."""
    for keyword in ("PatientID", "PatientName"):
        values = [text(header.dataset, keyword).rstrip("^ ").upper() for header in series]
        if odd := _odd_one(values):
            raise DataError(
                f"{shown(place)}: one series with {odd[0]} different values of {keyword} (see {series[odd[1]].path.name}): "
                "slices of more than one patient are mixed; separate them by patient"
            )
    references = [text(header.dataset, "FrameOfReferenceUID") for header in series]
    if odd := _odd_one(references):
        raise GeometryError(
            f"{shown(place)}: one series with {odd[0]} values of the Frame of Reference UID (see {series[odd[1]].path.name}): "
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
        raise ValueError(f"{shown(header.path)} has no pixel data")
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
    """Raise DataError if the frames belong to several stacks, time points or echoes, even where these lie between one another.

    Some programs count the slices of one volume as time points: as many of these as frames are taken for that.
    """
    for keyword, what in (("StackID", "stacks"), *((key, "temporal positions (phases)") for key in _TIME_POINTS)):
        values = {dict(frame.context).get(keyword, "") for frame in frames} - {""}
        if len(values) > 1 and not (keyword == "TemporalPositionIdentifier" and len(values) == len(frames)):
            raise DataError(
                f"{shown(place)}: one series with {len(values)} {what} by {keyword} "
                f"({', '.join(printable(v) for v in sorted(values)[:5])}); medseg reads one volume at a time: export one of them"
            )
    times = [time for frame in frames if (time := _number(dict(frame.context).get("EchoTime", ""))) is not None]
    if times and max(times) > _ALIKE_ECHOES * min(times) > 0:
        raise DataError(
            f"{shown(place)}: one series with several echoes (EchoTime from {min(times):g} to {max(times):g} ms); medseg reads "
            "one volume at a time: export one of them"
        )


def _number(words: str) -> float | None:
    try:
        return float(words)
    except ValueError:
        return None
