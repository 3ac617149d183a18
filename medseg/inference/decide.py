"""From the logits of a few voxels to their channels: the largest output, or regions in the order in which they write."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Channels = npt.NDArray[np.uint8 | np.uint16]

ROUNDING = 1e-5  # more than interpolation in single precision moves a value, relative to the largest one


class Decide(Protocol):
    """How logits become channels. What must see every voxel's values says that all outputs matter and none is certain."""

    def matter(self, low: Array, high: Array) -> Mask:
        """Which outputs (K, ...) can have a say where each one's logits lie between ``low`` and ``high`` (K, ...)."""

    def certain(self, outputs: Sequence[int]) -> int | None:
        """The channel everywhere when ``outputs`` alone matter, where that is known without their values."""

    def __call__(self, values: Iterable[Array], outputs: Sequence[int]) -> Channels:
        """The channels of some voxels from the logits of ``outputs``, of the same shape, one after the other."""


def channel_type(largest: int) -> np.dtype[np.uint8 | np.uint16]:
    """The smallest type that holds channel numbers up to ``largest``."""
    return np.dtype(np.uint8 if largest < 256 else np.uint16)


@dataclass(frozen=True)
class _Largest:
    """The output with the largest logit, in ``float16`` once all are rounded to it; the lowest one wins a tie."""

    float16: bool = False

    def matter(self, low: Array, high: Array) -> Mask:
        reached = low.max(axis=0)
        relative = ROUNDING + (float(np.finfo(np.float16).eps) if self.float16 else 0.0)
        slack = relative * np.maximum(np.abs(low), np.abs(high)).max(axis=0)
        return np.asarray(~(high < reached - slack))  # not-a-number matters, too

    def certain(self, outputs: Sequence[int]) -> int | None:
        return outputs[0] if len(outputs) == 1 else None

    def __call__(self, values: Iterable[Array], outputs: Sequence[int]) -> Channels:
        dtype = channel_type(outputs[-1])
        several = map(_in_float16, values) if self.float16 else iter(values)
        best = np.array(next(several))
        winner = np.full_like(best, outputs[0], dtype)
        wins, written = np.empty_like(best, bool), np.empty_like(winner)
        for value, output in zip(several, outputs[1:], strict=True):
            np.greater(value, best, out=wins)
            # Outputs come in ascending order, so the later of two winners is the larger number: no branch, all lanes.
            np.maximum(winner, np.multiply(wins, output, out=written, dtype=dtype), out=winner)
            np.maximum(best, value, out=best)
        return winner


def _in_float16(values: Array) -> Array:
    """Rounded by torch, which takes a seventh of numpy's time."""
    rounded: Array = torch.from_numpy(values).half().float().numpy()
    return rounded


largest: Decide = _Largest()
largest_in_float16: Decide = _Largest(float16=True)
"""As nnU-Net decides: its function that resamples float16 logits rounds what comes out, so that close ones are equal."""


@dataclass(frozen=True)
class _RegionsInOrder:
    """See ``regions_in_order``."""

    writes: Sequence[int]
    above: float

    def matter(self, low: Array, high: Array) -> Mask:
        return np.asarray(~(high <= self.above))

    def certain(self, outputs: Sequence[int]) -> int | None:
        return None if outputs else 0

    def __call__(self, values: Iterable[Array], outputs: Sequence[int]) -> Channels:
        written = np.zeros(0, channel_type(max(self.writes)))
        for value, output in zip(values, outputs, strict=True):
            if not written.size:
                written = np.zeros_like(value, written.dtype)
            written[value > self.above] = self.writes[output]
        return written


def regions_in_order(writes: Sequence[int], *, above: float = 0.0) -> Decide:
    """Each region, where its output is ``above`` that, writes its channel of ``writes`` over the regions before it.

    A probability of one half is a logit of 0.
    """
    return _RegionsInOrder(writes, above)
