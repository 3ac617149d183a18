"""From slabs of logits on the plan's grid to a channel map on the scan's grid, one class and one slab at a time."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.inference.windows import Triple


def linear_matrix(source: int, target: int) -> npt.NDArray[np.float32]:
    """Linear interpolation (target, source) along one axis: voxel faces aligned, edges repeated."""
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    share = (position - low).astype(np.float32)
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, low] += 1 - share
    matrix[rows, high] += share
    return matrix


Decide = Callable[[Iterable[Tensor]], Tensor]
"""Logits of a slab, one output after the other, to its channels (int32): only one output is held at a time."""


def largest(outputs: Iterable[Tensor]) -> Tensor:
    """The output with the largest logit; the lowest one wins a tie."""
    best: Tensor | None = None
    winner = torch.zeros(0)
    for channel, value in enumerate(outputs):
        if best is None:
            best, winner = value.clone(), torch.zeros(value.shape, dtype=torch.int32)
        else:
            wins = value > best
            winner.masked_fill_(wins, channel)
            torch.maximum(best, value, out=best)
    return winner


def regions_in_order(writes: Sequence[int]) -> Decide:
    """Each region, where its probability is above one half, writes its channel of ``writes`` over the regions before it."""

    def decide(outputs: Iterable[Tensor]) -> Tensor:
        written = torch.zeros(0)
        for value, channel in zip(outputs, writes, strict=True):
            if not written.numel():
                written = torch.zeros(value.shape, dtype=torch.int32)
            written.masked_fill_(value > 0.0, channel)
        return written

    return decide


def restore(
    slabs: Iterable[Tensor],
    *,
    source: Triple,
    target: Triple,
    axis: int,
    dtype: npt.DTypeLike,
    decide: Decide = largest,
) -> npt.NDArray[np.unsignedinteger]:
    """The channel that ``decide`` finds for each voxel of ``target`` (I, J, K), in ``dtype``.

    ``slabs`` (K, n, A, B) come in order along ``axis`` and cover ``source``; logits are interpolated linearly over the
    same field of view. No more than one output of one slab is held at the target's resolution.
    """
    across = [a for a in range(3) if a != axis]
    plane = tuple(target[a] for a in across)
    in_plane = [
        None if source[a] == target[a] else torch.from_numpy(linear_matrix(source[a], target[a])) for a in across
    ]
    along = linear_matrix(source[axis], target[axis])
    needed = np.array([row.nonzero()[0].max() for row in along])  # last source plane of each target plane
    result = np.zeros((target[axis], *plane), np.dtype(dtype))
    held: Tensor | None = None
    base = emitted = 0
    for slab in slabs:
        held = slab if held is None else torch.cat([held, slab], dim=1)
        available = base + held.shape[1]
        end = int(np.searchsorted(needed, available, side="left"))
        if end > emitted:
            rows = torch.from_numpy(along[emitted:end, base:available])
            result[emitted:end] = decide(_at_target(held, rows, in_plane)).numpy()
            emitted = end
            if end < target[axis]:
                # Where planes are skipped, the next one needed may lie in a slab that has not come yet.
                drop = min(int(along[end].nonzero()[0].min()) - base, held.shape[1])
                held, base = held[:, drop:], base + drop
        held = held.clone()  # the next slab overwrites this one
    if emitted != target[axis]:
        raise ValueError(
            f"the slabs cover {base + (held.shape[1] if held is not None else 0)} of {source[axis]} planes"
        )
    return np.moveaxis(result, 0, axis)


def _at_target(held: Tensor, rows: Tensor, in_plane: list[Tensor | None]) -> Iterator[Tensor]:
    """The logits of one output after the other, interpolated."""
    for logits in held:
        value = logits.float()
        value = value if _is_identity(rows) else torch.tensordot(rows, value, dims=1)
        if in_plane[0] is not None:
            value = in_plane[0] @ value
        if in_plane[1] is not None:
            value = value @ in_plane[1].T
        yield value


def _is_identity(rows: Tensor) -> bool:
    return rows.shape[0] == rows.shape[1] and bool((rows == torch.eye(rows.shape[0])).all())
