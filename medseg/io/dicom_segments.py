"""DICOM segmentations read: the frames of each segment, put where they lie in the world."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import SAME_GRID_TOLERANCE, Geometry
from medseg.io.dicom_contours import PLANE_TOLERANCE
from medseg.io.dicom_files import cannot_read
from medseg.io.dicom_frames import Frame, frames_of
from medseg.io.dicom_header import UNDEFINED_LENGTH, Header, inflated, items, numbers, printable, text
from medseg.io.dicom_pixels import check_voxels, read_intensities
from medseg.io.named_masks import NamedMasks, Piece
from medseg.io.source import shown

SEGMENTATIONS = {
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
}
SEGMENT_KEYWORDS = ("SegmentSequence", "SegmentationType", "MaximumFractionalValue")
_ROUNDING_MM = 0.06  # some scanners write positions with one decimal
_TO_RAS = np.array([-1.0, -1.0, 1.0])
Mask = npt.NDArray[np.bool_]


def segments_as_masks(header: Header, like: Geometry | None, *, max_voxels: int) -> NamedMasks:
    """The segments of a segmentation as masks on the grid ``like`` of its image, in whatever axis order that is stored.

    BINARY and LABELMAP as they are; of FRACTIONAL what is at least half of the largest value. Frames that the file leaves
    out because they are empty are empty. Without ``like`` the grid is the smallest that holds all frames of the file.

    Raises GeometryError where frames do not lie on the grid, or a segment reaches beyond it, DataError where the file is
    not what it says.
    """
    name = shown(header.path)
    kind = text(header.dataset, "SegmentationType")
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise DataError(f"{name}: SegmentationType is {printable(kind)!r}; BINARY, FRACTIONAL and LABELMAP are read")
    segments = _segments(name, header.dataset)
    if kind == "LABELMAP":  # its values are numbers of segments, whether or not a palette colours them
        header = replace(header, dataset=_as_grey(header.dataset))
    frames = frames_of(header)
    grid, notes = (like, ()) if like else _own_grid(name, frames, header)
    check_voxels(grid.shape, header.path, max_voxels)
    if kind != "BINARY":  # whose frames are unpacked one at a time
        check_voxels((*_size(header), len(frames)), header.path, max_voxels)
    of_segment = [0] * len(frames) if kind == "LABELMAP" else _segment_of_frames(name, header)
    values = cache(lambda: read_intensities(frames, place=header.path))
    half = _largest_fraction(name, header) / 2 if kind == "FRACTIONAL" else 0.0

    def pieces(n: int) -> Iterator[Piece]:
        number = segments[n][0]
        mine = [at for at, segment in enumerate(of_segment) if segment in (0, number)]
        if kind == "BINARY":
            planes = _bits(header, mine)
        elif kind == "LABELMAP":
            planes = (values()[at] == number for at in mine)
        else:
            planes = (values()[at] >= half for at in mine)
        for at, plane in zip(mine, planes, strict=True):
            if plane.any():
                yield _placed(f"{name}: segment {printable(segments[n][1])!r}", plane.T, frames[at], grid)

    return NamedMasks(name, tuple(label for _, label in segments), grid, pieces, notes)


def _segments(name: str, dataset: Dataset) -> list[tuple[int, str]]:
    """Number and label of each segment; number 0 is the background of a LABELMAP."""
    found: dict[int, str] = {}
    for item in items(dataset, "SegmentSequence"):
        number, label = text(item, "SegmentNumber"), text(item, "SegmentLabel")
        if not number.isdecimal() or not label or int(number) in found:
            raise DataError(f"{name}: a segment has no label or no number of its own; export the segmentation again")
        found[int(number)] = label
    segments = [(number, label) for number, label in found.items() if number]
    if not segments:
        raise DataError(f"{name}: the segmentation names no segment (SegmentSequence is empty)")
    return segments


def _largest_fraction(name: str, header: Header) -> float:
    told = numbers(header.dataset, "MaximumFractionalValue")
    if told is None or told.shape != (1,) or not told[0] >= 1:
        raise DataError(f"{name}: a FRACTIONAL segmentation without MaximumFractionalValue; what is half is not known")
    return float(told[0])


def _as_grey(dataset: Dataset) -> Dataset:
    grey = Dataset()
    grey.update(dataset)
    grey.PhotometricInterpretation = "MONOCHROME2"
    return grey


def _segment_of_frames(name: str, header: Header) -> list[int]:
    shared = items(header.dataset, "SharedFunctionalGroupsSequence")
    found: list[int] = []
    for groups in items(header.dataset, "PerFrameFunctionalGroupsSequence"):
        told = items(groups, "SegmentIdentificationSequence") or (
            items(shared[0], "SegmentIdentificationSequence") if shared else []
        )
        number = text(told[0], "ReferencedSegmentNumber") if told else ""
        if not number.isdecimal() or number == "0":
            raise DataError(f"{name}: frame {len(found) + 1} does not say which segment it belongs to; export it again")
        found.append(int(number))
    return found


def _size(header: Header) -> tuple[int, int]:
    rows, columns = (text(header.dataset, keyword) for keyword in ("Rows", "Columns"))
    if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise DataError(
            f"{shown(header.path)}: Rows and Columns must be positive numbers; export the segmentation again"
        )
    return int(rows), int(columns)


def _bits(header: Header, indices: Sequence[int]) -> Iterator[Mask]:
    """The frames ``indices`` (rows, columns) of pixels of one bit, which follow each other without a gap (PS3.5, 8.2)."""
    name, element, (rows, columns) = shown(header.path), header.pixels, _size(header)
    if element is None or text(header.dataset, "BitsAllocated") != "1" or element.length == UNDEFINED_LENGTH:
        raise DataError(f"{name}: a BINARY segmentation has uncompressed pixels of one bit, and this file has not")
    needed = -(-rows * columns * header.frame_count // 8)
    if element.length not in (needed, needed + needed % 2) or element.length > element.available:
        raise DataError(
            f"{name}: truncated, or a wrong header: the pixel data have a length of {min(element.length, element.available)} "
            f"bytes, {header.frame_count} frames of {rows} x {columns} bits need {needed}"
        )
    try:
        packed = _packed(header, element.offset, needed)
    except OSError as error:
        raise cannot_read(header.path, error) from error
    for index in indices:
        start = index * rows * columns
        some = np.unpackbits(packed[start // 8 : (start + rows * columns + 7) // 8], bitorder="little")
        yield some[start % 8 :][: rows * columns].reshape(rows, columns).astype(bool)


def _packed(header: Header, offset: int, count: int) -> npt.NDArray[np.uint8]:
    if header.inflate_from is not None:
        return np.frombuffer(inflated(header), np.uint8, count, offset)
    with header.path.open("rb") as file:
        file.seek(offset)
        return np.frombuffer(file.read(count), np.uint8)


def _affine(frame: Frame, step: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Column index, row index, steps across -> RAS mm, for a stack that begins with ``frame``; ``step`` (3,) is LPS."""
    affine = np.eye(4)
    axes = [frame.cosines[0] * frame.spacing_mm[0], frame.cosines[1] * frame.spacing_mm[1], step]
    affine[:3, :3] = (np.array(axes) * _TO_RAS).T
    affine[:3, 3] = frame.position * _TO_RAS
    return affine


def _own_grid(name: str, frames: Sequence[Frame], header: Header) -> tuple[Geometry, tuple[str, ...]]:
    """The smallest grid that holds ``frames``, and a note where the file does not say how planes are spaced."""
    first = min(frames, key=lambda frame: float(frame.position @ frames[0].normal))
    last = max(frames, key=lambda frame: float(frame.position @ frames[0].normal))
    heights = np.unique([round(float((frame.position - first.position) @ first.normal), 3) for frame in frames])
    told = spacing = _told(header, "SpacingBetweenSlices")
    if not spacing:  # the thickness need not be the distance, and is better than nothing for one plane only
        spacing = float(np.diff(heights).min()) if len(heights) > 1 else _told(header, "SliceThickness")
    if not spacing:
        raise GeometryError(
            f"{name}: one plane only, and no SpacingBetweenSlices; give the segmentation with its image"
        )
    planes = round(float(heights[-1]) / spacing) + 1
    step = (last.position - first.position) / (planes - 1) if planes > 1 else first.normal * spacing
    rows, columns = _size(header)
    grid = Geometry((columns, rows, planes), _affine(first, step))
    for frame in frames:
        _order(f"{name}: {frame.name}", frame, grid, (columns, rows))
    note = f"the segmentation does not say how its planes are spaced: {spacing:.4g} mm, the smallest distance in it, is assumed"
    return grid, () if told else (note,)


def _told(header: Header, keyword: str) -> float:
    """A positive number from the pixel measures that all frames share; 0 where it is not there."""
    shared = items(header.dataset, "SharedFunctionalGroupsSequence")
    measures = items(shared[0], "PixelMeasuresSequence") if shared else []
    told = numbers(measures[0], keyword) if measures else None
    return float(told[0]) if told is not None and told.shape == (1,) and 0 < told[0] < np.inf else 0.0


def _order(where: str, frame: Frame, grid: Geometry, size: tuple[int, int]) -> npt.NDArray[np.int64]:
    """(3, 3): the voxel of ``grid`` at the frame's first pixel, and the whole steps along its columns and its rows.

    Raises GeometryError where the pixels of the frame, ``size`` (columns, rows), are no voxels of the grid.
    """
    exact = np.linalg.inv(grid.affine) @ _affine(frame, frame.normal)
    found = np.array([exact[:3, 3], exact[:3, 0], exact[:3, 1]])
    whole: npt.NDArray[np.int64] = np.rint(found).astype(np.int64)
    fits = np.abs(whole[1:]).sum(axis=1).tolist() == [1, 1] and not (whole[1] * whole[2]).any()
    if fits:
        off = found - whole
        corners = off[0] + np.array([[u, v] for u in (0, size[0] - 1) for v in (0, size[1] - 1)]) @ off[1:]
        across = int(np.flatnonzero(np.abs(whole[1:]).sum(axis=0) == 0)[0])
        allowed = np.maximum(SAME_GRID_TOLERANCE, _ROUNDING_MM / np.array(grid.spacing_mm))
        allowed[across] = PLANE_TOLERANCE
        fits = bool((np.abs(corners) <= allowed).all())
    if not fits:
        raise GeometryError(
            f"{where} does not lie on the voxels of the grid {grid!r}: its spacing, its orientation or its place is another; "
            "the segmentation belongs to another image: give its own, or resample it first"
        )
    return whole


def _placed(where: str, mask: Mask, frame: Frame, grid: Geometry) -> Piece:
    """Where the pixels of ``mask`` (columns, rows) lie in the array of ``grid``."""
    start, column, row = _order(where, frame, grid, (mask.shape[0], mask.shape[1]))
    voxels = start + np.argwhere(mask) @ np.array([column, row])
    if voxels.min() < 0 or (voxels >= np.array(grid.shape)).any():
        raise GeometryError(f"{where} reaches beyond the grid {grid!r}; the segmentation belongs to a larger image")
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    box = np.zeros(high - low, bool)
    box[tuple((voxels - low).T)] = True
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), box
