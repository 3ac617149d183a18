"""Connected components and distances: scipy's results, sooner where the extra ``fast`` is installed.

``pip install medseg[fast]`` brings connected-components-3d and edt (LGPL-3.0). Surface distances use neither: a KD-tree over
the two surfaces alone, asked only where they differ, is quicker than any distance transform of their box.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.boxes import boxes_of

Mask = npt.NDArray[np.bool_]
_DOUBT = 4e-7  # edt computes in single precision


def components(mask: Mask, connectivity: int = 26) -> npt.NDArray[np.integer[Any]]:
    """The number, from 1 on, of the component that each voxel of ``mask`` (I, J, K) belongs to; 0 outside.

    Voxels are joined by faces (``connectivity`` 6), also by edges (18), also by corners (26). Components are numbered by
    their first voxel in the order i, j, k.
    """
    if not mask.size:
        return np.zeros(mask.shape, np.int32)
    try:
        from cc3d import connected_components
    except ImportError:
        from scipy.ndimage import generate_binary_structure, label

        return np.asarray(label(mask, generate_binary_structure(3, {6: 1, 18: 2, 26: 3}[connectivity]))[0])
    # In another memory order it numbers otherwise.
    return np.asarray(connected_components(np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity))


def pieces(label_map: npt.NDArray[np.integer[Any]], connectivity: int = 26) -> npt.NDArray[np.integer[Any]]:
    """The number, from 1 on, of the piece of one value that each voxel of ``label_map`` (I, J, K) belongs to; 0 where it is 0.

    Voxels are joined as in ``components``. The pieces of one value are numbered by their first voxel in the order i, j, k.
    """
    try:
        from cc3d import connected_components
    except ImportError:
        numbers, last = np.zeros(label_map.shape, np.int32), 0
        for value, box in boxes_of(label_map).items():
            mask = label_map[box] == value
            found = components(mask, connectivity)
            np.add(found, last, out=numbers[box], where=mask, casting="unsafe")
            last += int(found.max())
        return numbers
    return np.asarray(connected_components(np.ascontiguousarray(label_map), connectivity=connectivity))


def near_outside(mask: Mask, spacing_mm: npt.NDArray[np.float64], width_mm: float) -> Mask:
    """The voxels of ``mask`` (I, J, K) at most ``width_mm`` from the nearest voxel outside, and all that lie outside.

    ``mask`` must have a voxel outside.
    """
    from scipy.ndimage import distance_transform_edt

    try:
        from edt import edt
    except ImportError:
        return np.asarray(distance_transform_edt(mask, sampling=spacing_mm) <= width_mm)
    distances = edt(np.ascontiguousarray(mask), anisotropy=tuple(float(s) for s in spacing_mm), parallel=1)
    near: Mask = distances <= width_mm
    if (np.abs(distances - width_mm) <= _DOUBT * width_mm).any():
        return np.asarray(distance_transform_edt(mask, sampling=spacing_mm) <= width_mm)
    return near
