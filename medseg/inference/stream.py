"""Slabs of windows: a ring of planes holds what windows still reach, finished planes leave at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.errors import ModelError
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.data.preprocess import ByWindow
from medseg.inference.windows import SMALLEST_WEIGHT, Triple, gaussian_weights, reaching, window_starts

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


def stream_logits(
    image: Array | ByWindow,
    predict: Predict,
    *,
    channels: int,
    window: Triple,
    axis: int,
    order: Triple = (0, 1, 2),
    overlap: float = 0.5,
    batch: int = 1,
    dtype: torch.dtype = torch.float32,
    exclusive: bool = False,
    as_nnunet: bool = False,
    weigh: Callable[[Triple], Array] = gaussian_weights,
    within: Box | None = None,
    progress: Progress = silent,
) -> Iterator[Tensor]:
    """Blended logits of ``image`` (C, I, J, K), yielded as slabs of finished planes along ``axis``, in order.

    Each slab is (channels, n, A, B) of ``dtype``: ``axis`` first, the other two in their order. It is a view of the ring and
    is overwritten when the next one is asked for. Together the slabs are exactly the all-at-once mean over the same windows
    with the weights of ``weigh``. A volume smaller than the window is padded with zeros on both sides and the padding is cut off
    again. Windows in which each channel is one constant value have the same logits, which are computed once. Memory:
    ``channels`` x one window's depth of planes, and one window's logits. ``within``: a box of the image, to which the slabs
    are cut; only the windows that reach into it run, so that they have the bits that they have without it.

    float16 rounds at the fourth digit. Where structures are ``exclusive``, the largest of a voxel's logits is taken from all
    of them first: what is nearly the largest is then nearly 0 and exact, and no order, arg-max or softmax changes.
    ``as_nnunet``: float16 with the roundings of nnU-Net 2.8.1 instead, whose weights are ten times as large and whose windows
    come in ``order``. Raises ModelError where that overflows.
    """
    shape = image.shape[1:]
    padding = [(max(0, w - n) // 2, max(0, w - n) - max(0, w - n) // 2) for n, w in zip(shape, window, strict=True)]
    source = image if isinstance(image, ByWindow) else np.ascontiguousarray(image)
    if any(a or b for a, b in padding):
        source = np.pad(source[:, :, :, :], [(0, 0), *padding])
    outer = (source.shape[1], source.shape[2], source.shape[3])
    keep = tuple(slice(a, a + n) for (a, _), n in zip(padding, shape, strict=True))
    starts = sorted(window_starts(outer, window, overlap), key=lambda s: (s[axis], *(s[a] for a in order)))
    if within is not None:
        keep = tuple(slice(a + s.start, a + s.stop) for (a, _), s in zip(padding, within, strict=True))
        starts, hull = reaching(starts, window, keep)
        source = source[(slice(None), *hull)] if isinstance(source, np.ndarray) else source.part(hull)
        outer = (source.shape[1], source.shape[2], source.shape[3])
        keep = tuple(slice(k.start - h.start, k.stop - h.start) for k, h in zip(keep, hull, strict=True))
    ring = _Ring.of(channels, outer, weigh(window), axis, dtype, exclusive, as_nnunet)
    done = 0
    constants = _Constants(predict)
    for level in sorted({s[axis] for s in starts}):
        yield from ring.advance_to(level, keep)
        row = [s for s in starts if s[axis] == level]
        for group in _groups(source, row, window, batch):
            for start, logits in _found(group, predict, constants):
                ring.add(logits, start)
            done += len(group)
            progress("windows", done, len(starts))
    yield from ring.advance_to(outer[axis], keep)


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


@dataclass
class _Ring:
    """Weighted sums (K, ...) and weights of the planes ``base`` to ``base + depth``; plane p lies at p modulo ``depth``."""

    sums: Tensor
    norm: Tensor
    weights: Tensor
    window: Triple
    axis: int
    exclusive: bool
    base: int = 0

    @classmethod
    def of(
        cls,
        channels: int,
        outer: Triple,
        weights: Array,
        axis: int,
        dtype: torch.dtype,
        exclusive: bool,
        as_nnunet: bool,
    ) -> "_Ring":
        i, j, k = weights.shape
        size = [weights.shape[axis] if a == axis else n for a, n in enumerate(outer)]
        norm = torch.zeros(*size)
        if as_nnunet:
            weights, dtype, exclusive = (10 * weights).astype(np.float16).astype(np.float32), torch.float16, False
            norm = norm.half()
        elif dtype == torch.float16:  # which holds nothing smaller than 6e-8
            weights = np.maximum(weights, SMALLEST_WEIGHT)
        sums = torch.zeros(channels, *size, dtype=dtype)
        return cls(sums, norm, torch.from_numpy(weights), (i, j, k), axis, exclusive)

    @property
    def depth(self) -> int:
        return self.window[self.axis]

    def _runs(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Planes ``start`` to ``stop``, cut where the ring closes."""
        around = start - start % self.depth + self.depth
        return [(start, stop)] if stop <= around else [(start, around), (around, stop)]

    def add(self, logits: Tensor, start: Triple) -> None:
        """Add the ``logits`` (K, *window) of the window at ``start``, weighted."""
        first = start[self.axis]
        for low, high in self._runs(first, first + self.depth):
            place = [slice(s, s + w) for s, w in zip(start, self.window, strict=True)]
            place[self.axis] = slice(low % self.depth, low % self.depth + high - low)
            part = logits.narrow(self.axis + 1, low - first, high - low)
            weights = self.weights.narrow(self.axis, low - first, high - low)
            sums = self.sums[(slice(None), *place)]
            if sums.dtype == part.dtype:
                sums.addcmul_(part, weights)
            else:  # rounded once, one output after the other: no temporary of all of them
                top = part.amax(dim=0) if self.exclusive else torch.zeros(())
                for sum_, output in zip(sums, part, strict=True):
                    sum_.copy_(sum_.to(output.dtype).add_((output - top).mul_(weights)))
            self.norm[tuple(place)] += weights

    def advance_to(self, plane: int, keep: Sequence[slice]) -> Iterator[Tensor]:
        """Yield what is finished before ``plane``, cut to ``keep``, and make its place free."""
        for low, high in self._runs(self.base, plane) if plane > self.base else ():
            at = low % self.depth
            sums, norm = (t.narrow(t.ndim - 3 + self.axis, at, high - low) for t in (self.sums, self.norm))
            inside = list(keep)
            inside[self.axis] = slice(
                min(max(keep[self.axis].start, low), high) - low, max(min(keep[self.axis].stop, high), low) - low
            )
            if inside[self.axis].stop > inside[self.axis].start:
                for sum_ in sums:
                    sum_.div_(norm)
                    if norm.dtype == torch.float16 and not sum_.isfinite().all():
                        raise ModelError(
                            "logits are too large for sums in float16, as nnU-Net makes them; run it with --accumulators f32"
                        )
                yield sums[(slice(None), *inside)].movedim(self.axis + 1, 1)
            sums.zero_()
            norm.zero_()
        self.base = plane
