"""Separable resampling onto a grid over the same field of view: along each axis a banded matrix, applied by products."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.data.intensity import Normalise

Shape = tuple[int, int, int]
Matrix = npt.NDArray[np.float64]
Array = npt.NDArray[np.float32]

PIECE = 32  # voxels along an axis that are made at once, of the few around them: a spline's response dies away
NEGLIGIBLE = 1e-9  # a share that single precision does not see
BLOCK = 2**18  # voxels that are resampled at once along two axes: they stay in the cache


def as_float32(data: npt.NDArray[Any]) -> Array:
    """The values as they are; no copy of what is float32."""
    return np.asarray(data, np.float32)


@lru_cache(maxsize=64)
def axis_matrix(source: int, target: int, order: int) -> Matrix:
    """The linear map (target, source) of a spline of ``order`` along one axis, voxel faces aligned, edges repeated.

    It is the spline's response to the identity, so it equals ``scipy.ndimage.zoom(mode="nearest", grid_mode=True)``.
    """
    matrix: Matrix = ndimage.zoom(np.eye(source), (target / source, 1.0), order=order, mode="nearest", grid_mode=True)
    return matrix


@lru_cache(maxsize=64)
def axis_pieces(source: int, target: int, order: int) -> tuple[tuple[slice, slice, Array], ...] | None:
    """``axis_matrix`` in pieces: target voxels, the source voxels that they are made of, shares (source, target).

    None where the size stays.
    """
    if source == target:
        return None
    matrix, pieces = axis_matrix(source, target, order if source > 1 else 0), []
    for start in range(0, target, PIECE):
        rows = matrix[start : start + PIECE]
        seen = np.flatnonzero((np.abs(rows) > NEGLIGIBLE).any(axis=0))
        columns = slice(int(seen[0]), int(seen[-1]) + 1)
        pieces.append((slice(start, start + len(rows)), columns, np.ascontiguousarray(rows[:, columns].T, np.float32)))
    return tuple(pieces)


def resample(
    data: npt.NDArray[Any], shape: Shape, orders: Shape, normalise: Normalise = as_float32
) -> npt.NDArray[np.float32]:
    """``data`` (..., I, J, K) on ``shape`` voxels over the same field of view; no value leaves the range of ``data``.

    ``orders``: 3 cubic, 1 linear, 0 nearest, an axis each. Axes whose size stays are not touched. ``normalise`` comes first,
    on a part of ``data`` after the other: it must be a function of each voxel alone. In C order, whatever that of ``data``.
    """
    if data.shape[-3:] == shape:
        return normalise(np.ascontiguousarray(data))
    result = np.empty((*data.shape[:-3], *shape), np.float32)
    for at in np.ndindex(data.shape[:-3]):
        _stretch(data[at], result[at], orders, normalise)
    return result


def resample_thick(
    data: npt.NDArray[Any],
    shape: Shape,
    order: int,
    order_thick: int,
    thick: int | None,
    normalise: Normalise = as_float32,
) -> npt.NDArray[np.float32]:
    """``data`` (I, J, K) on ``shape``: the slices across axis ``thick`` first, each within its own range, then along it.

    Without a thick axis all three go by ``order`` at once. ``normalise``: see ``resample``.
    """
    if thick is None:
        return resample(data, shape, (order, order, order), normalise)
    slices = np.empty([data.shape[a] if a == thick else n for a, n in enumerate(shape)], np.float32)
    for n in range(data.shape[thick]):
        at = (slice(None),) * thick + (slice(n, n + 1),)
        _stretch(data[at], slices[at], (order, order, order), normalise)
    if slices.shape == shape:
        return slices
    result = np.empty(shape, np.float32)
    along = axis_pieces(data.shape[thick], shape[thick], order_thick)
    _times(np.moveaxis(slices, thick, -1), along, np.moveaxis(result, thick, -1))
    return result


def _stretch(data: npt.NDArray[Any], into: Array, orders: Shape, normalise: Normalise) -> None:
    """Fill ``into`` (I', J', K') with ``data`` (I, J, K) resampled, within its range.

    Some planes at a time are normalised and resampled along two axes while they are in the cache, then all along the third.
    """
    # Axes that shrink come first: fewer voxels for the others. Nearly equal ones keep their order, which suits the memory.
    axes = sorted(range(3), key=lambda a: round(into.shape[a] / data.shape[a], 1))
    source, target = data.transpose(axes), into.transpose(axes)
    first, second, third = (axis_pieces(data.shape[a], into.shape[a], orders[a]) for a in axes)
    (rows, columns, planes), (new_rows, new_columns, new_planes) = source.shape, target.shape
    some = min(planes, max(1, BLOCK // (rows * columns)))
    by_row = np.empty(new_rows * some * columns, np.float32)
    by_column = np.empty(new_rows * some * new_columns, np.float32)
    between = np.empty((new_rows, planes, new_columns), np.float32)
    low, high = np.float32(np.inf), np.float32(-np.inf)
    for start in range(0, planes, some):
        block = normalise(np.ascontiguousarray(source[:, :, start : start + some].T))
        low, high = np.minimum(low, block.min()), np.maximum(high, block.max())
        n = len(block)
        one = by_row[: new_rows * n * columns].reshape(new_rows, n * columns)
        two = by_column[: new_rows * n * new_columns].reshape(new_rows * n, new_columns)
        _times(block.reshape(n * columns, rows), first, one.T)
        _times(one.reshape(new_rows * n, columns), second, two)
        between[:, start : start + n] = two.reshape(new_rows, n, new_columns)
    made = np.empty((new_columns, new_planes), np.float32)
    for found, place in zip(between, target, strict=True):
        _times(found.T, third, made)
        np.clip(made, low, high, out=place)


def _times(values: Array, pieces: Sequence[tuple[slice, slice, Array]] | None, into: Array) -> None:
    """Fill ``into`` (..., n, target) from ``values`` (..., n, source)."""
    if pieces is None:
        np.copyto(into, values)
        return
    for rows, columns, shares in pieces:
        np.matmul(values[..., columns], shares, out=into[..., rows])


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
            share = resample(mask, shape, (1, 1, 1))
            wins = share > best
            best[wins], winner[wins] = share[wins], channel
    return winner


def resample_touched(mask: npt.NDArray[np.bool_], shape: Shape) -> npt.NDArray[np.bool_]:
    """``mask`` (I, J, K) on ``shape``: true wherever a true voxel has any share in the linear interpolation."""
    return mask if mask.shape == shape else resample(mask, shape, (1, 1, 1)) > 1e-6


def spline_orders(spacing_mm: tuple[float, float, float]) -> Shape:
    """Cubic along each axis; linear along one whose spacing is over three times the finest, where cubic would ring."""
    i, j, k = (1 if s > 3 * min(spacing_mm) else 3 for s in spacing_mm)
    return i, j, k
