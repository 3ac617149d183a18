"""Missing and unevenly spaced slices: an even grid for them, and linear interpolation onto it where the user asks for it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import GeometryError
from medseg.io.source import shown

Numbers = npt.NDArray[np.float64]
UNIFORM_MM = 0.1  # positions are often written with one decimal: 0.05 mm off at an end, and 0.05 mm between
UNIFORM_SHARE = 0.01  # of the spacing between slices: where that is more
_THIN_SHARE = 0.2  # of the spacing of very thin slices: never near the half that a missing one would make
MOST_PLANES = 5  # for each real slice: beyond, most of the volume would be made up


def usual_gap(heights: Numbers) -> float:
    """The lower median of the gaps between ``heights`` (n,) in mm: a real gap, not a mean of two."""
    gaps = np.diff(heights)
    return float(np.sort(gaps)[(len(gaps) - 1) // 2])


def is_even(heights: Numbers) -> bool:
    """True where ``heights`` (n,) are evenly spaced within 0.1 mm (1 % of the spacing, if more; 20 %, if less)."""
    even = np.linspace(heights[0], heights[-1], len(heights))
    return bool(np.abs(heights - even).max() <= _tolerance(usual_gap(heights)))


def _tolerance(gap: float) -> float:
    return max(min(UNIFORM_MM, _THIN_SHARE * gap), UNIFORM_SHARE * gap)


def even_levels(heights: Numbers, place: Path) -> tuple[Numbers, str]:
    """Where slices at ``heights`` (n,) mm lie on an even grid from the first to the last, in planes, and what was made.

    The grid is the coarsest of the smallest gap, or half of it, that all slices lie on; where there is none, the usual gap
    makes it, and slices beside it have levels that are no whole numbers. Raises GeometryError where that needs more than
    ``MOST_PLANES`` planes for each slice.
    """
    levels, spacing_mm = _levels(heights)
    planes, on_grid = int(levels[-1]) + 1, int((levels % 1 == 0).sum())
    if planes > MOST_PLANES * len(heights):
        raise GeometryError(
            f"{shown(place)}: {planes} planes of {spacing_mm:.4g} mm would have to be made from {len(heights)} slices that are "
            f"not uniform; at most {MOST_PLANES} for each slice are: export the whole series again"
        )
    beside = f"; {len(heights) - on_grid} slices lie between its planes" if on_grid < len(heights) else ""
    note = (
        f"{planes - on_grid} of {planes} slices were made by linear interpolation, on an even grid of {spacing_mm:.4g} mm"
        f"{beside} (--on-gap resample): do not trust results there"
    )
    return levels, note


def _levels(heights: Numbers) -> tuple[Numbers, float]:
    gaps = np.diff(heights)
    total = float(heights[-1] - heights[0])
    for step in (gaps.min(), gaps.min() / 2):
        counts = np.rint(gaps / step)
        levels = np.concatenate([[0.0], np.cumsum(counts)])
        spacing = total / levels[-1]
        if np.abs(heights - heights[0] - levels * spacing).max() <= _tolerance(spacing):
            return levels, float(spacing)
    count = max(1, round(total / usual_gap(heights)))
    spacing = total / count
    levels = (heights - heights[0]) / spacing
    near = np.abs(levels - np.rint(levels)) * spacing <= _tolerance(spacing)
    return np.where(near, np.rint(levels), levels), float(spacing)


def filled_in(slices: npt.NDArray[Any], levels: Numbers, planes: int) -> npt.NDArray[Any]:
    """``slices`` (n, J, I), which lie at ``levels`` (n,), on the planes 0, 1, ... (planes, J, I), in their own type.

    A plane with a slice on it is that slice; the others are linear between their two neighbours, rounded for integers.
    """
    out = np.empty((planes, *slices.shape[1:]), slices.dtype)
    for plane in range(planes):
        above = int(np.searchsorted(levels, plane))
        if levels[above] == plane:
            out[plane] = slices[above]
            continue
        share = np.float32((plane - levels[above - 1]) / (levels[above] - levels[above - 1]))
        low = slices[above - 1].astype(np.float64)
        between = low + share * (slices[above] - low)
        out[plane] = np.rint(between) if out.dtype.kind in "iu" else between
    return out
