"""Slabs of windows: only the planes that windows still reach are held, finished ones leave at once."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.inference.windows import Triple, gaussian_weights, window_starts

Predict = Callable[[Tensor], Tensor]
"""Patches (B, C, *window) float32 -> logits (B, K, *window) float32, both on the CPU."""

Array = npt.NDArray[np.float32]


def stream_logits(
    image: Array, predict: Predict, *, channels: int, window: Triple, axis: int, overlap: float = 0.5, batch: int = 1
) -> Iterator[Tensor]:
    """Blended logits of ``image`` (C, I, J, K), yielded as slabs of finished planes along ``axis``, in order.

    Each slab is (channels, n, A, B): ``axis`` first, the other two in their order. Together the slabs are exactly the
    all-at-once Gaussian-weighted mean over the same windows. A volume smaller than the window is padded with zeros on
    both sides and the padding is cut off again. Memory: ``channels`` x one window's depth of planes.
    """
    shape = image.shape[1:]
    padding = [(max(0, w - n) // 2, max(0, w - n) - max(0, w - n) // 2) for n, w in zip(shape, window, strict=True)]
    padded = np.pad(image, [(0, 0), *padding]) if any(a or b for a, b in padding) else image
    source = torch.from_numpy(np.ascontiguousarray(padded))
    outer = source.shape[1:]
    plane = [outer[a] for a in range(3) if a != axis]
    weights = torch.from_numpy(gaussian_weights(window)).movedim(axis, 0)
    keep = tuple(slice(padding[a][0], outer[a] - padding[a][1]) for a in range(3) if a != axis)
    first, last = padding[axis][0], outer[axis] - padding[axis][1]

    depth = window[axis]
    sums, norm = torch.zeros(channels, depth, *plane), torch.zeros(depth, *plane)
    base = 0  # the plane of the volume that lies at index 0 of the accumulators
    starts = sorted(window_starts((outer[0], outer[1], outer[2]), window, overlap), key=lambda s: (s[axis], s))
    for level in sorted({s[axis] for s in starts}):
        done = level - base
        if done:
            yield from _finished(sums, norm, base, done, first, last, keep)
            sums, norm, base = _advance(sums, done), _advance(norm, done), level
        row = [s for s in starts if s[axis] == level]
        for n in range(0, len(row), batch):
            group = row[n : n + batch]
            cuts = [tuple(slice(a, a + w) for a, w in zip(s, window, strict=True)) for s in group]
            logits = predict(torch.stack([source[(slice(None), *cut)] for cut in cuts]))
            for cut, result in zip(cuts, logits, strict=True):
                inside = (slice(None), *(cut[a] for a in range(3) if a != axis))
                sums[(slice(None), *inside)] += result.movedim(axis + 1, 1) * weights
                norm[inside] += weights
    yield from _finished(sums, norm, base, depth, first, last, keep)


def _finished(
    sums: Tensor, norm: Tensor, base: int, done: int, first: int, last: int, keep: tuple[slice, ...]
) -> Iterator[Tensor]:
    low, high = max(base, first) - base, min(base + done, last) - base
    if high > low:
        yield sums[:, low:high, *keep] / norm[low:high, *keep]


def _advance(accumulator: Tensor, done: int) -> Tensor:
    """Move the accumulator ``done`` planes on; what comes in is zero."""
    axis = accumulator.ndim - 3
    moved = torch.zeros_like(accumulator)
    rest = accumulator.shape[axis] - done
    if rest > 0:
        moved.narrow(axis, 0, rest).copy_(accumulator.narrow(axis, done, rest))
    return moved
