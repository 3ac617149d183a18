"""MONAI and surface-distance on the same masks: what `medseg.metrics` is checked against."""

import warnings

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    if not hasattr(np, "Inf"):  # surface-distance 0.1 was written for NumPy 1
        np.inf = np.inf
    import surface_distance


def by_monai(prediction, reference, spacing, tolerance=2.0):
    """hd, hd95, assd and nsd by the voxel surface."""
    tensors = [torch.from_numpy(np.ascontiguousarray(m))[None, None] for m in (prediction, reference)]
    options = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 calls its own deprecated argument
        return {
            "hd": compute_hausdorff_distance(*tensors, **options).item(),
            "hd95": compute_hausdorff_distance(*tensors, percentile=95, **options).item(),
            "assd": compute_average_surface_distance(*tensors, symmetric=True, **options).item(),
            "nsd": compute_surface_dice(*tensors, [tolerance], use_subvoxels=False, **options).item(),
        }


def by_surface_distance(prediction, reference, spacing, tolerance=2.0):
    """hd, hd95, assd, masd and nsd by the surface elements."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = surface_distance.compute_surface_distances(reference, prediction, spacing)
    areas = (found["surfel_areas_gt"], found["surfel_areas_pred"])
    distances = (found["distances_gt_to_pred"], found["distances_pred_to_gt"])
    return {
        "hd_area": surface_distance.compute_robust_hausdorff(found, 100),
        "hd95_area": surface_distance.compute_robust_hausdorff(found, 95),
        "assd_area": sum(d @ a for d, a in zip(distances, areas, strict=True)) / sum(a.sum() for a in areas),
        "masd_area": np.mean(surface_distance.compute_average_surface_distance(found)),
        "nsd_area": surface_distance.compute_surface_dice_at_tolerance(found, tolerance),
    }
