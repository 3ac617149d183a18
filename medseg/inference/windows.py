"""Where the windows lie and how much each voxel of one counts."""

import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import numpy.typing as npt

from medseg.core.boxes import Box

Triple = tuple[int, int, int]
Place = Callable[[int, int, float], list[int]]
SMALLEST_WEIGHT = np.float32(1e-3)


def axis_starts(size: int, window: int, overlap: float) -> list[int]:
    """Starts of the fewest windows that cover ``size`` voxels with at least ``overlap`` (0 to < 1) of a window shared.

    >>> axis_starts(100, 40, 0.5)
    [0, 20, 40, 60]
    >>> axis_starts(30, 40, 0.5)
    [0]
    """
    if size <= window:
        return [0]
    steps = math.ceil((size - window) / max(1.0, window * (1.0 - overlap)))
    return [round(n * (size - window) / steps) for n in range(steps + 1)]


def fixed_starts(size: int, window: int, overlap: float) -> list[int]:
    """Starts that lie as far apart as ``overlap`` says, but for the last one: MONAI's sliding windows.

    >>> fixed_starts(95, 40, 0.25)
    [0, 30, 55]
    """
    step = max(1, int(window * (1 - overlap)))
    return [min(n, size - window) for n in range(0, size - window + step, step)] if size > window else [0]


STARTS: dict[str, Place] = {"even": axis_starts, "fixed": fixed_starts}  # by Plan.feed.starts


def window_starts(shape: Triple, window: Triple, overlap: float, place: Place = axis_starts) -> list[Triple]:
    """Starts (i, j, k) of all windows over ``shape``, which is at least ``window`` along each axis."""
    axes = (place(n, w, overlap) for n, w in zip(shape, window, strict=True))
    return [(i, j, k) for i, j, k in product(*axes)]


def reaching(starts: Sequence[Triple], window: Triple, box: Sequence[slice]) -> tuple[list[Triple], Box]:
    """Which windows reach into ``box``, from the first corner of the box around them all, and that box."""
    found = [
        start
        for start in starts
        if all(s < b.stop and s + w > b.start for s, w, b in zip(start, window, box, strict=True))
    ]
    i, j, k = (min(side) for side in zip(*found, strict=True))
    ends = (max(side) + w for side, w in zip(zip(*found, strict=True), window, strict=True))
    hull = tuple(slice(low, high) for low, high in zip((i, j, k), ends, strict=True))
    return [(a - i, b - j, c - k) for a, b, c in found], (hull[0], hull[1], hull[2])


def gaussian_weights(window: Triple, sigma: float = 0.125) -> npt.NDArray[np.float32]:
    """Weights (I, J, K) of a window: a Gaussian of ``sigma`` window sizes about its centre, 1 there and never below 1e-3.

    Source: Isensee 2021, doi:10.1038/s41592-020-01008-z.
    """
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / max(n * sigma, 1e-6)) ** 2) for n in window]
    weights = np.einsum("i,j,k->ijk", *axes)
    scaled: npt.NDArray[np.float32] = np.maximum(weights / weights.max(), SMALLEST_WEIGHT).astype(np.float32)
    return scaled


def nnunet_weights(window: Triple) -> npt.NDArray[np.float32]:
    """The weights (I, J, K) of nnU-Net's predictor: about voxel n // 2 of an axis, rounded to float16 at a largest of 10.

    Where that rounds to 0 stands the smallest weight above it. Source: Isensee 2021, doi:10.1038/s41592-020-01008-z.
    """
    axes = []
    for n in window:
        away = np.arange(n) - n // 2
        reached = np.abs(away) <= int(4.0 * n / 8 + 0.5)  # scipy's gaussian_filter is cut off there
        axes.append(np.exp(-0.5 * (away / (n / 8)) ** 2) * reached)
    half = (10 * np.einsum("i,j,k->ijk", *axes)).astype(np.float16)
    half[half == 0] = half[half > 0].min()
    weights: npt.NDArray[np.float32] = half.astype(np.float32) / np.float32(10)
    return weights


def constant_weights(window: Triple) -> npt.NDArray[np.float32]:
    """Weights (I, J, K) of a window in which every voxel counts alike."""
    return np.ones(window, np.float32)


def monai_weights(window: Triple) -> npt.NDArray[np.float32]:
    """The weights (I, J, K) of MONAI's gaussian mode: a Gaussian that is cut off at 1e-3, whatever its largest value is."""
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n * 0.125)) ** 2) for n in window]
    weights: npt.NDArray[np.float32] = np.maximum(np.einsum("i,j,k->ijk", *axes), SMALLEST_WEIGHT).astype(np.float32)
    return weights


BLENDS = {
    "gaussian": gaussian_weights,
    "nnunet": nnunet_weights,
    "monai": monai_weights,
    "constant": constant_weights,
}  # by Plan.feed.blend
