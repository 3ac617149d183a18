"""Separable resampling onto a grid over the same field of view: one small matrix an axis, applied by matrix products."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Shape = tuple[int, int, int]
Matrix = npt.NDArray[np.float64]


@lru_cache(maxsize=64)
def axis_matrix(source: int, target: int, order: int) -> Matrix:
    """The linear map (target, source) of a spline of ``order`` along one axis, voxel faces aligned, edges repeated.

    It is the spline's response to the identity, so it equals ``scipy.ndimage.zoom(mode="nearest", grid_mode=True)``.
    """
    matrix: Matrix = ndimage.zoom(np.eye(source), (target / source, 1.0), order=order, mode="nearest", grid_mode=True)
    return matrix


def resample(data: npt.NDArray[np.float32], shape: Shape, orders: Shape) -> npt.NDArray[np.float32]:
    """``data`` (..., I, J, K) on ``shape`` voxels over the same field of view; no value leaves the range of ``data``.

    ``orders``: 3 cubic, 1 linear, 0 nearest, an axis each. Axes whose size stays are not touched.
    """
    low, high = (data.min(), data.max()) if data.size else (0.0, 0.0)
    result = _stretched(data, shape, orders)
    return np.clip(result, low, high, out=result) if result is not data else data


def resample_thick(
    data: npt.NDArray[np.float32], shape: Shape, order: int, order_thick: int, thick: int | None
) -> npt.NDArray[np.float32]:
    """``data`` (I, J, K) on ``shape``: the slices across axis ``thick`` first, each within its own range, then along it.

    Without a thick axis all three go by ``order`` at once.
    """
    if thick is None:
        return resample(data, shape, (order, order, order))
    i, j, k = (data.shape[a] if a == thick else n for a, n in enumerate(shape))
    across = tuple(a for a in range(3) if a != thick)
    slices = _stretched(data, (i, j, k), (order, order, order))
    if slices is not data:
        slices = np.clip(slices, data.min(axis=across, keepdims=True), data.max(axis=across, keepdims=True))
    return _stretched(slices, shape, (order_thick, order_thick, order_thick))


def _stretched(data: npt.NDArray[np.float32], shape: Shape, orders: Shape) -> npt.NDArray[np.float32]:
    result = data
    # Shrinking axes first: fewer voxels for the others.
    for axis in sorted(range(3), key=lambda a: shape[a] / data.shape[a - 3]):
        size = result.shape[axis - 3]
        if size != shape[axis]:
            matrix = axis_matrix(size, shape[axis], orders[axis] if size > 1 else 0).astype(np.float32)
            result = np.moveaxis(np.moveaxis(result, axis - 3, -1) @ matrix.T, -1, axis - 3)
    return result


def resample_channels(channels: npt.NDArray[np.generic], size: int, shape: Shape) -> npt.NDArray[np.uint8 | np.uint16]:
    """A map of ``size`` contiguous channels (I, J, K) on ``shape``: each channel's mask resampled linearly, the largest wins."""
    dtype = np.uint8 if size <= 256 else np.uint16
    if channels.shape == shape:
        return channels.astype(dtype, copy=False)
    best = np.full(shape, -1.0, np.float32)
    winner = np.zeros(shape, dtype)
    for channel in range(size):
        mask = channels == channel
        if mask.any():
            share = resample(mask.astype(np.float32), shape, (1, 1, 1))
            wins = share > best
            best[wins], winner[wins] = share[wins], channel
    return winner


def resample_touched(mask: npt.NDArray[np.bool_], shape: Shape) -> npt.NDArray[np.bool_]:
    """``mask`` (I, J, K) on ``shape``: true wherever a true voxel has any share in the linear interpolation."""
    return mask if mask.shape == shape else resample(mask.astype(np.float32), shape, (1, 1, 1)) > 1e-6


def spline_orders(spacing_mm: tuple[float, float, float]) -> Shape:
    """Cubic along each axis; linear along one whose spacing is over three times the finest, where cubic would ring."""
    i, j, k = (1 if s > 3 * min(spacing_mm) else 3 for s in spacing_mm)
    return i, j, k
