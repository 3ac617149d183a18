"""From slabs of logits on the plan's grid to channels on the scan's grid, tile by tile, as far as a tile leaves a choice."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.interpolate import Way, Ways, line_matrix, shares_at
from medseg.inference.decide import Array, Decide, Mask, largest
from medseg.inference.windows import Triple

TILE = (8, 16, 64)  # target voxels of a tile along the axes, the last as the memory runs: few structures meet in one
BY_ITSELF = 2**15  # what a tile costs beside its interpolated values, in such values
AT_ONCE = 2**19  # values that joined tiles may have: more would leave the cache


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
    same_grid = source == target and all(isinstance(way, int) for way in orders)
    pieces_of = cache(lambda side, size: side.pieces(0, len(side.matrix), size))
    held = Planes()
    emitted = 0
    for slab in slabs:
        held.append(slab)
        order = sorted(range(3), key=lambda a: -slab.stride(a + 1))  # as the memory runs
        thick, *sizes = (TILE[order.index(a)] for a in range(3))
        sides = [pieces_of(a, size) for a, size in zip(across, sizes, strict=True)]
        end = int(np.searchsorted(along.last, held.stop))
        # What also needs planes of the slab before is made first, so that no others are copied.
        joint = min(max(emitted, int(np.searchsorted(along.first, held.start))), end)
        for piece in (*along.pieces(emitted, joint, thick), *along.pieces(joint, end, thick)):
            block, place = held.between(piece.source.start, piece.source.stop), out[piece.target]
            if same_grid:
                tiles = _whole(block, decide)
            else:
                here = Piece(slice(0, len(place)), slice(0, block.shape[1]), piece.shares)
                ordered = [[[here], *sides][a] for a in order]
                tiles, place = (
                    _tiles(block.permute(0, *(a + 1 for a in order)), ordered, decide),
                    place.transpose(order),
                )
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


def _tiles(block: Tensor, sides: Sequence[Sequence[Piece]], decide: Decide) -> Iterator[tuple[Any, Any]]:
    """The tiles of ``block`` (K, a, b, c), of which each axis has its pieces: where each lies in the target, and its channels."""
    low, high = (_extremes(block, sides, reduce) for reduce in (torch.amin, torch.amax))
    run = max(range(3), key=lambda a: len(sides[a]))
    matter = np.moveaxis(decide.matter(low, high), run + 1, -1)
    certain = cache(lambda code: decide.certain(_outputs(code)))
    for at in np.ndindex(matter.shape[1:3]):
        pieces = [[side[n]] for side, n in zip((s for a, s in enumerate(sides) if a != run), at, strict=True)]
        pieces.insert(run, list(sides[run]))
        voxels = prod(side[0].target.stop - side[0].target.start for side in pieces)
        for start, stop, code in _joined(matter[:, at[0], at[1]], certain, BY_ITSELF / voxels, AT_ONCE / voxels):
            pieces[run] = list(sides[run][start:stop])
            where = tuple(slice(side[0].target.start, side[-1].target.stop) for side in pieces)
            channel = certain(code)
            if channel is not None:
                yield where, channel
                continue
            outputs = _outputs(code)
            inside = block[(slice(None), *(slice(side[0].source.start, side[-1].source.stop) for side in pieces))]
            chosen = inside if len(outputs) == len(block) else inside[outputs]
            yield where, decide(iter(_stretched(chosen.float().numpy(), pieces)), outputs)


def _outputs(code: int) -> list[int]:
    return [n for n in range(code.bit_length()) if code >> n & 1]


def _joined(
    matter: Mask, certain: Callable[[int], int | None], by_itself: float, most: float
) -> Iterator[tuple[int, int, int]]:
    """Runs of a row of tiles, of which ``matter`` (K, n): first tile, end, and the outputs that matter as the bits of a number.

    Tiles are joined where that costs less than another run, which costs as much as interpolating ``by_itself`` tiles, and
    where no more than ``most`` are interpolated at once.
    """
    codes = [int.from_bytes(bits.tobytes(), "little") for bits in np.packbits(matter, axis=0, bitorder="little").T]

    def cost(code: int, tiles: int) -> float:
        return 0 if certain(code) is not None else by_itself + code.bit_count() * tiles

    def fits(code: int, tiles: int) -> bool:
        return certain(code) is not None or code.bit_count() * tiles <= most

    start, joined = 0, codes[0]
    for n, code in enumerate(codes[1:], 1):
        union = joined | code
        if fits(union, n + 1 - start) and cost(union, n + 1 - start) <= cost(joined, n - start) + cost(code, 1):
            joined = union
        else:
            yield start, n, joined
            start, joined = n, code
    yield start, len(codes), joined


def _extremes(block: Tensor, sides: Sequence[Sequence[Piece]], reduce: Callable[..., Tensor]) -> Array:
    """The smallest or largest logit of each output (K, tiles along each axis) among the source voxels of each tile."""
    for axis, side in enumerate(sides, 1):
        parts = (block.narrow(axis, p.source.start, p.source.stop - p.source.start) for p in side)
        # float16 takes a multiple of the time where the memory is not passed through in one go.
        block = torch.stack([reduce(part if axis == 1 else part.float(), axis) for part in parts], dim=axis)
    return block.float().numpy()


def _stretched(values: Array, pieces: Sequence[Sequence[Piece]]) -> Array:
    """``values`` (M, a, b, c) at the target's voxels, of which each axis has its pieces (M, a', b', c')."""
    for axis, side in reversed([*enumerate(pieces, 1)]):
        if all(piece.shares is None for piece in side):
            continue
        first, begin = side[0].source.start, side[0].target.start
        old = values.reshape(prod(values.shape[:axis]), values.shape[axis], -1)
        new = np.empty((len(old), side[-1].target.stop - begin, old.shape[2]), np.float32)
        for piece in side:
            source = old[:, piece.source.start - first : piece.source.stop - first]
            target = new[:, piece.target.start - begin : piece.target.stop - begin]
            if piece.shares is None:
                target[:] = source
            elif source.shape[2] == 1:
                np.matmul(source[..., 0], piece.shares.numpy().T, out=target[..., 0])
            else:
                np.matmul(piece.shares.numpy(), source, out=target)
        values = new.reshape(*values.shape[:axis], new.shape[1], *values.shape[axis + 1 :])
    return values


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
