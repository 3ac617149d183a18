"""Figures of a whole case, over all its structures."""

import math

import numpy as np

from medseg.metrics.overlap import iou
from medseg.metrics.pairs import CasePair


def mean_iou(pair: CasePair) -> float:
    """Mean of ``iou`` over the structures that prediction or reference holds, the background left out.

    A missed or spurious structure counts as 0; NaN where there is no structure at all. Long et al. 2015 ("mean IU"),
    doi:10.1109/CVPR.2015.7298965, there with the background.
    """
    values = [iou(pair.structure(value)) for value in pair.values if value]
    return float(np.mean(values)) if values else math.nan


def pixel_accuracy(pair: CasePair) -> float:
    """Fraction of voxels with the right label, background included: the trace of the confusion over all voxels.

    It knows no structures: to predict nothing of a small one may even raise it. Read it beside figures by structure.
    Long et al. 2015, doi:10.1109/CVPR.2015.7298965.
    """
    return float(np.trace(pair.confusion) / pair.confusion.sum())
