"""A prediction on its reference's grid: reordered where it is stored otherwise, resampled where that is asked for, else refused."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import GeometryError
from medseg.core.geometry import SAME_GRID_TOLERANCE, Geometry, order_between, order_to
from medseg.core.regrid import label_map_onto
from medseg.core.volume import LabelMap


@dataclass(frozen=True, eq=False)
class OnGrid:
    """``data`` (I, J, K) on the reference's grid.

    ``resampled_from`` describes the grid that it was resampled from and is empty where it was not; ``outside_ml`` is what
    of its structures lay beyond the reference's grid and is not scored.
    """

    data: npt.NDArray[np.integer[Any]]
    resampled_from: str = ""
    outside_ml: float = 0.0


def reordered(prediction: LabelMap, grid: Geometry, *, names: tuple[str, str]) -> OnGrid:
    """``prediction`` in the storage order of ``grid``. Raises GeometryError where it lies on another one.

    ``names`` are those of the prediction and its reference, for the message.
    """
    order = order_between(prediction.geometry, grid)
    if order is None:
        raise GeometryError(
            f"{names[0]} lies on another grid than its reference {names[1]}: prediction {described(prediction.geometry)}; "
            f"reference {described(grid)}; {_difference(prediction.geometry, grid)}; write the prediction on the "
            "reference's grid (same shape and affine), or resample it onto that grid (--resample), and score again"
        )
    return OnGrid(prediction.reordered(order).data)


def resampled(prediction: LabelMap, grid: Geometry, *, names: tuple[str, str]) -> OnGrid:
    """As ``reordered``; from another grid each voxel takes the value of the nearest one, background beyond the prediction.

    Raises GeometryError where nothing of a prediction that is not empty lies on ``grid``.
    """
    if order_between(prediction.geometry, grid) is not None:
        return reordered(prediction, grid, names=names)
    outside, voxels = _outside(prediction, grid)
    if voxels and outside == voxels:
        raise GeometryError(
            f"{names[0]}: all of its structures lie outside the image of its reference {names[1]}: prediction "
            f"{described(prediction.geometry)}; reference {described(grid)}; check that both belong to one scan"
        )
    data = label_map_onto(prediction, grid).data
    return OnGrid(data, described(prediction.geometry), outside * prediction.geometry.voxel_volume_ml)


def _outside(label_map: LabelMap, grid: Geometry) -> tuple[int, int]:
    """Of the voxels that are not background: those whose centre lies beyond the outer faces of ``grid``, and all of them."""
    matrix = np.linalg.inv(grid.affine) @ label_map.geometry.affine
    outside = voxels = 0
    for i, plane in enumerate(label_map.data):
        places = np.argwhere(plane)
        at = places @ matrix[:3, 1:3].T + matrix[:3, 0] * i + matrix[:3, 3]
        outside += int(np.count_nonzero(((at < -0.5) | (at >= np.array(grid.shape) - 0.5)).any(axis=1)))
        voxels += len(places)
    return outside, voxels


def described(grid: Geometry) -> str:
    """A grid in words: shape, orientation, spacing and origin."""
    shape = "x".join(map(str, grid.shape))
    spacing = " x ".join(f"{s:.4g}" for s in grid.spacing_mm)
    origin = ", ".join(f"{x:.2f}" for x in grid.affine[:3, 3])
    return f"shape {shape}, orientation {grid.orientation}, spacing {spacing} mm, origin ({origin}) mm"


def _difference(source: Geometry, target: Geometry) -> str:
    """Where the nearest storage order of ``source`` puts the corners of ``target``."""
    nearest = order_to(source, target.orientation).geometry(source)
    if nearest.shape != target.shape:
        return f"the shapes differ ({'x'.join(map(str, nearest.shape))} in the reference's orientation)"
    corners = list(product(*((0, n - 1) for n in target.shape)))
    shift_mm = np.linalg.norm(nearest.to_world(corners) - target.to_world(corners), axis=1).max()
    shift = target.corner_shift(nearest)
    return (
        f"the affines differ: a corner moves by {shift:.3g} voxels ({shift_mm:.3g} mm), "
        f"at most {SAME_GRID_TOLERANCE} voxels are allowed"
    )
