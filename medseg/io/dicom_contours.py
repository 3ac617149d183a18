"""RT structure sets read: closed planar contours in millimetres, filled on the planes of the image they were drawn on."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.io.contours import filled
from medseg.io.dicom_header import items, printable, text
from medseg.io.named_masks import NamedMasks, Piece
from medseg.io.source import shown

RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
PLANE_TOLERANCE = (
    0.25  # of the distance between planes: slices of rounded positions lie up to a fifth off the even grid
)
_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
_TO_RAS = np.array([-1.0, -1.0, 1.0])
Points = npt.NDArray[np.float64]


def contours_as_masks(path: Path, dataset: Dataset, like: Geometry | None) -> NamedMasks:
    """The regions of the structure set ``dataset`` as masks on the grid ``like`` of the image they were drawn on.

    A voxel belongs to a region where its centre lies inside; contours inside each other on one plane are holes (the
    even-odd rule), whether they are told by keyholes, by inner contours or as CLOSEDPLANAR_XOR. ``like`` may be stored
    in any axis order, and may be sheared. Regions of points or open lines are set aside with a warning.

    Raises GeometryError where contours do not lie on the planes of ``like`` or reach beyond it, DataError where they
    overlap in part, or cannot be read.
    """
    name = shown(path)
    if like is None:
        raise DataError(
            f"{name}: an RT structure set holds contours and no grid of voxels; give it together with its image, or with a "
            "prediction on the image's grid"
        )
    contours = _contours(name, dataset)
    regions = [(number, label) for number, label in _regions(name, dataset).items() if number in contours]
    closed = [(number, label) for number, label in regions if contours[number] is not None]
    aside = [printable(label) for number, label in regions if contours[number] is None]
    notes = (f"structures set aside, points or open lines: {', '.join(aside)}",) if aside else ()

    def pieces(n: int) -> Iterator[Piece]:
        number, label = closed[n]
        return _pieces(f"{name}: structure {printable(label)!r}", contours[number] or [], like)

    return NamedMasks(name, tuple(label for _, label in closed), like, pieces, notes)


def on_every_plane(masks: NamedMasks) -> NamedMasks:
    """``masks`` that raise GeometryError where a region has contours on every second, third, ... plane only, as people draw
    who mean to interpolate: the planes between them would count as empty."""

    def pieces(n: int) -> Iterator[Piece]:
        planes = []
        for place, mask in masks.pieces(n):
            planes += [at for at in place if isinstance(at, int)]
            yield place, mask
        gaps = set(np.diff(planes).tolist())
        if len(planes) > 2 and len(gaps) == 1 and gaps != {1}:
            raise GeometryError(
                f"{masks.source}: structure {printable(masks.names[n])!r} has contours on one of {gaps.pop()} planes of the "
                "image only, which would leave the planes between them empty; interpolate the contours where they were drawn"
            )

    return replace(masks, pieces=pieces)


def _regions(name: str, dataset: Dataset) -> dict[int, str]:
    found: dict[int, str] = {}
    for item in items(dataset, "StructureSetROISequence"):
        number, label = text(item, "ROINumber"), text(item, "ROIName")
        if not number.isdecimal() or not label or int(number) in found:
            raise DataError(
                f"{name}: a region of the structure set has no name or no number of its own; export it again"
            )
        found[int(number)] = label
    if not found:
        raise DataError(f"{name}: the structure set names no region (StructureSetROISequence is empty)")
    return found


def _contours(name: str, dataset: Dataset) -> dict[int, list[Points] | None]:
    """For each region's number its closed contours (n, 3) in RAS mm; None where it has only points or open lines."""
    found: dict[int, list[Points] | None] = {
        int(text(item, "ROINumber")): []
        for item in items(dataset, "StructureSetROISequence")
        if text(item, "ROINumber").isdecimal()
    }
    for item in items(dataset, "ROIContourSequence"):
        number = text(item, "ReferencedROINumber")
        contours = items(item, "ContourSequence")
        closed = [c for c in contours if text(c, "ContourGeometricType") in _CLOSED]
        if number.isdecimal():
            before = found.get(int(number)) or []
            found[int(number)] = (
                [*before, *(contour_points(name, c) for c in closed)] if closed or not contours else None
            )
    return found


def contour_points(name: str, contour: Dataset) -> Points:
    """The points (n, 3) in RAS mm. Raises DataError where they are no numbers or too few."""
    try:
        element = contour.get_item("ContourData")
        raw = element.value if element is not None else None
        words = raw.split(b"\\") if isinstance(raw, bytes) else list(raw or [])
        points = np.array([float(word) for word in words]).reshape(-1, 3)
    except (ValueError, TypeError, AttributeError):
        raise DataError(f"{name}: ContourData are not triples of numbers; export the structure set again") from None
    if len(points) < 3 or not np.isfinite(points).all():
        raise DataError(f"{name}: a closed contour needs three finite points or more, got {len(points)}")
    return np.asarray(points * _TO_RAS)


def _pieces(where: str, contours: list[Points], like: Geometry) -> Iterator[Piece]:
    """One filled plane after the other."""
    if not contours:
        return
    indices = [like.to_voxel(points) for points in contours]
    axis = int(np.argmin(np.sum([np.ptp(points, axis=0) for points in indices], axis=0)))
    across = [n for n in range(3) if n != axis]
    shape = like.shape[across[0]], like.shape[across[1]]
    planes: dict[int, list[Points]] = defaultdict(list)
    for points in indices:
        plane = round(float(points[:, axis].mean()))
        _check_place(where, points, axis, plane, like)
        planes[plane].append(points[:, across])
    for plane, polygons in sorted(planes.items()):
        together = np.concatenate(polygons)
        low = np.clip(np.floor(together.min(axis=0)), 0, shape).astype(int)
        high = np.clip(np.ceil(together.max(axis=0)) + 1, low, shape).astype(int)
        inside = _nested(where, [polygon - low for polygon in polygons], (int(high[0] - low[0]), int(high[1] - low[1])))
        box = [slice(int(start), int(end)) for start, end in zip(low, high, strict=True)]
        place: list[int | slice] = [*box]
        place.insert(axis, plane)
        yield tuple(place), inside


def _check_place(where: str, points: Points, axis: int, plane: int, like: Geometry) -> None:
    off = float(np.abs(points[:, axis] - plane).max())
    if off > PLANE_TOLERANCE:
        raise GeometryError(
            f"{where}: a contour lies {off:.2f} of the slice distance off the nearest plane of the image ({like!r}); the "
            "structure set was drawn on another image, or on another orientation of it"
        )
    beyond = max(float((-0.5 - points).max()), float((points - (np.array(like.shape) - 0.5)).max()))
    if beyond > 1.0:
        raise GeometryError(
            f"{where}: a contour reaches {beyond:.1f} voxels beyond the image ({like!r}); the structure set belongs to "
            "another image, or to a larger one"
        )


def _nested(where: str, polygons: list[Points], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The even-odd union of ``polygons``. Raises DataError where two overlap in part: that is neither a hole nor a part."""
    if len(polygons) == 1:
        return filled(polygons, shape)
    masks = [filled([polygon], shape) for polygon in polygons]
    for n, one in enumerate(masks):
        for other in masks[:n]:
            both = one & other
            if both.any() and (both != one).any() and (both != other).any():
                raise DataError(
                    f"{where}: two of its contours on one plane overlap in part ({np.count_nonzero(both)} voxels), so that it "
                    "is not certain whether that is a hole; join them where they were drawn"
                )
    inside: npt.NDArray[np.bool_] = np.logical_xor.reduce(masks)
    return inside
