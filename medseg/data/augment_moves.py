"""Where augmented patches are sampled: each move draws for a whole batch, and all moves are one interpolation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.plan import Triple, TripleMm
from medseg.data.augment_changes import Random, in_range, low_high, sent
from medseg.data.resample import axis_matrix

Array = npt.NDArray[np.float64]
THIN = 0.5  # of the other side: a patch thinner than this is turned in its plane only, or the turn would leave it


@dataclass(frozen=True)
class PatchGrid:
    """``count`` patches of ``size`` voxels of ``spacing_mm``."""

    count: int
    size: Triple
    spacing_mm: TripleMm


@dataclass(frozen=True)
class Motion:
    """Of ``count`` patches, those ``chosen`` (count,) are sampled at ``matrices @ p + shifts`` for voxel p from the centre.

    ``matrices`` (count, 3, 3), ``shifts`` (count, 3); or at p + a smooth field whose values at coarse points are
    ``field`` (count, 3, *points). All in voxels.
    """

    chosen: npt.NDArray[np.bool_]
    matrices: Array | None = None
    shifts: Array | None = None
    field: Array | None = None


Move = Callable[[PatchGrid, Random], Motion]


def affine(
    *,
    share: float = 0.4,
    angle: float = 30.0,
    scale: Sequence[float] = (0.7, 1.4),
    shear: float = 0.0,
    translation: float = 0.0,
) -> Move:
    """Turn, scale, shear and shift a ``share`` of the patches about their centre.

    ``angle``: most degrees about each axis, in millimetres, not voxels. ``scale``: the field of view over the patch, the
    same along all axes. ``shear``: most millimetres per millimetre. ``translation``: most, as a part of the patch.
    """
    in_range("affine", share=(share, 0, 1), angle=(angle, 0, 180), shear=(shear, 0, 1), translation=(translation, 0, 1))
    low, high = low_high("affine", "scale", scale, 0.1, 10)

    def move(grid: PatchGrid, random: Random) -> Motion:
        chosen = random.random(grid.count) < share
        angles = np.radians(random.uniform(-angle, angle, (grid.count, 3)))
        zoom = random.uniform(low, high, (grid.count, 1, 1))
        slants = random.uniform(-shear, shear, (grid.count, 3, 3))
        shifts = random.uniform(-translation, translation, (grid.count, 3)) * grid.size
        matrices = np.broadcast_to(np.eye(3), (grid.count, 3, 3))
        for axis in range(3):
            a, b = (other for other in range(3) if other != axis)
            if min(grid.size[a], grid.size[b]) < THIN * max(grid.size[a], grid.size[b]):
                slants[:, [a, b], [b, a]] = 0.0
                continue
            turns = np.tile(np.eye(3), (grid.count, 1, 1))
            cos, sin = np.cos(angles[:, axis]), np.sin(angles[:, axis])
            turns[:, a, a], turns[:, a, b], turns[:, b, a], turns[:, b, b] = cos, -sin, sin, cos
            matrices = matrices @ turns
        slants[:, range(3), range(3)] = 1.0
        mm = np.array(grid.spacing_mm)
        in_voxels = (matrices @ slants * zoom) * mm[None, None, :] / mm[None, :, None]
        return Motion(chosen, in_voxels, np.where(np.array(grid.size) == 1, 0.0, shifts))

    return move


def elastic(*, share: float = 0.2, strength: float = 0.05, points: int = 5) -> Move:
    """Bend a ``share`` of the patches by a smooth field: normal draws at so many ``points`` an axis, cubic in between.

    ``strength``: standard deviation of the draws, as a part of the patch. Off by default: nnU-Net 2 has it off, too.
    """
    in_range("elastic", share=(share, 0, 1), strength=(strength, 0, 0.2), points=(points, 3, 12))

    def move(grid: PatchGrid, random: Random) -> Motion:
        chosen = random.random(grid.count) < share
        number = [1 if size == 1 else min(int(points), size) for size in grid.size]
        sd = np.where(np.array(grid.size) == 1, 0.0, strength * np.array(grid.size))
        return Motion(chosen, field=random.normal(size=(grid.count, 3, *number)) * sd[None, :, None, None, None])

    return move


def sampled(images: Tensor, references: Tensor, grid: PatchGrid, motions: Sequence[Motion]) -> tuple[Tensor, Tensor]:
    """The middle ``grid.size`` voxels of ``images`` (B, C, *extent) and ``references`` (B, *extent), moved by ``motions``.

    Images are interpolated linearly, references by the nearest voxel; outside, the image is 0 and the reference
    background. What no motion chose is cut out exactly. References come back as int64.
    """
    starts = [(outer - inner) // 2 for outer, inner in zip(images.shape[2:], grid.size, strict=True)]
    cut = tuple(slice(s, s + inner) for s, inner in zip(starts, grid.size, strict=True))
    out_images = images[(slice(None), slice(None), *cut)].clone()
    out_references = references[(slice(None), *cut)].to(torch.int64)
    chosen = np.flatnonzero(np.any([m.chosen for m in motions], axis=0)) if motions else np.empty(0, np.int64)
    if not chosen.size:
        return out_images, out_references
    rows, places = sent(chosen, images), _places(chosen, grid, motions, images)
    flat = next((axis for axis in range(3) if images.shape[axis + 2] == 1), None)  # 4 neighbours instead of 8
    sources = images[rows], references[rows][:, None].to(images.dtype)
    if flat is not None:
        places = places.squeeze(flat + 1)[..., [n for n in range(3) if n != 2 - flat]]
        sources = sources[0].squeeze(flat + 2), sources[1].squeeze(flat + 2)
    linear = functional.grid_sample(sources[0], places, mode="bilinear", padding_mode="zeros", align_corners=True)
    nearest = functional.grid_sample(sources[1], places, mode="nearest", padding_mode="zeros", align_corners=True)
    if flat is not None:
        linear, nearest = linear.unsqueeze(flat + 2), nearest.unsqueeze(flat + 2)
    out_images[rows], out_references[rows] = linear, nearest[:, 0].to(torch.int64)
    return out_images, out_references


def _places(chosen: npt.NDArray[np.int64], grid: PatchGrid, motions: Sequence[Motion], like: Tensor) -> Tensor:
    """Where ``grid_sample`` takes each voxel of the chosen patches from: (n, *size, 3) in its order (k, j, i) and units."""
    size, extent = np.array(grid.size), np.array(like.shape[2:])
    half = np.maximum((extent - 1) / 2, 0.5)
    matrices = np.tile(np.eye(3), (len(chosen), 1, 1))
    shifts = np.tile((extent - size) // 2 + (size - 1) / 2 - (extent - 1) / 2, (len(chosen), 1))
    axes = [torch.arange(n, dtype=torch.float32, device=like.device) - (n - 1) / 2 for n in grid.size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).expand(len(chosen), *grid.size, 3)
    for motion in motions:
        mine = motion.chosen[chosen]
        if motion.field is not None:
            points = points + _smooth(motion.field[chosen] * mine[:, None, None, None, None], grid.size, like)
        if motion.matrices is not None:
            matrices = np.where(mine[:, None, None], motion.matrices[chosen], np.eye(3)) @ matrices
        if motion.shifts is not None:
            shifts = shifts + motion.shifts[chosen] * mine[:, None]
    scaled, offset = (matrices / half[:, None])[:, ::-1], (shifts / half)[:, ::-1]
    flat_points = points.reshape(len(chosen), -1, 3)
    placed = torch.baddbmm(sent(offset, like)[:, None], flat_points, sent(scaled, like).mT)
    return placed.reshape(len(chosen), *grid.size, 3)


def _smooth(field: Array, size: Triple, like: Tensor) -> Tensor:
    """``field`` (n, 3, *points) by cubic splines at every voxel: (n, *size, 3)."""
    matrices = [sent(axis_matrix(n, to, 3 if n > 1 else 0), like) for n, to in zip(field.shape[2:], size, strict=True)]
    return torch.einsum("ncxyz,ix,jy,kz->nijkc", sent(field, like), *matrices)
