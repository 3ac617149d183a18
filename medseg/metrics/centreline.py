"""Overlap of centrelines: whether vessels, airways and other tubes are connected as they should be."""

import math

import numpy as np
import numpy.typing as npt

from medseg.core.geometry import order_to
from medseg.metrics.pairs import MaskPair

Mask = npt.NDArray[np.bool_]


def cldice(pair: MaskPair) -> float:
    """Centreline Dice: 2 T_prec T_sens / (T_prec + T_sens), from 0 to 1; 0 where missed or spurious, NaN where both are empty.

    With masks V and their skeletons S, T_prec = |S(P) in V(R)| / |S(P)| and T_sens = |S(R) in V(P)| / |S(R)|; 0 where both
    are 0. Shit et al. 2021, doi:10.1109/CVPR46437.2021.01629. Voxels count, not millimetres. For tubes: of a bulky organ the
    skeleton says little. See ``skeleton`` for how it is found.
    """
    if pair.state != "scored":
        return math.nan if pair.state == "both_empty" else 0.0
    flat = [axis for axis, size in enumerate(pair.grid.shape) if size == 1]
    order = order_to(pair.geometry)  # thinning goes axis by axis: in one order whatever the storage
    across = order.permutation.index(flat[0]) if flat else None
    prediction, reference = order.array(pair.prediction), order.array(pair.reference)
    precision = _inside(skeleton(prediction, across), reference)
    sensitivity = _inside(skeleton(reference, across), prediction)
    both = precision + sensitivity
    return 2 * precision * sensitivity / both if both else 0.0


def skeleton(mask: Mask, flat: int | None = None) -> Mask:
    """The voxels of ``mask`` (I, J, K) that thinning leaves: by Lee et al. 1994 (doi:10.1006/cgip.1994.1042) in 3D.

    Of a picture, one voxel along the axis ``flat``, by Zhang and Suen 1984 (doi:10.1145/357994.358023): as the authors of clDice
    chose, through scikit-image. It thins some parts of even width away (a tube of 2x2 voxels): such a part, connected by
    faces, edges or corners, stands as it is, so that nothing is without a centreline.
    """
    from scipy.ndimage import label
    from skimage.morphology import skeletonize

    thin = np.asarray(mask if flat is None else mask.take(0, axis=flat))
    found: Mask = skeletonize(np.ascontiguousarray(thin)).astype(bool)
    parts, count = label(thin, np.ones((3,) * thin.ndim))
    kept = np.bincount(parts[found], minlength=count + 1) > 0
    found |= ~kept[parts] & thin
    return found if flat is None else np.expand_dims(found, flat)


def _inside(line: Mask, mask: Mask) -> float:
    """The fraction of the voxels of ``line`` that ``mask`` holds."""
    return int(np.count_nonzero(line & mask)) / int(np.count_nonzero(line))
