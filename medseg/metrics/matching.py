"""Which lesion of the prediction is which of the reference: connected components, matched one to one.

A lesion is a connected component of the mask, voxels joined by faces, edges and corners (26 neighbours). A predicted and a
reference lesion may be the same one where their IoU reaches a threshold. Of all one-to-one matchings of such pairs that
with the most pairs is taken, and of those the one with the largest sum of IoU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.fast import components

Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Lesions:
    """Volumes in mL and, for each lesion, the IoU with its partner: 0 where it has none."""

    predicted_ml: Floats
    reference_ml: Floats
    predicted_iou: Floats
    reference_iou: Floats

    @property
    def found(self) -> int:
        """Matched pairs: the true positives."""
        return int(np.count_nonzero(self.reference_iou))


def match_lesions(prediction: Mask, reference: Mask, *, voxel_ml: float, least_iou: float) -> Lesions:
    """The lesions of both masks (I, J, K) and their matching."""
    either = prediction | reference
    predicted, expected = components(prediction)[either], components(reference)[either]
    sizes = [np.bincount(ids, minlength=1)[1:] for ids in (predicted, expected)]
    ious = [np.zeros(len(size)) for size in sizes]
    for p, r, iou in _matching(_overlaps(predicted, expected, sizes[0], sizes[1], least_iou)):
        ious[0][p] = ious[1][r] = iou
    volumes = [np.asarray(size * voxel_ml, np.float64) for size in sizes]
    return Lesions(volumes[0], volumes[1], ious[0], ious[1])


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Pairs of a predicted and a reference lesion, from 0, whose IoU reaches the threshold."""

    predicted: Integers
    reference: Integers
    iou: Floats


def _overlaps(
    predicted: npt.NDArray[Any], reference: npt.NDArray[Any], p_sizes: Integers, r_sizes: Integers, least: float
) -> _Overlaps:
    """From the component of each voxel of either mask, 0 outside."""
    common = (predicted > 0) & (reference > 0)
    keys = (predicted[common].astype(np.int64) - 1) * max(1, len(r_sizes)) + (reference[common].astype(np.int64) - 1)
    pairs, both = np.unique(keys, return_counts=True)
    p, r = np.divmod(pairs, max(1, len(r_sizes)))
    iou = both / (p_sizes[p] + r_sizes[r] - both)
    kept = iou >= least
    return _Overlaps(p[kept], r[kept], iou[kept])


def _matching(overlaps: _Overlaps) -> Iterator[tuple[int, int, float]]:
    """(predicted, reference, IoU) of the one-to-one matching with the most pairs, then the largest sum of IoU.

    Lesions that no chain of overlaps joins are matched apart, so that thousands of specks cost no large matrix.
    Crouse 2016, doi:10.1109/TAES.2016.140952 (scipy.optimize.linear_sum_assignment).
    """
    if not len(overlaps.iou):
        return
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    p_names, p = np.unique(overlaps.predicted, return_inverse=True)
    r_names, r = np.unique(overlaps.reference, return_inverse=True)
    n = len(p_names) + len(r_names)
    _, group = connected_components(coo_array((np.ones(len(p)), (p, len(p_names) + r)), shape=(n, n)), directed=False)
    order = np.argsort(group[p], kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(group[p][order])) + 1):
        rows, row = np.unique(p[part], return_inverse=True)
        columns, column = np.unique(r[part], return_inverse=True)
        iou = np.zeros((len(rows), len(columns)))
        iou[row, column] = overlaps.iou[part]
        # One pair more outweighs any gain of IoU: all of them sum to less than the smaller side's number.
        worth = np.where(iou > 0, iou + min(iou.shape) + 1, 0)
        for a, b in zip(*linear_sum_assignment(worth, maximize=True), strict=True):
            if iou[a, b] > 0:
                yield int(p_names[rows[a]]), int(r_names[columns[b]]), float(iou[a, b])
