"""Overlap of a prediction with its reference, by counting voxels; and the policy for empty masks.

The one policy for empty masks, for every figure of a structure and every mean over cases:

- both empty: nothing to find and nothing claimed; overlap and distances are undefined (NaN) and counted, not scored as perfect;
- missed (reference only): every ratio is 0, also where its formula is 0/0 (precision) or would praise the empty mask
  (specificity 1, accuracy near 1): were it otherwise, a model could raise a mean by missing what it finds hard. Distances
  are the image's diagonal, farther than any that can be measured; or by choice undefined, and then so is every mean that
  would leave the missed case out;
- spurious (prediction only): dice, iou, boundary_iou, cldice, precision and nsd are 0, distances as where missed; recall is
  undefined, as it is for any structure without a reference, whatever was predicted, so nothing is gained by it;
- amounts (volumes, their differences, numbers of lesions) are what they are, neither good nor bad by themselves.
"""

import math

from medseg.metrics.pairs import MaskPair
from medseg.metrics.rules import Missed

_DISTANCES = {
    "diagonal": "distances the diagonal of the image",
    "undefined": "distances undefined, and with them every mean that would leave the case out",
}


def empty_mask_policy(missed: Missed = "diagonal") -> str:
    """The policy in words, as every report states it."""
    return (
        "both empty: overlap and distances undefined, counted as undefined and left out of means; "
        f"missed (reference only): every ratio 0 (precision, specificity and accuracy too), {_DISTANCES[missed]}, counted; "
        f"spurious (prediction only): dice, iou, boundary_iou, cldice, precision and nsd 0, recall undefined, "
        f"{_DISTANCES[missed]}, counted; "
        "volumes, volume differences and counts of lesions are amounts, neither good nor bad by themselves"
    )


EMPTY_MASK_POLICY = empty_mask_policy()


def _fraction(part: int, whole: int, pair: MaskPair) -> float:
    """``part / whole`` under the policy above."""
    if whole:
        return part / whole
    return 0.0 if pair.state == "missed" else math.nan


def dice(pair: MaskPair) -> float:
    """Twice the common voxels over the sum of both: 2TP / (2TP + FP + FN), from 0 to 1; NaN where both are empty.

    Dice 1945, doi:10.2307/1932409.
    """
    return _fraction(2 * pair.both, 2 * pair.both + pair.prediction_only + pair.reference_only, pair)


def iou(pair: MaskPair) -> float:
    """Common voxels over the voxels of either: TP / (TP + FP + FN), from 0 to 1; NaN where both are empty.

    Jaccard 1912, doi:10.1111/j.1469-8137.1912.tb05611.x.
    """
    return _fraction(pair.both, pair.both + pair.prediction_only + pair.reference_only, pair)


def precision(pair: MaskPair) -> float:
    """How much of the prediction is right: TP / (TP + FP), from 0 to 1; 0 where missed, NaN where both are empty.

    Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x.
    """
    return _fraction(pair.both, pair.both + pair.prediction_only, pair)


def recall(pair: MaskPair) -> float:
    """How much of the reference was found: TP / (TP + FN), from 0 to 1; NaN where the reference is empty.

    Also called sensitivity. Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x.
    """
    return _fraction(pair.both, pair.both + pair.reference_only, pair)


def specificity(pair: MaskPair) -> float:
    """Voxels outside the reference left alone: TN / (TN + FP), from 0 to 1; 0 where missed, NaN where the reference fills the grid.

    Near 1 for any small structure, because the background counts. Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x.
    """
    return 0.0 if pair.state == "missed" else _fraction(pair.neither, pair.neither + pair.prediction_only, pair)


def accuracy(pair: MaskPair) -> float:
    """Voxels of the whole grid told rightly inside or outside: (TP + TN) / all, from 0 to 1; 0 where missed.

    Near 1 for any small structure, because the background counts. Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x.
    """
    right = pair.both + pair.neither
    return 0.0 if pair.state == "missed" else right / (right + pair.prediction_only + pair.reference_only)
