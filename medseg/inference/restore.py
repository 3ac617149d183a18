"""From slabs of logits on the plan's grid to channels on the scan's grid, tile by tile, as far as a tile leaves a choice."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.interpolate import Way, Ways, line_matrix, shares_at
from medseg.inference.decide import Array, Decide, largest
from medseg.inference.windows import Triple

PLANES, SIDE = 8, 32  # target voxels of a tile: few structures meet in one, and its logits stay in the cache


def linear_matrix(source: int, target: int) -> Array:
    """Linear interpolation (target, source) along one axis: voxel faces aligned, edges repeated."""
    return shares_at((np.arange(target) + 0.5) * source / target - 0.5, source)


def nearest_matrix(source: int, target: int) -> Array:
    """The nearest voxel (target, source) along one axis; the later one of two that are as near."""
    nearest = np.floor((np.arange(target) + 0.5) * (source / target)).astype(int)
    matrix = np.zeros((target, source), np.float32)
    matrix[np.arange(target), np.minimum(nearest, source - 1)] = 1
    return matrix


MATRICES = {0: nearest_matrix, 1: linear_matrix}  # by the spline's order; shares >= 0 that sum to 1, in ascending order


@dataclass(frozen=True)
class Piece:
    """Some ``target`` voxels of an axis, the ``source`` voxels that they are made of, and the ``shares``; None: the same."""

    target: slice
    source: slice
    shares: Tensor | None


class Axis:
    """The map of one axis (target, source): the first and last source voxel of each target voxel, and pieces of it."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix
        self.first = np.argmax(matrix != 0, axis=1)
        self.last = matrix.shape[1] - 1 - np.argmax(matrix[:, ::-1] != 0, axis=1)

    def needed(self, target: slice) -> slice:
        """The source voxels of which ``target`` voxels are made."""
        return slice(int(self.first[target.start]), int(self.last[target.stop - 1]) + 1)

    def cut(self, target: slice) -> "Axis":
        """The same of ``target`` voxels alone, from the source voxels that they need."""
        return Axis(self.matrix[target, self.needed(target)])

    def pieces(self, start: int, stop: int, size: int) -> list[Piece]:
        return [self._piece(n, min(n + size, stop)) for n in range(start, stop, size)]

    def _piece(self, start: int, stop: int) -> Piece:
        source = slice(int(self.first[start]), int(self.last[stop - 1]) + 1)
        shares = self.matrix[start:stop, source]
        same = np.array_equal(shares, np.eye(stop - start))
        return Piece(slice(start, stop), source, None if same else torch.from_numpy(shares.copy()))


def axis_of(source: int, target: int, way: Way) -> Axis:
    """The map of one axis."""
    return Axis(MATRICES[way](source, target) if isinstance(way, int) else line_matrix(source, target, way))


def axes_of(source: Triple, target: Triple, orders: Ways) -> list[Axis]:
    """The map of each axis."""
    return [axis_of(s, t, way) for way, s, t in zip(orders, source, target, strict=True)]


def needed(part: Box, source: Triple, target: Triple, orders: Ways) -> Box:
    """The voxels of ``source`` of which those of ``part`` of ``target`` are made."""
    i, j, k = (axis.needed(side) for axis, side in zip(axes_of(source, target, orders), part, strict=True))
    return i, j, k


def restore(
    slabs: Iterable[Tensor],
    *,
    source: Triple,
    target: Triple,
    axis: int,
    dtype: npt.DTypeLike,
    decide: Decide = largest,
    orders: Ways = (1, 1, 1),
    into: npt.NDArray[np.unsignedinteger] | None = None,
    within: Box | None = None,
) -> npt.NDArray[np.unsignedinteger]:
    """The channel that ``decide`` finds for each voxel of ``target`` (I, J, K), in ``dtype``.

    ``slabs`` (K, n, A, B), float32 or float16, come in order along ``axis`` and cover ``source``; each may be overwritten
    once the next is asked for. Logits are interpolated over the same field of view, along each axis by its one of
    ``orders``: 1 linear, 0 nearest, or on a line. An interpolated logit lies between the smallest and the largest around it,
    so that in most tiles few outputs can win and only those are interpolated; the result is that of interpolating all of them.
    ``into``: the array of zeros to fill; what a slab decides stands in it before the next slab is asked for.
    ``within``: the part of ``target`` that is wanted; the slabs then cover the source voxels that it needs.
    """
    axes = axes_of(source, target, orders)
    if within is not None:
        axes = [a.cut(side) for a, side in zip(axes, within, strict=True)]
    result = np.zeros([len(a.matrix) for a in axes], np.dtype(dtype)) if into is None else into
    out = np.moveaxis(result, axis, 0)
    along, *across = (axes[a] for a in (axis, *(a for a in range(3) if a != axis)))
    rows, columns = (a.pieces(0, len(a.matrix), SIDE) for a in across)
    same_grid = source == target and all(isinstance(way, int) for way in orders)
    held = Planes()
    emitted = 0
    for slab in slabs:
        held.append(slab)
        end = int(np.searchsorted(along.last, held.stop))
        # What also needs planes of the slab before is made first, so that no others are copied.
        joint = min(max(emitted, int(np.searchsorted(along.first, held.start))), end)
        for piece in (*along.pieces(emitted, joint, PLANES), *along.pieces(joint, end, PLANES)):
            block, place = held.between(piece.source.start, piece.source.stop), out[piece.target]
            tiles = _whole(block, decide) if same_grid else _tiles(block, piece, rows, columns, decide)
            for where, channels in tiles:
                place[where] = channels
        emitted = end
        if end < len(out):
            held.keep(int(along.first[end]))
    if emitted != len(out):
        raise ValueError(f"the slabs cover {held.stop} of {source[axis]} planes")
    return result


class Planes:
    """The slab (K, n, A, B) that came last, which begins with plane ``start``, and a copy of what is needed before it."""

    def __init__(self) -> None:
        self.start = self.stop = 0
        self.slab = self.tail = torch.empty(0)

    def append(self, slab: Tensor) -> None:
        self.start, self.stop, self.slab = self.stop, self.stop + slab.shape[1], slab

    def between(self, start: int, stop: int) -> Tensor:
        inside = self.slab[:, max(start - self.start, 0) : stop - self.start]
        return inside if start >= self.start else torch.cat([self.tail[:, start - self.start :], inside], dim=1)

    def keep(self, start: int) -> None:
        """Copy the planes from ``start`` on; none where planes are skipped and the next one needed has not come yet."""
        self.tail = self.between(min(start, self.stop), self.stop).clone()


def _whole(block: Tensor, decide: Decide) -> Iterator[tuple[Any, Any]]:
    """Where the voxels of ``block`` (K, n, A, B) are those of the target: its channels, one run through the memory."""
    cut = int(np.argmax(block.stride()[1:3]))
    for n in range(block.shape[1 + cut]):
        part = block.select(1 + cut, n)
        yield (slice(None),) * cut + (n,), decide((logits.float().numpy() for logits in part), range(len(block)))


def _tiles(
    block: Tensor, along: Piece, rows: list[Piece], columns: list[Piece], decide: Decide
) -> Iterator[tuple[Any, Any]]:
    """The tiles of ``block`` (K, n, A, B): where each lies in the target, and its channels."""
    low, high = (_extremes(block, rows, columns, reduce) for reduce in (torch.amin, torch.amax))
    matter = decide.matter(low, high)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            where = (slice(None), row.target, column.target)
            outputs = np.flatnonzero(matter[:, i, j]).tolist()
            channel = decide.certain(outputs)
            if channel is not None:
                yield where, channel
            else:
                inside = block[:, :, row.source, column.source]
                chosen = inside if len(outputs) == len(block) else inside[outputs]
                yield where, decide(iter(interpolated(chosen.float(), along, row, column).numpy()), outputs)


def _extremes(block: Tensor, rows: list[Piece], columns: list[Piece], reduce: Callable[..., Tensor]) -> Array:
    """The smallest or largest logit of each output (K, rows, columns) among the source voxels of each tile."""
    flat = reduce(block, 1)
    by_row = torch.stack([reduce(flat[:, p.source], 1) for p in rows], dim=1)
    return torch.stack([reduce(by_row[:, :, p.source], 2) for p in columns], dim=2).float().numpy()


def interpolated(logits: Tensor, along: Piece, row: Piece, column: Piece) -> Tensor:
    """``logits`` (M, n, a, b) at the target's voxels (M, n', a', b')."""
    m, n, a, b = logits.shape
    if along.shares is not None:
        logits = along.shares @ logits.reshape(m, n, a * b)
        n = len(along.shares)
    if row.shares is not None:
        logits = row.shares @ logits.reshape(m, n, a, b)
        a = len(row.shares)
    if column.shares is not None:
        logits = logits.reshape(m * n * a, b) @ column.shares.T
        b = len(column.shares)
    return logits.reshape(m, n, a, b)
