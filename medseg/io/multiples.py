"""Intensities that once were integers times a slope, as scanners store them: the integers and the slope found again."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

_SAMPLE = 2**20
_ROUNDS = 4
_MOST = 1.1 * 2**16


def as_multiples(
    values: npt.NDArray[Any], decimal: Callable[[float], str] = repr
) -> tuple[npt.NDArray[np.int16 | np.uint16], float] | None:
    """``(n, slope)`` with ``values`` = n * slope to the last bit of float32; None where there is no such slope.

    The slope is the middle of all those that round to the sampled values, as ``decimal`` writes it; every value is then
    compared. ``values`` (I, J, K) are finite; other types than float32 give None.
    """
    if values.dtype != np.float32:
        return None
    flat = values.reshape(-1)
    sample = np.unique(flat[:: max(1, flat.size // _SAMPLE)]).astype(np.float64)
    slope = _slope(sample) if len(sample) > 2 else None
    if slope is None:
        return None
    slope = float(decimal(slope))
    low, high = (round(float(end) / slope) for end in (values.min(), values.max()))
    if low >= -(2**15) and high < 2**15:
        dtype: type[np.int16 | np.uint16] = np.int16
    elif low >= 0 and high < 2**16:
        dtype = np.uint16
    else:
        return None
    found = np.empty(values.shape, dtype)
    for k in range(values.shape[2]):  # slice by slice: memory
        found[:, :, k] = np.rint(values[:, :, k] / np.float64(slope))
        if not np.array_equal((found[:, :, k] * np.float64(slope)).astype(np.float32), values[:, :, k]):
            return None
    return found, slope


def _slope(sample: npt.NDArray[np.float64]) -> float | None:
    """The slope of which the sorted, different float32 of ``sample`` are rounded multiples; None where there is none."""
    steps = np.diff(sample)
    slope = float(steps.min())
    for _ in range(_ROUNDS):  # the smallest step is one slope, give or take the rounding of two values
        slope = float(np.median(steps[steps < 1.5 * slope]))
    largest = float(np.abs(sample).max())
    if largest > _MOST * slope:
        return None
    reach = 8 * slope
    while True:  # least squares through 0, from small counts, which cannot be mistaken, to large ones
        near = sample[np.abs(sample) <= reach]
        counts = np.rint(near / slope)
        if counts.any():
            slope = float(near @ counts) / float(counts @ counts)
        if reach >= largest:
            break
        reach *= 2
    counts = np.rint(sample / slope)
    some = counts != 0
    half = np.spacing(np.abs(sample[some]).astype(np.float32)).astype(np.float64) / 2
    ends = np.stack([(sample[some] - half) / counts[some], (sample[some] + half) / counts[some]])
    least, most = ends.min(axis=0).max(), ends.max(axis=0).min()
    return float(least + most) / 2 if least <= most else None
