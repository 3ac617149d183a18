"""Amounts in millilitres: voxels times the volume of one (the affine's determinant)."""

import math

from medseg.metrics.pairs import MaskPair


def volume_ml(pair: MaskPair) -> float:
    """Volume of the prediction in millilitres: (TP + FP) voxels times |det(affine)| / 1000; 0.0 when empty.

    The determinant as in the NIfTI-1 standard's affine (Cox et al. 2004, https://nifti.nimh.nih.gov/nifti-1).
    """
    return (pair.both + pair.prediction_only) * pair.grid.voxel_volume_ml


def reference_volume_ml(pair: MaskPair) -> float:
    """Volume of the reference in millilitres: (TP + FN) voxels times |det(affine)| / 1000; 0.0 when empty."""
    return (pair.both + pair.reference_only) * pair.grid.voxel_volume_ml


def volume_difference_ml(pair: MaskPair) -> float:
    """Predicted less reference volume in millilitres: voxels times |det(affine)| / 1000; negative where too little was found.

    Over- and under-estimates cancel in its mean, which is the bias of Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    return (pair.prediction_only - pair.reference_only) * pair.grid.voxel_volume_ml


def relative_volume_difference(pair: MaskPair) -> float:
    """Predicted less reference volume over the reference volume: (FP - FN) / (TP + FN); NaN where the reference is empty.

    -1 where missed. Heimann et al. 2009, doi:10.1109/TMI.2009.2013851, there in percent.
    """
    reference = pair.both + pair.reference_only
    return (pair.prediction_only - pair.reference_only) / reference if reference else math.nan
