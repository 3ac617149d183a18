"""The smallest box around each structure, found in one pass over a label map."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Box = tuple[slice, slice, slice]


def boxes_of(label_map: npt.NDArray[np.integer[Any]]) -> dict[int, Box]:
    """For each value but 0 in ``label_map`` (I, J, K) the smallest box that holds it.

    >>> boxes_of(np.array([[[0, 7, 7, 0]]], np.uint8))
    {7: (slice(0, 1, None), slice(0, 1, None), slice(1, 3, None))}
    """
    order = np.argsort(np.abs(label_map.strides), kind="stable")[::-1]  # the axis that runs fastest in memory last
    back = np.argsort(order)
    found = ndimage.find_objects(np.transpose(label_map, order))
    return {value: (box[back[0]], box[back[1]], box[back[2]]) for value, box in enumerate(found, 1) if box is not None}
