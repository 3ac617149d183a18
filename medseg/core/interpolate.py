"""Where the voxels of one axis lie between those of another: ``Way``, and linear interpolation on a line."""

import numpy as np
import numpy.typing as npt

Line = tuple[float, float]
"""(start, step): the target's voxel n lies at ``start + n * step`` in voxels of the source."""

Way = int | Line
"""The spline order by which an axis comes onto another with the same outer faces, or a line, along which it is linear."""

Ways = tuple[Way, Way, Way]


def line_matrix(source: int, target: int, line: Line) -> npt.NDArray[np.float32]:
    """Linear interpolation (target, source) on a ``line``, edges repeated: shares >= 0 that sum to 1.

    >>> line_matrix(3, 2, (0.0, 1.5)).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    """
    start, step = line
    return shares_at(start + np.arange(target) * step, source)


def shares_at(position: npt.NDArray[np.floating], source: int) -> npt.NDArray[np.float32]:
    """Linear interpolation (target, source) at each ``position`` in voxels of the source, edges repeated."""
    position = np.clip(position, 0, source - 1)
    low = np.floor(position).astype(int)
    high = np.minimum(low + 1, source - 1)
    share = (position - low).astype(np.float32)
    matrix = np.zeros((len(position), source), np.float32)
    rows = np.arange(len(position))
    matrix[rows, low] += 1 - share
    matrix[rows, high] += share
    return matrix
