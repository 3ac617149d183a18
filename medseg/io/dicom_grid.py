"""From frames to one grid: order and spacing come from the positions along the slice normal, from nothing else."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.io.dicom_frames import Frame, Numbers
from medseg.io.dicom_header import text

SAME_PLACE_MM = 0.01
UNIFORM_MM = 0.01  # positions are often written with two decimals
UNIFORM_SHARE = 0.01  # of the spacing between slices
UPRIGHT_MM = 0.05
UPRIGHT_SLOPE = 1.75e-3  # 0.1 degrees between the stack and the slice normal
ROUNDED_SLOPE = 4e-3
_ALIKE_COSINES = 1e-3
_ALIKE_SPACING = 1e-4
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def stacked(frames: Sequence[Frame], place: Path) -> tuple[list[Frame], Geometry, list[str]]:
    """``frames`` in ascending order along the slice normal, their grid, and notes on what had to be assumed.

    Axis i runs along the columns, j along the rows, k along the normal (row direction x column direction). The third
    column of the affine is (last - first position) / (n - 1), so that a lean within rounding moves no slice. Raises
    GeometryError if the frames do not agree, lie at one place, leave gaps, or lean against the normal (gantry tilt).
    """
    _check_alike(frames, place)
    if len(frames) < 2:
        raise GeometryError(
            f"{place}: only one slice ({frames[0].name}); the distance between slices is unknown: give the folder that "
            "holds all slices of the series"
        )
    ordered = sorted(frames, key=lambda frame: float(frame.position @ frames[0].normal))
    positions = np.array([frame.position for frame in ordered])
    heights = positions @ ordered[0].normal
    _check_apart(ordered, heights, place)
    _check_uniform(ordered, heights, place)
    step = _step(positions, ordered[0].normal, place)
    row, column = ordered[0].cosines
    affine = np.eye(4)
    affine[:3, 0] = row * ordered[0].spacing_mm[0]
    affine[:3, 1] = column * ordered[0].spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    rows, columns = _size(ordered[0])
    geometry = Geometry((columns, rows, len(ordered)), _LPS_TO_RAS @ affine)
    notes = []
    if len(ordered) == 2:
        gap = heights[1] - heights[0]
        notes.append(f"only two slices: their distance, {gap:.4g} mm, is taken as the spacing; a slice may be missing")
    return ordered, geometry, notes


def _size(frame: Frame) -> tuple[int, int]:
    """Rows and columns, positive."""
    sizes = []
    for keyword in ("Rows", "Columns"):
        words = text(frame.header.dataset, keyword)
        if not words.isdecimal() or int(words) < 1:
            raise DataError(f"{frame.path}: {keyword} is missing or not a positive number; export the series again")
        sizes.append(int(words))
    return sizes[0], sizes[1]


def _check_alike(frames: Sequence[Frame], place: Path) -> None:
    """Raise GeometryError unless all frames have the same size, orientation and pixel spacing."""
    sizes = Counter(_size(frame) for frame in frames)
    rows, columns = sizes.most_common(1)[0][0]
    for frame in frames:
        if (size := _size(frame)) != (rows, columns):
            raise GeometryError(
                f"{place}: slices of one series differ in size (rows x columns): {rows}x{columns}, but {size[0]}x{size[1]} "
                f"in {frame.name}{_if_scout(frame)}"
            )
    scouts = [frame for frame in frames if _if_scout(frame)]
    if scouts and len(scouts) < len(frames):
        raise GeometryError(f"{place}: {scouts[0].name} is a scout (localizer) in the series of the slices; remove it")
    usual = _usual_orientation(frames)
    for frame in frames:
        if np.abs(frame.cosines - usual.cosines).max() > _ALIKE_COSINES:
            raise GeometryError(
                f"{place}: slices of one series differ in orientation: ImageOrientationPatient is "
                f"{_list(usual.cosines)} in {usual.name}, but {_list(frame.cosines)} in {frame.name}{_if_scout(frame)}"
            )
        if not np.allclose(frame.spacing_mm, frames[0].spacing_mm, rtol=_ALIKE_SPACING, atol=0):
            raise GeometryError(
                f"{place}: slices of one series differ in PixelSpacing: {_list(frames[0].spacing_mm[::-1])} mm in "
                f"{frames[0].name}, but {_list(frame.spacing_mm[::-1])} mm in {frame.name}"
            )


def _usual_orientation(frames: Sequence[Frame]) -> Frame:
    """A frame with the most frequent orientation, so that the message names the odd one."""
    counts = Counter(tuple(frame.cosines.round(2).ravel()) for frame in frames)
    most = counts.most_common(1)[0][0]
    return next(frame for frame in frames if tuple(frame.cosines.round(2).ravel()) == most)


def _check_apart(ordered: Sequence[Frame], heights: Numbers, place: Path) -> None:
    """Raise GeometryError if two slices lie at one place: several phases, echoes or stacks in one series."""
    near = min(SAME_PLACE_MM, UNIFORM_SHARE * float(heights[-1] - heights[0]) / (len(ordered) - 1))
    pairs = [n for n, gap in enumerate(np.diff(heights)) if gap <= near]
    if pairs:
        a, b = ordered[pairs[0]], ordered[pairs[0] + 1]
        raise GeometryError(
            f"{place}: {a.name} and {b.name} lie at the same position ({len(pairs)} such pairs){_difference(a, b)}: "
            "duplicates, or several phases, echoes or time points in one series; give a folder with one of them"
        )


def _check_uniform(ordered: Sequence[Frame], heights: Numbers, place: Path) -> None:
    """Raise GeometryError unless the heights are evenly spaced within max(0.01 mm, 1 % of the spacing)."""
    gaps = np.diff(heights)
    usual = float(np.sort(gaps)[(len(gaps) - 1) // 2])  # the lower median: a real gap, not a mean of two
    tolerance = max(UNIFORM_MM, UNIFORM_SHARE * usual)
    even = np.linspace(heights[0], heights[-1], len(heights))
    if np.abs(heights - even).max() <= tolerance:
        return
    worst = int(np.abs(gaps - usual).argmax())
    a, b = ordered[worst], ordered[worst + 1]
    lost = round(float(gaps[worst]) / usual) - 1
    guess = f"; {lost} slice(s) may be missing there" if lost > 0 else ""
    raise GeometryError(
        f"{place}: the spacing of the slice positions is not uniform: {gaps[worst]:.4g} mm between {a.name} and {b.name}, "
        f"where {usual:.4g} mm is usual{guess}{_difference(a, b)}; export the whole series again, or resample it first"
    )


def _step(positions: Numbers, normal: Numbers, place: Path) -> Numbers:
    """The way (3,) from slice to slice. Raises GeometryError if the stack leans by more than 0.1 degrees, or zigzags."""
    run = positions[-1] - positions[0]
    height = float(run @ normal)
    aside = float(np.linalg.norm(run - height * normal))
    if aside > max(UPRIGHT_MM, UPRIGHT_SLOPE * height):
        tilt = float(np.degrees(np.arctan2(aside, height)))
        raise GeometryError(
            f"{place}: slices are shifted against each other by a gantry tilt of {tilt:.1f} degrees, so the voxel axes are "
            "not orthogonal (shear); medseg does not resample tilted series yet: straighten it first, for example with "
            "dcm2niix, and give that NIfTI file"
        )
    even = np.linspace(positions[0], positions[-1], len(positions))
    drift = float(np.linalg.norm(positions - even, axis=1).max())
    if drift > max(UPRIGHT_MM, UNIFORM_SHARE * height / (len(positions) - 1)):
        raise GeometryError(
            f"{place}: slice positions do not lie on one line (up to {drift:.3g} mm beside it), so they fill no uniform grid"
        )
    if aside > ROUNDED_SLOPE * height:  # a few thin slices with rounded positions: the lean is the rounding
        run = height * normal
    return np.asarray(run / (len(positions) - 1))


def _difference(a: Frame, b: Frame) -> str:
    """In which attributes two frames differ; only names of attributes, so that nothing about the patient shows."""
    other = dict(b.context)
    names = [keyword for keyword, value in a.context if other.get(keyword) != value]
    return f"; they differ in {', '.join(names)}" if names else ""


def _if_scout(frame: Frame) -> str:
    return " (a localizer by its ImageType; remove it)" if "LOCALIZER" in frame.header.image_type else ""


def _list(values: object) -> str:
    return "[" + ", ".join(f"{value:g}" for value in np.ravel(np.asarray(values, float))) + "]"
