"""Tables over the pieces of a label map: voxels and value of each, plane by plane, because an index takes 8 bytes a voxel."""

from typing import Any

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.integer[Any]]


def sizes_of(numbers: Values) -> npt.NDArray[np.int64]:
    """The voxels of each of ``numbers`` (I, J, K) from 0 on."""
    sizes = np.zeros(int(numbers.max()) + 1, np.int64)
    for plane in numbers:
        found = np.bincount(plane.ravel())
        sizes[: len(found)] += found
    return sizes


def values_of(numbers: Values, values: Values, length: int) -> Values:
    """The one of ``values`` that the voxels of each number below ``length`` have; 0 for number 0."""
    found = np.zeros(length, values.dtype)
    for plane, number in zip(values, numbers, strict=True):
        found[number] = plane
    found[0] = 0
    return found
