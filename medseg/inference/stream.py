"""Windows one after another: bricks hold what windows to come still reach, and leave as soon as they are finished."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.data.preprocess import ByWindow
from medseg.inference.bricks import Bricks, cuts_for
from medseg.inference.windows import Place, Triple, axis_starts, gaussian_weights, reaching, window_starts

Predict = Callable[[Tensor], Tensor]
"""Patches (B, C, *window) float32 -> logits (B, K, *window) float32, both on the CPU."""

CONSTANT_BYTES = 2**27
"""Logits of a constant window that are larger are held for its neighbours alone: 104 outputs of 96^3 windows are 368 MB."""

Array = npt.NDArray[np.float32]


def slab_axis(shape: Triple, window: Triple) -> int:
    """The axis along which a slab of one window's depth is smallest; the longest one of equals."""
    outer = [max(n, w) for n, w in zip(shape, window, strict=True)]
    return min(range(3), key=lambda a: (window[a] * prod(outer) / outer[a], -outer[a]))


def window_order(shape: Triple, plan: Plan, accumulators: str) -> Triple:
    """The axes along which windows follow each other, slowest first; slabs lie along the first.

    nnU-Net's where its roundings are wanted, else those that hold least.
    """
    if accumulators == "nnunet" and plan.feed.window_axes is not None:
        return plan.feed.window_axes
    first = slab_axis(shape, plan.patch_size)
    second, third = (axis for axis in range(3) if axis != first)
    return first, second, third


def stream_bricks(
    image: Array | ByWindow,
    predict: Predict,
    *,
    channels: int,
    window: Triple,
    order: Triple,
    planes: bool = False,
    overlap: float = 0.5,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    exclusive: bool = False,
    as_nnunet: bool = False,
    weigh: Callable[[Triple], Array] = gaussian_weights,
    place: Place = axis_starts,
    within: Box | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[Box, Tensor]]:
    """Blended logits of ``image`` (C, I, J, K) in bricks, each as soon as it is finished: its box, and (channels, *box).

    Windows follow each other by ``order`` of the axes, slowest first. Each voxel comes once, in ``dtype``; a brick is
    overwritten when the next one is asked for. Together they are exactly the all-at-once mean over the same windows with the
    weights of ``weigh``. With ``planes`` a brick spans the other two axes, and they come in order along the first. A volume
    smaller than the window is padded with zeros on both sides and the padding is cut off again. Windows in which each channel
    is one constant value have the same logits, which are computed once. Memory: ``bricks.most_voxels``, and one window's
    logits. ``within``: the box of the image that is wanted, from whose corner boxes count; only the windows that reach into it
    run, so that its voxels have the bits that they have without it.

    ``dtype``, ``exclusive`` and ``as_nnunet``: see ``Bricks``. Raises ModelError where float16 overflows.
    """
    shape = image.shape[1:]
    padding = [(max(0, w - n) // 2, max(0, w - n) - max(0, w - n) // 2) for n, w in zip(shape, window, strict=True)]
    source = image if isinstance(image, ByWindow) else np.ascontiguousarray(image)
    if any(a or b for a, b in padding):
        source = np.pad(source[:, :, :, :], [(0, 0), *padding])
    outer = (source.shape[1], source.shape[2], source.shape[3])
    keep = tuple(slice(a, a + n) for (a, _), n in zip(padding, shape, strict=True))
    starts = sorted(window_starts(outer, window, overlap, place), key=lambda s: [s[a] for a in order])
    if within is not None:
        keep = tuple(slice(a + s.start, a + s.stop) for (a, _), s in zip(padding, within, strict=True))
        starts, hull = reaching(starts, window, keep)
        source = source[(slice(None), *hull)] if isinstance(source, np.ndarray) else source.part(hull)
        outer = (source.shape[1], source.shape[2], source.shape[3])
        keep = tuple(slice(k.start - h.start, k.stop - h.start) for k, h in zip(keep, hull, strict=True))
    cuts = cuts_for(starts, window, outer, order, planes=planes)
    bricks = Bricks(channels, starts, weigh(window), cuts, dtype, exclusive, as_nnunet)
    done = 0
    constants = _Constants(predict)
    for group in _groups(source, starts, window, batch):
        for start, logits in _found(group, predict, constants):
            for box, mean in bricks.add(logits, start):
                low = [max(b.start, k.start) for b, k in zip(box, keep, strict=True)]
                high = [min(b.stop, k.stop) for b, k in zip(box, keep, strict=True)]
                if all(a < b for a, b in zip(low, high, strict=True)):
                    inside = (slice(a - b.start, z - b.start) for a, z, b in zip(low, high, box, strict=True))
                    i, j, k = (slice(a - b.start, z - b.start) for a, z, b in zip(low, high, keep, strict=True))
                    yield (i, j, k), mean[(slice(None), *inside)]
                del mean
            del logits  # before the next ones are made: of 104 outputs they are 0.4 GB
        done += len(group)
        progress("windows", done, len(starts))


def stream_logits(
    image: Array | ByWindow, predict: Predict, *, axis: int, order: Triple = (0, 1, 2), **options: Any
) -> Iterator[Tensor]:
    """``stream_bricks`` in slabs of whole planes (channels, n, A, B) along ``axis``, which is first; the others in their order."""
    second, third = (a for a in order if a != axis)
    for _, mean in stream_bricks(image, predict, order=(axis, second, third), planes=True, **options):
        yield mean.movedim(axis + 1, 1)


_Patch = tuple[Triple, Tensor, bool]


def _groups(source: Array | ByWindow, row: Sequence[Triple], window: Triple, batch: int) -> Iterator[list[_Patch]]:
    """Windows in their order: ``start``, patch and whether it is constant; no more than ``batch`` of a group are not."""
    group: list[_Patch] = []
    for start in row:
        i, j, k = (slice(a, a + w) for a, w in zip(start, window, strict=True))
        patch = torch.from_numpy(source[:, i, j, k])
        group.append((start, patch, _is_constant(patch)))
        if sum(not constant for _, _, constant in group) == batch:
            yield group
            group = []
    if group:
        yield group


def _found(group: list[_Patch], predict: Predict, constants: "_Constants") -> Iterator[tuple[Triple, Tensor]]:
    """The logits (K, *window) of each window of ``group``, in its order."""
    varying = [patch for _, patch, constant in group if not constant]
    known = [constants.logits_of(patch) if constant else None for _, patch, constant in group]
    if varying:
        constants.make_room()
    results = iter(predict(torch.stack(varying)) if varying else ())
    for (start, _, _), logits in zip(group, known, strict=True):
        yield start, next(results) if logits is None else logits


def _is_constant(patch: Tensor) -> bool:
    """Whether each channel of ``patch`` (C, I, J, K) holds one value. Most patches show at a few voxels that they do not."""
    few = patch[:, :: max(1, patch.shape[1] // 4), :: max(1, patch.shape[2] // 4), :: max(1, patch.shape[3] // 4)]
    first = patch[:, :1, :1, :1]
    return bool((few == first).all()) and bool((patch == first).all())


@dataclass
class _Constants:
    """The logits of the last window that was constant, which mostly is the next one's, too."""

    predict: Predict
    value: Tensor | None = None
    logits: Tensor | None = None

    def logits_of(self, patch: Tensor) -> Tensor:
        value = patch[:, 0, 0, 0]
        if self.logits is None or self.value is None or not torch.equal(value, self.value):
            self.logits = None  # before the next one is made: only one is held
            self.value, self.logits = value.clone(), self.predict(patch[None])[0].clone()
        return self.logits

    def make_room(self) -> None:
        """Hold no more than ``CONSTANT_BYTES`` beside a forward pass."""
        if self.logits is not None and self.logits.nbytes > CONSTANT_BYTES:
            self.logits = None
