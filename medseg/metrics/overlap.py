"""Overlap of a prediction with its reference, by counting voxels.

The one policy for empty masks, for every figure of this file and every mean over cases:

- both empty: nothing to find and nothing claimed; overlap is undefined (NaN) and counted, not scored as 1;
- missed (reference only): overlap 0, precision included, although its formula is 0/0 there: were it left out, a model
  could raise its mean precision by missing what it finds hard;
- spurious (prediction only): dice, iou and precision are 0; recall is undefined, as it is for any structure without a
  reference, whatever was predicted, so nothing is gained by it;
- accuracy and volumes are defined everywhere.
"""

import math

from medseg.metrics.pairs import MaskPair

EMPTY_MASK_POLICY = (
    "both empty: overlap undefined, counted as undefined and left out of means; "
    "missed (reference only): overlap 0, precision included, counted; "
    "spurious (prediction only): dice, iou and precision 0, recall undefined, counted; "
    "accuracy and volumes always defined"
)


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


def accuracy(pair: MaskPair) -> float:
    """Voxels of the whole grid told rightly inside or outside: (TP + TN) / all, from 0 to 1; always defined.

    Near 1 for any small structure, because the background counts. Taha and Hanbury 2015, doi:10.1186/s12880-015-0068-x.
    """
    right = pair.both + pair.neither
    return right / (right + pair.prediction_only + pair.reference_only)
