"""Whether probabilities mean what they say: of the voxels given 80 %, are 80 % the structure?

All figures are over the voxels of a box around the reference, 10 mm wider on every side and cut at the border of the image: over
a whole image the background, of which every model is sure, makes any figure look good. The box hangs on the reference
alone, so that it is the same for every model. Without a reference there is none, and every figure is undefined, also
where a model claims the structure.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import Geometry

Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Box = tuple[slice, slice, slice]
BINS = 15  # as Guo et al. 2017
MARGIN_MM = 10.0
CALIBRATION = (
    f"over the box around the reference, {MARGIN_MM:g} mm wider on every side; ece in {BINS} bins of equal width; ece and brier "
    "of each structure against the rest, ece_top_label of the most probable label and brier_multiclass of all labels together, "
    "over the box around all structures; undefined without a reference; a missed structure is scored as any other"
)


@dataclass(frozen=True, eq=False)
class Forecast:
    """Of one structure ``probability`` and ``truth``, in a box, any shape but one; both of size 0 where there is no reference."""

    probability: Floats
    truth: Mask


@dataclass(frozen=True, eq=False)
class CaseForecast:
    """Of all labels ``probabilities`` (C, ...), the background first, and ``truth`` (...), the channel that is true, in a box."""

    probabilities: Floats
    truth: npt.NDArray[np.integer]


def ece(forecast: Forecast) -> float:
    """Expected calibration error of a structure's probability, from 0 to 1, the lower the better; NaN without a reference.

    The sum over bins B of |B| / n times |mean probability in B - part of B that is the structure|, with 15 bins of equal width,
    each with its upper limit. Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602; bins and name as Guo et al. 2017,
    https://proceedings.mlr.press/v70/guo17a.html. 0 also for a model that gives every voxel the prevalence: read it with brier.
    """
    return _expected_error(forecast.probability, forecast.truth)


def brier(forecast: Forecast) -> float:
    """Brier score of a structure's probability: the mean of (p - y)², from 0 to 1, the lower the better; NaN without a reference.

    y is 1 in the structure and 0 outside. Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2, there summed over both
    outcomes and so twice as large.
    """
    if not forecast.truth.size:
        return math.nan
    return float(np.mean((forecast.probability.astype(np.float64) - forecast.truth) ** 2))


def ece_top_label(forecast: CaseForecast) -> float:
    """Expected calibration error of the most probable label: as ``ece``, of its probability and whether it is the true one.

    Guo et al. 2017, https://proceedings.mlr.press/v70/guo17a.html. Ties go to the first label.
    """
    if not forecast.truth.size:
        return math.nan
    top = forecast.probabilities.argmax(axis=0)
    return _expected_error(forecast.probabilities.max(axis=0), top == forecast.truth)


def brier_multiclass(forecast: CaseForecast) -> float:
    """Brier score of all labels: the mean over voxels of the sum over labels of (p - y)², from 0 to 2, the lower the better.

    Brier 1950, doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2.
    """
    if not forecast.truth.size:
        return math.nan
    total = sum(
        float(np.sum((p.astype(np.float64) - (forecast.truth == channel)) ** 2))
        for channel, p in enumerate(forecast.probabilities)
    )
    return total / forecast.truth.size


def box_around(mask: Mask, grid: Geometry) -> Box | None:
    """The box around ``mask`` (I, J, K), 10 mm wider on every side and cut at the border; None where the mask is empty.

    On a sheared grid 10 mm along each axis of voxels.
    """
    sides = []
    for axis, spacing in enumerate(grid.spacing_mm):
        held = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(held):
            return None
        more = math.ceil(MARGIN_MM / spacing - 1e-6)
        sides.append(slice(max(0, int(held[0]) - more), min(grid.shape[axis], int(held[-1]) + 1 + more)))
    return sides[0], sides[1], sides[2]


def _expected_error(probability: Floats, truth: Mask) -> float:
    if not truth.size:
        return math.nan
    p = probability.astype(np.float64).ravel()
    bins = np.clip(np.ceil(p * BINS).astype(np.intp) - 1, 0, BINS - 1)
    said = np.bincount(bins, p, minlength=BINS)
    true = np.bincount(bins, truth.ravel().astype(np.float64), minlength=BINS)
    return float(np.abs(said - true).sum() / p.size)
