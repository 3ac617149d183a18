"""Weighted sums of windows, held in bricks: one is made when the first window reaches it, and leaves after the last."""

import mmap
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.errors import ModelError
from medseg.inference.windows import SMALLEST_WEIGHT, Triple

Cuts = tuple[list[int], list[int], list[int]]
"""For each axis the first voxel of each brick, in order, and the number of voxels."""

AT_ONCE = 2**21
"""Values that are rounded to float16 at once: the temporaries of more would count."""


def cuts_for(starts: Sequence[Triple], window: Triple, shape: Triple, order: Triple, *, planes: bool) -> Cuts:
    """Where windows that follow each other by ``order`` of the axes, slowest first, begin and end.

    With ``planes`` the first axis alone is cut. Else all but the last are: shorter runs through the memory would cost time.
    """

    def along(axis: int) -> list[int]:
        if axis in order[1 if planes else 2 :]:
            return [0, shape[axis]]
        return sorted({0, shape[axis], *(s[axis] for s in starts), *(s[axis] + window[axis] for s in starts)})

    return along(0), along(1), along(2)


def bricks_at(start: Triple, window: Triple, cuts: Cuts) -> Iterator[Triple]:
    """The bricks, by their numbers along the axes, that the window at ``start`` reaches."""
    sides = []
    for first, size, edges in zip(start, window, cuts, strict=True):
        sides.append(range(bisect_right(edges, first) - 1, bisect_right(edges, first + size - 1)))
    yield from product(*sides)


def rooms_for(cuts: Cuts) -> tuple[list[int], list[int], list[int]]:
    """The voxels along each axis for which each brick gets room: one number for sizes that are nearly the same."""

    def along(edges: list[int]) -> list[int]:
        sizes = [stop - start for start, stop in pairwise(edges)]
        rooms: dict[int, int] = {}
        room = max(sizes)
        for size in sorted(set(sizes), reverse=True):
            if size < room - max(2, room // 20):
                room = size
            rooms[size] = room
        return [rooms[size] for size in sizes]

    return along(cuts[0]), along(cuts[1]), along(cuts[2])


@dataclass
class Pool:
    """Rooms that are free again, for new bricks: memory that was never used before costs time.

    ``made``: what all rooms hold together, free or not; no more than bricks need at one time.
    """

    free: list[tuple[int, Any]] = field(default_factory=list)
    made: int = 0

    def take(self, size: int, make: Callable[[int], Any]) -> Any:
        """A room of ``size``; where none is free, others are let go for a new one."""
        for n, (found, room) in enumerate(self.free):
            if found == size:
                del self.free[n]
                return room
        let_go = 0
        while self.free and let_go < size:
            let_go += self.free.pop(0)[0]
        self.made += size - let_go
        return make(size)

    def give(self, size: int, room: Any) -> None:
        """Take a room back."""
        self.free.append((size, room))


def most_voxels(starts: Sequence[Triple], window: Triple, cuts: Cuts) -> int:
    """The voxels for which there is room at one time, at most, while windows come in the order of ``starts``."""
    rooms, pool, most = rooms_for(cuts), Pool(), 0
    left = Counter(brick for start in starts for brick in bricks_at(start, window, cuts))
    seen: set[Triple] = set()
    for start in starts:
        reached = {b: prod(r[n] for r, n in zip(rooms, b, strict=True)) for b in bricks_at(start, window, cuts)}
        for brick, size in reached.items():
            if brick not in seen:
                pool.take(size, lambda size: None)
        most = max(most, pool.made)
        seen |= reached.keys()
        left.subtract(reached.keys())
        for brick in reached:
            if not left[brick]:
                pool.give(reached[brick], None)
    return most


@dataclass
class Bricks:
    """Sums (K, ...) and weights (...) of the bricks that some of the windows at ``starts`` have reached and others not yet.

    float16 rounds at the fourth digit. Where outputs are ``exclusive``, the largest of a voxel's logits is taken from all of
    them first: what is nearly the largest is then nearly 0 and exact, and no order, arg-max or softmax changes.
    ``as_nnunet``: float16 with the roundings of nnU-Net 2.8.1 instead, whose weights are ten times as large.
    """

    outputs: int
    starts: Sequence[Triple]
    weights: npt.NDArray[np.float32]
    cuts: Cuts
    dtype: torch.dtype = torch.float32
    exclusive: bool = False
    as_nnunet: bool = False
    _held: dict[Triple, tuple[Tensor, Tensor, tuple[Tensor, Tensor]]] = field(default_factory=dict)
    _pool: Pool = field(default_factory=Pool)

    def __post_init__(self) -> None:
        i, j, k = self.weights.shape
        self._window = (i, j, k)
        self._rooms = rooms_for(self.cuts)
        self._left = Counter(brick for start in self.starts for brick in bricks_at(start, self._window, self.cuts))
        weights = self.weights
        if self.as_nnunet:
            weights, self.dtype, self.exclusive = (10 * weights).astype(np.float16), torch.float16, False
        elif self.dtype == torch.float16:  # which holds nothing smaller than 6e-8
            weights = np.maximum(weights, SMALLEST_WEIGHT)
        self._weights = torch.from_numpy(weights.astype(np.float32))
        self._norm_type = torch.float16 if self.as_nnunet else torch.float32

    def add(self, logits: Tensor, start: Triple) -> Iterator[tuple[Box, Tensor]]:
        """Add the ``logits`` (K, *window) of the window at ``start``; the bricks for which it was the last: box and mean (K, ...).

        A mean is overwritten when the next one is asked for. Raises ModelError where float16 overflows.
        """
        top = logits.amax(dim=0) if self.exclusive and self.dtype != logits.dtype else None
        done = []
        for brick in bricks_at(start, self._window, self.cuts):
            box = self._box(brick)
            sums, norm, _ = self._held.get(brick) or self._made(brick, [side.stop - side.start for side in box])
            here, there = [], []
            for side, first, size in zip(box, start, self._window, strict=True):
                low, high = max(side.start, first), min(side.stop, first + size)
                here.append(slice(low - side.start, high - side.start))
                there.append(slice(low - first, high - first))
            weights = self._weights[tuple(there)]
            _add(
                sums[(slice(None), *here)],
                logits[(slice(None), *there)],
                weights,
                None if top is None else top[tuple(there)],
            )
            norm[tuple(here)] += weights
            self._left[brick] -= 1
            if not self._left[brick]:
                done.append(brick)
        for brick in done:
            sums, norm, room = self._held.pop(brick)
            for sum_ in sums:
                sum_.div_(norm)
            if self.dtype == torch.float16 and not all(sum_.isfinite().all() for sum_ in sums):
                raise ModelError(
                    "what the network gives is too large for sums in float16; run it with --accumulators f32"
                )
            yield self._box(brick), sums
            self._pool.give(self._room(brick), room)

    def _room(self, brick: Triple) -> int:
        return prod(side[n] for side, n in zip(self._rooms, brick, strict=True))

    def _made(self, brick: Triple, shape: list[int]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Sums and weights of 0 for ``brick``, and the room that they lie in."""
        voxels = prod(shape)
        sums, norm = room = self._pool.take(self._room(brick), self._new)
        sums, norm = sums[: self.outputs * voxels].zero_(), norm[:voxels].zero_()
        self._held[brick] = sums.view(self.outputs, *shape), norm.view(shape), room
        return self._held[brick]

    def _new(self, room: int) -> tuple[Tensor, Tensor]:
        return _mapped(self.outputs * room, self.dtype), _mapped(room, self._norm_type)

    def _box(self, brick: Triple) -> Box:
        i, j, k = (slice(edges[n], edges[n + 1]) for edges, n in zip(self.cuts, brick, strict=True))
        return i, j, k


def _mapped(size: int, dtype: torch.dtype) -> Tensor:
    """Memory apart from the allocator's, whose heap would grow around what stays for long."""
    return torch.frombuffer(mmap.mmap(-1, size * dtype.itemsize), dtype=dtype)


def _add(sums: Tensor, logits: Tensor, weights: Tensor, top: Tensor | None) -> None:
    """Add weighted ``logits`` (K, ...) less ``top`` to ``sums``; those of another type are rounded once, a few at a time."""
    if sums.dtype == logits.dtype:
        sums.addcmul_(logits, weights)
        return
    some = max(1, AT_ONCE // weights.numel())
    for into, part in zip(torch.split(sums, some), torch.split(logits, some), strict=True):
        weighted = part * weights if top is None else (part - top).mul_(weights)
        into.copy_(into.to(part.dtype).add_(weighted))
