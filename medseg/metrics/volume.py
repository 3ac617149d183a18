"""Amounts in millilitres: voxels times the volume of one (the affine's determinant)."""

from medseg.metrics.pairs import MaskPair


def volume_ml(pair: MaskPair) -> float:
    """Volume of the prediction in millilitres: (TP + FP) voxels times |det(affine)| / 1000; 0.0 when empty.

    The determinant as in the NIfTI-1 standard's affine (Cox et al. 2004, https://nifti.nimh.nih.gov/nifti-1).
    """
    return (pair.both + pair.prediction_only) * pair.grid.voxel_volume_ml


def reference_volume_ml(pair: MaskPair) -> float:
    """Volume of the reference in millilitres: (TP + FN) voxels times |det(affine)| / 1000; 0.0 when empty."""
    return (pair.both + pair.reference_only) * pair.grid.voxel_volume_ml
