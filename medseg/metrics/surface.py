"""How far the surfaces of a prediction and its reference lie apart, in millimetres.

The plain names count voxels of the surface and equal MONAI's figures; those ending in ``_area`` weigh each piece of the
surface by its area, which does not depend on how finely the voxels cut it, and equal those of Nikolov et al. 2021
(doi:10.2196/26151). See ``distances`` for both surfaces and ``overlap`` for the policy on empty masks.

In the formulas P and R are the elements of the predicted and the reference surface, d(p, R) is the distance from p to the
nearest element of R, and D(P) the set of d(p, R) for all p in P.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from medseg.metrics.distances import SurfaceDistances
from medseg.metrics.pairs import MaskPair

Floats = npt.NDArray[np.float64]


def one_sided_mm(pair: MaskPair) -> float:
    """A distance where no distance can be measured: NaN where both masks are empty, else by the pair's rule for ``missed``."""
    if pair.state == "both_empty" or pair.rules.missed == "undefined":
        return math.nan
    return pair.grid.diagonal_mm


def hd(pair: MaskPair) -> float:
    """Hausdorff distance in mm: the largest of all d(p, R) and d(r, P). One stray voxel decides it.

    Huttenlocher et al. 1993, doi:10.1109/34.232073.
    """
    return _distance(pair, _largest)


def hd_area(pair: MaskPair) -> float:
    """Hausdorff distance in mm between the area surfaces; area plays no part in a maximum. doi:10.2196/26151."""
    return _distance_area(pair, _largest)


def hd95(pair: MaskPair) -> float:
    """95th percentile Hausdorff distance in mm: the larger of the 95th percentiles of D(P) and of D(R).

    The maximum of the two directed percentiles, not the percentile of both sets together, which is smaller.
    Percentiles interpolate linearly. Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    return _distance(pair, lambda s: float(max(np.percentile(s.prediction_mm, 95), np.percentile(s.reference_mm, 95))))


def hd95_area(pair: MaskPair) -> float:
    """95th percentile Hausdorff distance in mm by area: the least distance within which 95 % of the area of either surface lies.

    The larger of the two directions. Nikolov et al. 2021, doi:10.2196/26151.
    """
    return _distance_area(
        pair,
        lambda s: max(
            _percentile_by_area(s.prediction_mm, s.prediction_area),
            _percentile_by_area(s.reference_mm, s.reference_area),
        ),
    )


def assd(pair: MaskPair) -> float:
    """Average symmetric surface distance in mm: (sum of D(P) + sum of D(R)) / (|P| + |R|).

    Heimann et al. 2009, doi:10.1109/TMI.2009.2013851.
    """
    return _distance(pair, _pooled_mean)


def assd_area(pair: MaskPair) -> float:
    """Average symmetric surface distance in mm by area: the mean of D(P) and D(R) together, weighed by area.

    Nikolov et al. 2021, doi:10.2196/26151, whose two directed averages are here put together by their areas.
    """
    return _distance_area(pair, _pooled_mean)


def masd(pair: MaskPair) -> float:
    """Mean average surface distance in mm: the mean of the two directed averages, (mean of D(P) + mean of D(R)) / 2.

    Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    return _distance(pair, _mean_of_means)


def masd_area(pair: MaskPair) -> float:
    """Mean average surface distance in mm by area: the mean of the two directed averages of doi:10.2196/26151."""
    return _distance_area(pair, _mean_of_means)


def nsd(pair: MaskPair) -> float:
    """Normalised surface Dice: the part of both surfaces within ``tolerance_mm`` of the other, from 0 to 1.

    (|p: d(p, R) <= t| + |r: d(r, P) <= t|) / (|P| + |R|). 0 where missed or spurious, NaN where both are empty. Distances
    and tolerance are compared in single precision, so that one equal to the tolerance is within it.
    Seidlitz et al. 2022, doi:10.48550/arXiv.2111.05408.
    """
    return _within(pair, lambda: pair.surfaces)


def nsd_area(pair: MaskPair) -> float:
    """Normalised surface Dice by area: the area of both surfaces within ``tolerance_mm`` of the other over all their area.

    0 where missed or spurious, NaN where both are empty. Nikolov et al. 2021, doi:10.2196/26151.
    """
    return _within(pair, lambda: pair.area_surfaces)


def centroid_distance_mm(pair: MaskPair) -> float:
    """Between the centres of mass of prediction and reference, in mm: |mean of x(p) - mean of x(r)| over voxel centres x.

    The centre of mass of a body of even density; the masks' places in the world go by the affine. As the localisation
    error of Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    if pair.state != "scored":
        return one_sided_mm(pair)
    shift = _centre(pair.prediction) - _centre(pair.reference)
    return float(np.linalg.norm(pair.geometry.affine[:3, :3] @ shift))


def _centre(mask: npt.NDArray[np.bool_]) -> Floats:
    """The mean voxel index (3,) of a mask that is not empty."""
    along = [np.count_nonzero(mask, axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    return np.array([counts @ np.arange(len(counts)) / counts.sum() for counts in along])


def _distance(pair: MaskPair, measure: Callable[[SurfaceDistances], float]) -> float:
    return measure(pair.surfaces) if pair.state == "scored" else one_sided_mm(pair)


def _distance_area(pair: MaskPair, measure: Callable[[SurfaceDistances], float]) -> float:
    return measure(pair.area_surfaces) if pair.state == "scored" else one_sided_mm(pair)


def _largest(s: SurfaceDistances) -> float:
    return float(max(s.prediction_mm.max(), s.reference_mm.max()))


def _pooled_mean(s: SurfaceDistances) -> float:
    area = s.prediction_area.sum() + s.reference_area.sum()
    return float((_sum(s.prediction_mm, s.prediction_area) + _sum(s.reference_mm, s.reference_area)) / area)


def _mean_of_means(s: SurfaceDistances) -> float:
    there = _sum(s.prediction_mm, s.prediction_area) / s.prediction_area.sum()
    return float((there + _sum(s.reference_mm, s.reference_area) / s.reference_area.sum()) / 2)


def _sum(distances: Floats, areas: Floats) -> float:
    """Of distances weighed by area. Not by ``@``: BLAS would start threads of its own beside those over structures."""
    return float((distances * areas).sum())


def _percentile_by_area(distances: Floats, areas: Floats) -> float:
    order = np.argsort(distances, kind="stable")
    reached = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(reached, 0.95)), len(order) - 1)])


def _within(pair: MaskPair, surfaces: Callable[[], SurfaceDistances]) -> float:
    if pair.state != "scored":
        return math.nan if pair.state == "both_empty" else 0.0
    s, tolerance = surfaces(), np.float32(pair.rules.tolerance_mm)
    near_prediction = s.prediction_area[s.prediction_mm.astype(np.float32) <= tolerance].sum()
    near_reference = s.reference_area[s.reference_mm.astype(np.float32) <= tolerance].sum()
    return float((near_prediction + near_reference) / (s.prediction_area.sum() + s.reference_area.sum()))
