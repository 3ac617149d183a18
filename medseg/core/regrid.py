"""Voxels moved between two grids whose axes differ, as a gantry tilt makes them: by the full affine, never along axes alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.core.geometry import Geometry, upright
from medseg.core.volume import LabelMap, Volume


def straightened(volume: Volume) -> Volume:
    """``volume`` on an orthogonal grid (``upright``), interpolated linearly, float32; itself where it is not sheared.

    What lies outside the scan gets the channel's smallest intensity.
    """
    grid = upright(volume.geometry)
    if grid is volume.geometry:
        return volume
    channels = [
        onto_grid(np.asarray(c, np.float32), volume.geometry, grid, order=1, outside=c.min()) for c in volume.data
    ]
    return Volume(np.stack(channels), grid, volume.warnings, volume.modality)


def label_map_onto(label_map: LabelMap, grid: Geometry) -> LabelMap:
    """``label_map`` on ``grid``: each voxel takes the value of the nearest one; 0 outside. Itself where the grids are equal."""
    if grid == label_map.geometry:
        return label_map
    data = onto_grid(label_map.data, label_map.geometry, grid, order=0, outside=0)
    return LabelMap(data, grid, label_map.labels, label_map.warnings)


def volume_onto(volume: Volume, grid: Geometry) -> tuple[Volume, float]:
    """``volume`` on ``grid``, interpolated linearly, float32, and the share of the grid's voxels that it covers.

    Where it does not reach, half a voxel around its outermost centres, a channel gets its smallest intensity.
    """
    inside = onto_grid(np.ones(volume.geometry.shape, np.uint8), volume.geometry, grid, order=0, outside=0)
    matrix = np.linalg.inv(volume.geometry.affine) @ grid.affine
    moved = [
        ndimage.affine_transform(
            np.asarray(channel, np.float32), matrix[:3, :3], matrix[:3, 3], grid.shape, order=1, mode="nearest"
        )
        for channel in volume.data
    ]
    filled = [np.where(inside, new, old.min()) for new, old in zip(moved, volume.data, strict=True)]
    return Volume(np.stack(filled).astype(np.float32), grid, volume.warnings, volume.modality), float(inside.mean())


def onto_grid(
    data: npt.NDArray[Any], source: Geometry, target: Geometry, *, order: int, outside: float
) -> npt.NDArray[Any]:
    """``data`` (I, J, K) of ``source`` at the voxel centres of ``target``, in its own type; ``order`` 0 nearest, 1 linear.

    A voxel reaches half a voxel around its centre for the nearest; a linear value goes over to ``outside`` within one.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    # Not "constant", which takes a centre that rounding put 1e-9 voxels before the first one as outside altogether.
    moved: npt.NDArray[Any] = ndimage.affine_transform(
        data, matrix[:3, :3], matrix[:3, 3], target.shape, order=order, mode="grid-constant", cval=float(outside)
    )
    return moved
