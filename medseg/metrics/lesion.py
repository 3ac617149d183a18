"""Lesion by lesion: which of the reference's lesions were found, and which of the predicted ones are there.

See ``matching`` for what a lesion is and when two are the same. The policy for empty masks is that of ``overlap``: with no
lesion on either side a ratio is undefined; with lesions in the reference alone it is 0. Counts are always defined: fewer
false positives are no merit where lesions are missed, so read them beside ``lesion_sensitivity``.
"""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from medseg.metrics.pairs import MaskPair

Floats = npt.NDArray[np.float64]
SIZES_ML = (0.5, 5.0)  # spheres of 10 and 21 mm: the smallest lesion RECIST 1.1 measures, and one of twice its width


def _ratio(part: float, whole: float) -> float:
    """``part / whole``; NaN where there is nothing to count."""
    return part / whole if whole else math.nan


def _at_least_zero(value: float, pair: MaskPair) -> float:
    """0 where the formula is 0/0 although the reference holds a lesion."""
    return 0.0 if math.isnan(value) and len(pair.lesions.reference_ml) else value


def lesion_sensitivity(pair: MaskPair) -> float:
    """Found lesions over the reference's lesions: TP / (TP + FN), from 0 to 1; NaN where the reference has none.

    Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    return _ratio(pair.lesions.found, len(pair.lesions.reference_ml))


def lesion_precision(pair: MaskPair) -> float:
    """Found lesions over predicted ones: TP / (TP + FP), from 0 to 1; 0 where all are missed, NaN where there are none at all.

    Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    return _at_least_zero(_ratio(pair.lesions.found, len(pair.lesions.predicted_ml)), pair)


def lesion_f1(pair: MaskPair) -> float:
    """2TP / (2TP + FP + FN) in lesions, from 0 to 1; NaN where neither side has one. It is the recognition quality RQ, too.

    Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    return _ratio(2 * pair.lesions.found, len(pair.lesions.predicted_ml) + len(pair.lesions.reference_ml))


def lesion_sq(pair: MaskPair) -> float:
    """Segmentation quality: the mean IoU of the matched lesions, from 0 to 1.

    0 where none is matched although either side has one; NaN where neither has. Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963.
    """
    if not len(pair.lesions.predicted_ml) + len(pair.lesions.reference_ml):
        return math.nan
    return float(pair.lesions.reference_iou.sum()) / max(1, pair.lesions.found)


def lesion_pq(pair: MaskPair) -> float:
    """Panoptic quality SQ x RQ: the sum of the matched lesions' IoU over TP + FP/2 + FN/2, from 0 to 1.

    NaN where neither side has a lesion. Kirillov et al. 2019, doi:10.1109/CVPR.2019.00963.
    """
    return lesion_sq(pair) * lesion_f1(pair)


def lesion_false_positives(pair: MaskPair) -> float:
    """Predicted lesions without a partner in this scan; always defined. The mean over cases is "false positives per scan".

    Maier-Hein et al. 2024, doi:10.1038/s41592-023-02151-z.
    """
    return float(len(pair.lesions.predicted_ml) - pair.lesions.found)


def reference_lesions(pair: MaskPair) -> float:
    """Number of the reference's lesions; the definition of a lesion is that of doi:10.1038/s41592-023-02151-z."""
    return float(len(pair.lesions.reference_ml))


def by_size(edges_ml: tuple[float, ...]) -> Iterator[tuple[str, Callable[[MaskPair], float], str]]:
    """Name, function and unit of sensitivity (by the reference lesion's mL) and false positives (by the predicted one's).

    A lesion of exactly an edge belongs to the bin above it.
    """
    for low, high in pairwise((0.0, *edges_ml, math.inf)):
        name = f"from_{low:g}_ml" if high == math.inf else f"{low:g}_to_{high:g}_ml"
        yield f"lesion_sensitivity_{name}", _sensitivity_between(low, high), "ratio"
        yield f"lesion_false_positives_{name}", _false_positives_between(low, high), "count"


def _sensitivity_between(low: float, high: float) -> Callable[[MaskPair], float]:
    def sensitivity(pair: MaskPair) -> float:
        ious = pair.lesions.reference_iou[_between(pair.lesions.reference_ml, low, high)]
        return _ratio(int(np.count_nonzero(ious)), len(ious))

    sensitivity.__doc__ = f"``lesion_sensitivity`` of the reference's lesions from {low:g} to below {high:g} mL."
    return sensitivity


def _false_positives_between(low: float, high: float) -> Callable[[MaskPair], float]:
    def false_positives(pair: MaskPair) -> float:
        ious = pair.lesions.predicted_iou[_between(pair.lesions.predicted_ml, low, high)]
        return float(np.count_nonzero(ious == 0))

    false_positives.__doc__ = f"``lesion_false_positives`` of the predicted lesions from {low:g} to below {high:g} mL."
    return false_positives


def _between(volumes: Floats, low: float, high: float) -> npt.NDArray[np.bool_]:
    inside: npt.NDArray[np.bool_] = (volumes >= low) & (volumes < high)
    return inside
