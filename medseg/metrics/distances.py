"""From every element of each surface to the nearest of the other, in true millimetres: computed once for all metrics of a pair.

Two definitions. The voxel surface: the mask's voxels with a face neighbour outside it, each placed at its centre and each
counting the same. The area surface: the corners of voxels between inside and outside, each weighing the area in mm² of
the surface through it. What lies beyond the image is outside the mask, so a mask cut off by the border has a surface there;
but across an axis on which the whole image has a single voxel, as in a picture, there is no surface: it is a contour then.

Positions go through the full affine, so distances are true on oblique, anisotropic and sheared grids alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Flat = tuple[bool, bool, bool]
SOLID = (False, False, False)


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """``prediction_mm`` (P,): from each element of the predicted surface to the reference's; ``reference_mm`` (R,) the other way.

    ``prediction_area`` (P,) and ``reference_area`` (R,): what each element weighs: its area in mm², or 1 for a voxel.
    """

    prediction_mm: Floats
    reference_mm: Floats
    prediction_area: Floats
    reference_area: Floats


def voxel_distances(prediction: Mask, reference: Mask, affine: Floats, flat: Flat = SOLID) -> SurfaceDistances:
    """By the voxel surface; masks (I, J, K), neither empty, with ``affine`` (4, 4); along ``flat`` axes the image has one voxel."""
    axes = memory_order(reference)
    solid = [n for n, axis in enumerate(axes) if not flat[axis]]
    first, second = (voxel_surface(np.ascontiguousarray(m.transpose(axes)), solid) for m in (prediction, reference))
    there, back = _nearest(first, second, affine[:3, :3][:, axes])
    return SurfaceDistances(there, back, np.ones(len(there)), np.ones(len(back)))


def area_distances(prediction: Mask, reference: Mask, affine: Floats, flat: Flat = SOLID) -> SurfaceDistances:
    """By the area surface; masks (I, J, K), neither empty, with ``affine`` (4, 4); along ``flat`` axes the image has one voxel."""
    axes = memory_order(reference)
    solid = [n for n, axis in enumerate(axes) if not flat[axis]]
    columns = affine[:3, :3][:, axes]
    table = corner_areas(columns)
    surfaces, areas = [], []
    for mask in (prediction, reference):
        codes = corner_codes(np.ascontiguousarray(mask.transpose(axes)), solid)
        surfaces.append((codes != 0) & (codes != 255))
        areas.append(table[codes[surfaces[-1]]])
        del codes  # as large as the box
    there, back = _nearest(surfaces[0], surfaces[1], columns)
    return SurfaceDistances(there, back, areas[0], areas[1])


def voxel_surface(mask: Mask, solid: Sequence[int] = (0, 1, 2)) -> Mask:
    """The voxels of ``mask`` with a face neighbour along one of the ``solid`` axes outside the mask or the array."""
    inside = mask.copy()
    for axis in solid:
        inner, outer = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        inner[1:] &= outer[:-1]
        inner[:-1] &= outer[1:]
        inner[0] = inner[-1] = False
    surface: Mask = np.greater(mask, inside, out=inside)
    return surface


def corner_codes(mask: Mask, solid: Sequence[int] = (0, 1, 2)) -> npt.NDArray[np.uint8]:
    """For each corner of the voxels (I+1, J+1, K+1), which of its eight voxels the mask holds.

    Bit 4a + 2b + c is the voxel on the low (0) or high (1) side of the corner along i (a), j (b) and k (c). An axis that is
    not ``solid`` keeps its one voxel, as if the mask went on for ever across it.
    """
    codes = mask.view(np.uint8)
    for axis, shift in ((2, 1), (1, 2), (0, 4)):
        if axis not in solid:
            codes = np.bitwise_or(codes, codes << shift, dtype=np.uint8)
            continue
        shape = list(codes.shape)
        shape[axis] += 1
        wider = np.zeros(shape, np.uint8)
        low, high = np.moveaxis(wider, axis, 0)[1:], np.moveaxis(wider, axis, 0)[:-1]
        moved = np.moveaxis(codes, axis, 0)
        low |= moved
        high |= moved << shift
        codes = wider
    return codes


def corner_areas(columns: Floats) -> Floats:
    """The area in mm² of the surface through a corner, by its code (256,); ``columns`` (3, 3) are the voxel's edges in mm."""
    corners, owner = _triangles()
    points = corners @ columns.T
    normals = np.cross(points[:, 1] - points[:, 0], points[:, 2] - points[:, 0])
    return np.asarray(np.bincount(owner, np.linalg.norm(normals, axis=1) / 2, minlength=256), np.float64)


@cache
def _triangles() -> tuple[Floats, npt.NDArray[np.intp]]:
    """The surface between eight voxel centres as triangles (T, 3, 3) in voxels, and the code that each belongs to.

    Marching cubes of Lorensen and Cline 1987 (doi:10.1145/37402.37422). Of the two ways to join voxels that touch along
    an edge or a corner alone, whichever of inside and outside has fewer of the eight is kept apart (of 4 and 4, the inside).
    """
    from skimage.measure import marching_cubes

    corners, owner = [], []
    for code in range(1, 255):
        inside = np.array([code >> bit & 1 for bit in range(8)], np.float32).reshape(2, 2, 2)
        if inside.sum() > 4:
            inside = 1 - inside
        vertices, faces, _, _ = marching_cubes(inside, 0.5, method="lorensen")
        corners.append(vertices[faces].astype(np.float64))
        owner += [code] * len(faces)
    return np.concatenate(corners), np.array(owner, np.intp)


def _nearest(first: Mask, second: Mask, columns: Floats) -> tuple[Floats, Floats]:
    """From each set element of ``first`` to the nearest of ``second``, and back, in mm; ``columns`` (3, 3) are one step an axis.

    What both hold is 0 away, so that only where they differ is there anything to look for.
    """
    from scipy.spatial import cKDTree

    common = [second[first], first[second]]
    points = [_places(mask, columns) for mask in (first, second)]
    found = []
    for here, there in ((0, 1), (1, 0)):
        distances = np.zeros(len(points[here]))
        alone = ~common[here]
        if alone.any():
            # Points on a grid lie evenly: to balance the tree would cost more than it saves.
            tree = cKDTree(points[there], leafsize=32, balanced_tree=False, compact_nodes=False)
            distances[alone] = tree.query(points[here][alone])[0]
        found.append(distances)
    return found[0], found[1]


def _places(mask: Mask, columns: Floats) -> Floats:
    """Of each set element (N, 3) in mm. Not by ``@``: BLAS would start threads of its own beside those over structures."""
    i, j, k = np.nonzero(mask)
    places = np.multiply.outer(i, columns[:, 0])
    places += np.multiply.outer(j, columns[:, 1])
    places += np.multiply.outer(k, columns[:, 2])
    return np.asarray(places, np.float64)


def memory_order(array: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """The axes from the widest stride to the narrowest: to walk along memory is up to five times faster."""
    return np.argsort([-abs(stride) for stride in array.strides], kind="stable")
