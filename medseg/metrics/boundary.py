"""Overlap of boundaries: the rims of two masks, in true millimetres."""

import math
from itertools import product

import numpy as np
import numpy.typing as npt

from medseg.core.fast import near_outside
from medseg.metrics.distances import Flat, voxel_surface
from medseg.metrics.pairs import MaskPair

Mask = npt.NDArray[np.bool_]
_ROUNDING = 1e-6  # of the width: a distance equal to it is within it


def boundary_iou(pair: MaskPair) -> float:
    """IoU of the rims of both masks, from 0 to 1; 0 where missed or spurious, NaN where both are empty.

    |rim(P) and rim(R)| / |rim(P) or rim(R)|, where the rim is the part of a mask within ``boundary_mm`` of what lies outside.
    Cheng et al. 2021, doi:10.1109/CVPR46437.2021.01508, who count in pixels and take 2 % of the image's diagonal for the width,
    which is a pixel at least; here it is in millimetres, and the surface voxels always belong to the rim (see ``rim``).
    """
    if pair.state != "scored":
        return math.nan if pair.state == "both_empty" else 0.0
    i, j, k = pair.grid.shape
    columns, width = pair.geometry.affine[:3, :3], pair.rules.boundary_mm
    first, second = (rim(m, columns, width, (i == 1, j == 1, k == 1)) for m in (pair.prediction, pair.reference))
    return int(np.count_nonzero(first & second)) / int(np.count_nonzero(first | second))


def rim(mask: Mask, columns: npt.NDArray[np.float64], width_mm: float, flat: Flat = (False, False, False)) -> Mask:
    """The voxels of ``mask`` (I, J, K) whose centre is at most ``width_mm`` from that of a voxel outside, and its voxel surface.

    ``columns`` (3, 3) are one step along each axis in mm. What lies beyond the array is outside; across an axis of
    ``flat``, along which the whole image has one voxel, there is no outside.
    """
    solid = [axis for axis in range(3) if not flat[axis]]
    surface = voxel_surface(mask, solid)
    gram = columns.T @ columns
    wide = width_mm * (1 + _ROUNDING)
    if np.allclose(gram, np.diag(np.diag(gram)), rtol=0, atol=1e-4 * float(np.diag(gram).min())):
        return surface | (mask & _near_upright(mask, np.sqrt(np.diag(gram)), wide, solid))
    return surface | (mask & _near_sheared(mask, columns, wide, solid))


def _near_upright(mask: Mask, spacing_mm: npt.NDArray[np.float64], width_mm: float, solid: list[int]) -> Mask:
    around = np.pad(mask, [(1, 1) if axis in solid else (0, 0) for axis in range(3)])
    if not solid or around.all():
        return np.zeros_like(mask)
    inner = tuple(slice(1, -1) if axis in solid else slice(None) for axis in range(3))
    return near_outside(around, spacing_mm, width_mm)[inner]


def _near_sheared(mask: Mask, columns: npt.NDArray[np.float64], width_mm: float, solid: list[int]) -> Mask:
    """By every step of at most ``width_mm``: where the axes are not at right angles the distance transform does not hold."""
    reach = np.floor(width_mm * np.linalg.norm(np.linalg.inv(columns), axis=1)).astype(int)  # voxels along each axis
    reach = [int(n) if axis in solid else 0 for axis, n in enumerate(reach)]
    padded = np.pad(mask, [(n, n) for n in reach])
    near = np.zeros_like(mask)
    for step in product(*(range(-n, n + 1) for n in reach)):
        if 0 < np.linalg.norm(columns @ step) <= width_mm:
            moved = tuple(slice(n + s, n + s + size) for n, s, size in zip(reach, step, mask.shape, strict=True))
            near |= ~padded[moved]
    return near
