"""A grid in the world: shape and affine, and the arithmetic that keeps both true together.

World coordinates are RAS+ millimetres. Voxel axes are i, j, k; the integer index is the voxel's centre.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import GeometryError

Affine = npt.NDArray[np.float64]
SAME_GRID_TOLERANCE = 0.05  # voxels a corner may move between grids that count as the same
SHEAR_TOLERANCE = 5e-3  # radians from a right angle (0.3 degrees): rounding of direction cosines, not a gantry tilt


@dataclass(frozen=True, eq=False)
class Geometry:
    """``shape`` (I, J, K) in voxels and ``affine`` (4, 4) from voxel indices to RAS+ millimetres.

    Raises GeometryError if the affine is not finite or not invertible.

    >>> Geometry((10, 20, 30), np.diag([-1.0, -1.0, 2.5, 1.0]))
    Geometry(10x20x30 voxels, 1 x 1 x 2.5 mm, LPS)
    """

    shape: tuple[int, int, int]
    affine: Affine

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"affine must be 4x4 and finite, got {affine.tolist()}")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"shape must be three positive sizes, got {self.shape}")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
            raise GeometryError(f"affine is singular (no volume): spacing {spacing.tolist()} mm")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along i, j, k in millimetres."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @cached_property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in millilitres (the determinant, so that a shear counts right)."""
        return float(abs(np.linalg.det(self.affine[:3, :3])) / 1000.0)

    @cached_property
    def diagonal_mm(self) -> float:
        """The longest way through the grid in millimetres, from corner to corner of its outer voxels' outer faces."""
        edges = self.affine[:3, :3] * self.shape
        return float(max(np.linalg.norm(edges @ [1.0, j, k]) for j in (-1.0, 1.0) for k in (-1.0, 1.0)))

    @cached_property
    def shear_degrees(self) -> float:
        """The largest angle by which two voxel axes miss a right angle: 0 but for a gantry tilt or the like."""
        axes = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        cosines = np.abs([axes[:, 0] @ axes[:, 1], axes[:, 0] @ axes[:, 2], axes[:, 1] @ axes[:, 2]])
        return float(np.degrees(np.arcsin(min(1.0, cosines.max()))))

    @property
    def is_sheared(self) -> bool:
        """True where the voxel axes do not stand at right angles, beyond the rounding of direction cosines."""
        return bool(self.shear_degrees > np.degrees(SHEAR_TOLERANCE))

    @cached_property
    def orientation(self) -> str:
        """Three letters: the world direction nearest to each growing voxel axis, such as ``RAS``."""
        letters = ("LR", "PA", "IS")
        return "".join(letters[world][int(sign > 0)] for world, sign in self._axes)

    @cached_property
    def _axes(self) -> tuple[tuple[int, int], ...]:
        """For each voxel axis: the world axis it runs along (each taken once) and its sign."""
        directions = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        # The rotation nearest to the directions, so that a shear does not tip the choice.
        u, _, vt = np.linalg.svd(directions)
        rotation = u @ vt
        best = max(
            ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)),
            key=lambda worlds: round(sum(abs(rotation[w, axis]) for axis, w in enumerate(worlds)), 9),
        )
        return tuple((w, 1 if rotation[w, axis] > 0 else -1) for axis, w in enumerate(best))

    def to_world(self, indices: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """World positions (..., 3) in millimetres of voxel ``indices`` (..., 3)."""
        points: npt.NDArray[np.float64] = np.asarray(indices, float) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def to_voxel(self, points_mm: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Voxel indices (..., 3), not rounded, of world ``points_mm`` (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        indices: npt.NDArray[np.float64] = np.asarray(points_mm, float) @ inverse[:3, :3].T + inverse[:3, 3]
        return indices

    def matches(self, other: "Geometry", tolerance: float = SAME_GRID_TOLERANCE) -> bool:
        """True where voxel (i, j, k) of both lies in the same place: no corner moves by more than ``tolerance`` voxels."""
        return self.shape == other.shape and self.corner_shift(other) <= tolerance

    def corner_shift(self, other: "Geometry") -> float:
        """The largest distance, in voxels of this grid, between equal-index corners of both grids; shapes must be equal."""
        corners = np.array(list(product(*((0, n - 1) for n in self.shape))), float)
        # One voxel beyond each face, so that a one-slice grid still fixes all three directions.
        corners = np.concatenate([corners, np.vstack([np.eye(3), -np.eye(3)])])
        moved = self.to_voxel(other.to_world(corners)) - corners
        return float(np.abs(moved).max())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Geometry)
            and self.shape == other.shape
            and bool(np.array_equal(self.affine, other.affine))
        )

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.shape))
        spacing = " x ".join(f"{s:.4g}" for s in self.spacing_mm)
        return f"Geometry({shape} voxels, {spacing} mm, {self.orientation})"


@dataclass(frozen=True)
class StorageOrder:
    """A reordering of the voxel axes: new axis n is old axis ``permutation[n]``, reversed where ``flips[n]``.

    The world position of each voxel stays: ``array`` and ``geometry`` change together.
    """

    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @property
    def inverse(self) -> "StorageOrder":
        back = tuple(self.permutation.index(axis) for axis in range(3))
        return StorageOrder(
            (back[0], back[1], back[2]), (self.flips[back[0]], self.flips[back[1]], self.flips[back[2]])
        )

    def array(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """``array`` (..., I, J, K) in the new order: a view, no copy."""
        lead = array.ndim - 3
        moved = np.transpose(array, (*range(lead), *(lead + axis for axis in self.permutation)))
        return moved[(..., *(slice(None, None, -1) if flip else slice(None) for flip in self.flips))]

    def geometry(self, geometry: Geometry) -> Geometry:
        """``geometry`` of the reordered array."""
        shape = tuple(geometry.shape[axis] for axis in self.permutation)
        to_old = np.zeros((4, 4))  # new index -> old index
        to_old[3, 3] = 1.0
        for new, (old, flip) in enumerate(zip(self.permutation, self.flips, strict=True)):
            to_old[old, new] = -1.0 if flip else 1.0
            to_old[old, 3] = shape[new] - 1 if flip else 0.0
        return Geometry((shape[0], shape[1], shape[2]), geometry.affine @ to_old)


def all_storage_orders() -> list[StorageOrder]:
    """The 48 ways to store one volume: 6 axis permutations times 8 flips."""
    permutations = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    return [StorageOrder(p, (a, b, c)) for p in permutations for a, b, c in product((False, True), repeat=3)]


def order_to(geometry: Geometry, orientation: str = "RAS") -> StorageOrder:
    """The reordering that brings ``geometry`` nearest to ``orientation``.

    >>> order_to(Geometry((4, 5, 6), np.diag([-1.0, -1.0, 1.0, 1.0])))
    StorageOrder(permutation=(0, 1, 2), flips=(True, True, False))
    """
    permutation, flips = [], []
    for letter in orientation:
        world, positive = next((w, pair.index(letter)) for w, pair in enumerate(("LR", "PA", "IS")) if letter in pair)
        axis = next(a for a, (w, _) in enumerate(geometry._axes) if w == world)
        permutation.append(axis)
        flips.append((geometry._axes[axis][1] > 0) != bool(positive))
    return StorageOrder((permutation[0], permutation[1], permutation[2]), (flips[0], flips[1], flips[2]))


def order_between(source: Geometry, target: Geometry, tolerance: float = SAME_GRID_TOLERANCE) -> StorageOrder | None:
    """The reordering of ``source`` that puts each voxel onto ``target``'s equal index; None if the grids differ.

    Same grid means: no corner moves by more than ``tolerance`` voxels, in any of the 48 storage orders.
    """
    for order in sorted(all_storage_orders(), key=lambda o: o != order_to(source, target.orientation)):
        shape = tuple(source.shape[axis] for axis in order.permutation)
        if shape == target.shape and target.matches(order.geometry(source), tolerance):
            return order
    return None


def crop(geometry: Geometry, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
    """The grid of ``array[start : start + shape]``; a negative start or a larger shape pads."""
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world(start)
    return Geometry(shape, affine)


def resized(geometry: Geometry, shape: tuple[int, int, int]) -> Geometry:
    """The grid with ``shape`` voxels over exactly the same field of view (outer faces of the outer voxels)."""
    scale = np.array(geometry.shape) / np.array(shape)
    affine = geometry.affine.copy()
    affine[:3, :3] = geometry.affine[:3, :3] * scale
    affine[:3, 3] = geometry.to_world((scale - 1.0) / 2.0)
    return Geometry(shape, affine)


def shape_at_spacing(geometry: Geometry, spacing_mm: tuple[float, float, float]) -> tuple[int, int, int]:
    """The shape that comes nearest to ``spacing_mm`` over the same field of view, at least one voxel an axis."""
    i, j, k = (
        max(1, round(n * old / new))
        for n, old, new in zip(geometry.shape, geometry.spacing_mm, spacing_mm, strict=True)
    )
    return i, j, k


def upright(geometry: Geometry) -> Geometry:
    """The smallest grid with axes at right angles that covers the sheared ``geometry``; ``geometry`` itself if it is not.

    The two axes that stand best to each other stay, of equals those of the finest spacing (the pixels of tilted slices);
    the third becomes their normal. Planes across the third axis stay where they are, so that a gantry tilt is undone by a
    shift within each slice alone.
    """
    if not geometry.is_sheared:
        return geometry
    columns = geometry.affine[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    axes = columns / lengths

    def badness(choice: tuple[int, int, int]) -> tuple[float, float]:
        a, b, _ = choice
        return round(float(abs(axes[:, a] @ axes[:, b])), 3), float(lengths[a] * lengths[b])

    first, second, third = min(((0, 1, 2), (0, 2, 1), (1, 2, 0)), key=badness)
    along = axes[:, first]
    beside = axes[:, second] - (axes[:, second] @ along) * along
    beside /= np.linalg.norm(beside)
    normal = np.cross(along, beside)
    affine = geometry.affine.copy()
    affine[:3, second] = beside * lengths[second]
    affine[:3, third] = normal * (normal @ columns[:, third])
    corners = geometry.to_world(list(product(*((0, n - 1) for n in geometry.shape))))
    indices = Geometry(geometry.shape, affine).to_voxel(corners)
    low = np.floor(indices.min(axis=0) + 1e-6).astype(int)
    i, j, k = (np.ceil(indices.max(axis=0) - 1e-6).astype(int) - low + 1).tolist()
    return crop(Geometry(geometry.shape, affine), (int(low[0]), int(low[1]), int(low[2])), (i, j, k))
