"""From frames to one grid: order and spacing come from the positions along the slice normal, from nothing else."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.io.dicom_fill import UNIFORM_MM, UNIFORM_SHARE, even_levels, is_even, usual_gap
from medseg.io.dicom_frames import Frame, Numbers
from medseg.io.dicom_header import text
from medseg.io.grid import MOST_SHEAR_DEGREES, shear_note
from medseg.io.scan import OnGap
from medseg.io.source import shown

SAME_PLACE_MM = 0.01
ASIDE_MM = 0.05
ROUNDED_SLOPE = 4e-3
_ALIKE_COSINES = 1e-3
_ALIKE_SPACING = 1e-4
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Stack:
    """``frames`` in ascending order along the slice normal on the grid ``geometry``; ``notes`` say what was assumed.

    ``levels[n]`` is where frame n lies on axis k, in planes: 0, 1, 2, ... but where missing or uneven slices were filled
    in; a level that is no whole number lies between two planes.
    """

    frames: tuple[Frame, ...]
    geometry: Geometry
    levels: Numbers
    notes: tuple[str, ...]

    @property
    def is_filled(self) -> bool:
        """True where planes of the grid have no slice of their own."""
        return self.geometry.shape[2] != len(self.frames) or bool((self.levels % 1).any())


def stacked(frames: Sequence[Frame], place: Path, on_gap: OnGap = "refuse") -> Stack:
    """``frames`` as a stack of slices on one grid.

    Axis i runs along the columns, j along the rows, k along the normal (row direction x column direction). The third
    column of the affine is the way from the first to the last position, divided: it leans where the gantry is tilted, and
    a lean within rounding moves no slice. Raises GeometryError if the frames do not agree, lie at one place, do not lie on
    one line, or leave gaps (unless ``on_gap`` is "resample").
    """
    _check_alike(frames, place)
    if len(frames) < 2:
        raise GeometryError(
            f"{shown(place)}: only one slice ({frames[0].name(place)}); the distance between slices is unknown: give the folder "
            "that holds all slices of the series"
        )
    ordered = tuple(sorted(frames, key=lambda frame: float(frame.position @ frames[0].normal)))
    positions = np.array([frame.position for frame in ordered])
    heights = positions @ ordered[0].normal
    _check_apart(ordered, heights, place)
    notes = []
    if is_even(heights):
        levels = np.arange(len(ordered), dtype=np.float64)
    elif on_gap == "resample":
        levels, note = even_levels(heights, place)
        notes.append(note)
    else:
        raise _uneven(ordered, heights, place)
    row, column = ordered[0].cosines
    affine = np.eye(4)
    affine[:3, 0] = row * ordered[0].spacing_mm[0]
    affine[:3, 1] = column * ordered[0].spacing_mm[1]
    affine[:3, 2] = _way(positions, heights, ordered[0].normal, place) / levels[-1]
    affine[:3, 3] = positions[0]
    rows, columns = _size(ordered[0])
    geometry = Geometry((columns, rows, int(levels[-1]) + 1), _LPS_TO_RAS @ affine)
    if len(ordered) == 2:
        gap = heights[1] - heights[0]
        notes.append(f"only two slices: their distance, {gap:.4g} mm, is taken as the spacing; a slice may be missing")
    return Stack(ordered, geometry, levels, (*notes, *shear_note(geometry.shear_degrees)))


def _size(frame: Frame) -> tuple[int, int]:
    """Rows and columns, positive."""
    sizes = []
    for keyword in ("Rows", "Columns"):
        words = text(frame.header.dataset, keyword)
        if not words.isdecimal() or int(words) < 1:
            raise DataError(
                f"{shown(frame.path)}: {keyword} is missing or not a positive number; export the series again"
            )
        sizes.append(int(words))
    return sizes[0], sizes[1]


def _check_alike(frames: Sequence[Frame], place: Path) -> None:
    """Raise GeometryError unless all frames have the same size, orientation and pixel spacing."""
    sizes = Counter(_size(frame) for frame in frames)
    rows, columns = sizes.most_common(1)[0][0]
    for frame in frames:
        if (size := _size(frame)) != (rows, columns):
            raise GeometryError(
                f"{shown(place)}: slices of one series differ in size (rows x columns): {rows}x{columns}, but {size[0]}x{size[1]} "
                f"in {frame.name(place)}{_if_scout(frame)}"
            )
    scouts = [frame for frame in frames if _if_scout(frame)]
    if scouts and len(scouts) < len(frames):
        raise GeometryError(
            f"{shown(place)}: {scouts[0].name(place)} is a scout (localizer) in the series of the slices; remove it"
        )
    usual = _usual_orientation(frames)
    for frame in frames:
        if np.abs(frame.cosines - usual.cosines).max() > _ALIKE_COSINES:
            raise GeometryError(
                f"{shown(place)}: slices of one series differ in orientation: ImageOrientationPatient is "
                f"{_list(usual.cosines)} in {usual.name(place)}, but {_list(frame.cosines)} in {frame.name(place)}"
                f"{_if_scout(frame)}"
            )
        if not np.allclose(frame.spacing_mm, frames[0].spacing_mm, rtol=_ALIKE_SPACING, atol=0):
            raise GeometryError(
                f"{shown(place)}: slices of one series differ in PixelSpacing: {_list(frames[0].spacing_mm[::-1])} mm in "
                f"{frames[0].name(place)}, but {_list(frame.spacing_mm[::-1])} mm in {frame.name(place)}"
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
            f"{shown(place)}: {a.name(place)} and {b.name(place)} lie at the same position ({len(pairs)} such pairs)"
            f"{_difference(a, b)}: duplicates, or several phases, echoes or time points in one series; give a folder with "
            "one of them"
        )


def _uneven(ordered: Sequence[Frame], heights: Numbers, place: Path) -> GeometryError:
    """The error for heights that are not evenly spaced: where, and what may be missing there."""
    gaps = np.diff(heights)
    usual = usual_gap(heights)
    worst = int(np.abs(gaps - usual).argmax())
    a, b = ordered[worst], ordered[worst + 1]
    lost = round(float(gaps[worst]) / usual) - 1
    guess = f"; {lost} slice(s) may be missing there" if lost > 0 else ""
    return GeometryError(
        f"{shown(place)}: the spacing of the slice positions is not uniform: {gaps[worst]:.4g} mm between {a.name(place)} and "
        f"{b.name(place)}, where {usual:.4g} mm is usual{guess}{_difference(a, b)}; export the whole series again, or have the "
        "gaps filled with --on-gap resample"
    )


def _way(positions: Numbers, heights: Numbers, normal: Numbers, place: Path) -> Numbers:
    """The way (3,) from the first slice to the last. Raises GeometryError if it leans too much, or the slices zigzag.

    A lean beyond rounding is a gantry tilt and is kept.
    """
    run = positions[-1] - positions[0]
    height = float(run @ normal)
    aside = float(np.linalg.norm(run - height * normal))
    degrees = float(np.degrees(np.arctan2(aside, height)))
    if degrees > MOST_SHEAR_DEGREES:
        raise GeometryError(
            f"{shown(place)}: slices are shifted against each other by a shear of {degrees:.1f} degrees (a gantry tilt: at "
            "most 30), so the voxel axes are far from orthogonal; the positions are wrong, export the series again"
        )
    on_line = positions[0] + ((heights - heights[0]) / height)[:, None] * run
    drift = float(np.linalg.norm(positions - on_line, axis=1).max())
    if drift > max(UNIFORM_MM, UNIFORM_SHARE * usual_gap(heights)):
        raise GeometryError(
            f"{shown(place)}: slice positions do not lie on one line (up to {drift:.3g} mm beside it), so they fill no "
            "uniform grid"
        )
    if ROUNDED_SLOPE * height < aside <= ASIDE_MM:  # a few thin slices with rounded positions: the lean is the rounding
        run = height * normal
    return np.asarray(run)


def _difference(a: Frame, b: Frame) -> str:
    """In which attributes two frames differ; only names of attributes, so that nothing about the patient shows."""
    other = dict(b.context)
    names = [keyword for keyword, value in a.context if other.get(keyword) != value]
    return f"; they differ in {', '.join(names)}" if names else ""


def _if_scout(frame: Frame) -> str:
    return " (a localizer by its ImageType; remove it)" if "LOCALIZER" in frame.header.image_type else ""


def _list(values: object) -> str:
    return "[" + ", ".join(f"{value:g}" for value in np.ravel(np.asarray(values, float))) + "]"
