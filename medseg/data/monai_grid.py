"""MONAI's Spacing: where it puts the voxels of a spacing over a scan, and how a scan comes there, linearly."""

from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import Geometry
from medseg.core.interpolate import Line, line_matrix
from medseg.core.volume import Volume

NEAR = 1e-3  # voxels, or mm
SAME: Line = (0.0, 1.0)

Lines = tuple[Line, Line, Line]
TripleMm = tuple[float, float, float]


@dataclass(frozen=True)
class _Spaced:
    """What MONAI makes of a spacing: its ``shape``, its voxels' ``spacing_mm``, and whether the first voxels lie together."""

    shape: tuple[int, int, int]
    spacing_mm: npt.NDArray[np.float64]
    from_first: bool


def _spaced(grid: Geometry, spacing_mm: TripleMm) -> _Spaced:
    """MONAI's arithmetic step by step, since rounding decides where half a voxel is left over."""
    old, new = np.array(grid.spacing_mm), np.array(spacing_mm)
    new = np.where(np.abs(old - new) <= NEAR, old, new)
    axes, target = grid.affine[:3, :3], np.eye(4)
    target[:3, :3] = axes @ np.linalg.inv(np.linalg.cholesky(axes.T @ axes).T) @ np.diag(new)
    corners = np.array([[*corner, 1.0] for corner in product(*((0.0, n - 1.0) for n in grid.shape))]).T
    found = (np.linalg.solve(target, grid.affine) @ corners)[:3]
    i, j, k = (int(n) for n in np.round(np.ptp(found, axis=1) + 1.0))
    return _Spaced((i, j, k), new, bool((found - found[:, :1]).min() >= -1e-8))


def monai_shape(grid: Geometry, spacing_mm: TripleMm) -> tuple[int, int, int]:
    """The shape of MONAI's grid of ``spacing_mm`` over ``grid``."""
    return _spaced(grid, spacing_mm).shape


def monai_lines(grid: Geometry, spacing_mm: TripleMm) -> Lines | None:
    """Where the voxels of MONAI's grid of ``spacing_mm`` lie on each axis of ``grid``; None: where that has its own.

    As MONAI has it, an axis keeps a spacing that is the same to a thousandth of a mm, nothing is resampled where all is the same
    to a thousandth, and where rounding makes an oblique affine begin before its first voxel, not the first voxels lie together
    but the middles, at n / 2.
    """
    made, old = _spaced(grid, spacing_mm), np.array(grid.spacing_mm)
    steps = made.spacing_mm / old
    starts = np.zeros(3) if made.from_first else (np.array(grid.shape) - np.array(made.shape) * steps) / 2
    near = np.abs([starts, steps - 1]).max() <= NEAR or np.abs([starts * old, made.spacing_mm - old]).max() <= NEAR
    if near and made.shape == grid.shape:
        return None
    i, j, k = zip(starts.tolist(), steps.tolist(), strict=True)
    return i, j, k


def onto_monai_grid(volume: Volume, spacing_mm: TripleMm) -> Volume:
    """``volume`` on MONAI's grid of ``spacing_mm``, interpolated linearly, float32."""
    lines = monai_lines(volume.geometry, spacing_mm)
    if lines is None:
        return volume
    shape = monai_shape(volume.geometry, spacing_mm)
    data = np.asarray(volume.data, np.float32)
    for axis, (line, target) in enumerate(zip(lines, shape, strict=True), 1):
        if line != SAME or data.shape[axis] != target:
            data = np.moveaxis(np.moveaxis(data, axis, -1) @ line_matrix(data.shape[axis], target, line).T, -1, axis)
    starts, steps = zip(*lines, strict=True)
    affine = volume.geometry.affine @ np.diag([*steps, 1.0])
    affine[:3, 3] = volume.geometry.to_world(starts)
    return Volume(np.ascontiguousarray(data), Geometry(shape, affine), volume.warnings, volume.modality)
