"""Voxels as a file holds them, and the two ways to read them: as intensities or as label values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume

LARGEST_INTENSITY = 1e18  # its square still fits float32 with room to sum: beyond, the variance overflows
LARGEST_LABEL = 65535
_BLOCK_VOXELS = 2**22


@dataclass(frozen=True, eq=False)
class Stored:
    """``data`` (C, I, J, K) as on disk; the true value of a voxel is ``data * slope + intercept``."""

    data: npt.NDArray[Any]
    geometry: Geometry
    slope: float = 1.0
    intercept: float = 0.0
    warnings: tuple[str, ...] = ()
    modality: str = ""

    @property
    def scaled(self) -> bool:
        return (self.slope, self.intercept) != (1.0, 0.0)

    @property
    def is_converted(self) -> bool:
        """Whether ``as_intensities`` makes float32 of the voxels."""
        return self.scaled or (self.data.dtype.kind == "f" and self.data.dtype.itemsize != 4)

    def blocks(self) -> Iterator[tuple[tuple[slice, ...], npt.NDArray[Any]]]:
        """Pieces (c, I, J, k) of the true values with their places, scaled in float64 where there is a scale."""
        channels, i, j, slices = self.data.shape
        step = max(1, _BLOCK_VOXELS // (i * j))
        for channel in range(channels):
            for start in range(0, slices, step):
                place = (slice(channel, channel + 1), slice(None), slice(None), slice(start, start + step))
                block = self.data[place]
                yield place, block.astype(np.float64) * self.slope + self.intercept if self.scaled else block


def as_intensities(name: str, stored: Stored) -> Volume:
    """``stored`` as a Volume: integers and float32 as they are, anything scaled or wider as float32.

    A constant image gets a warning. Raises DataError on NaN, infinite or absurdly large intensities.
    """
    low, high = _range(name, stored)
    if max(-low.min(), high.max()) > LARGEST_INTENSITY:
        raise DataError(
            f"{name}: intensities range from {low.min():.3g} to {high.max():.3g}, out of the range of any scan "
            f"(limit {LARGEST_INTENSITY:g}: their variance overflows)"
        )
    data = stored.data
    if stored.is_converted:
        data = np.empty(stored.data.shape[::-1], np.float32).T
        for place, block in stored.blocks():
            data[place] = block
    constant = ("the image is constant",) if (low == high).any() else ()
    return Volume(data, stored.geometry, (*stored.warnings, *constant), stored.modality)


def exact_values(stored: Stored) -> npt.NDArray[Any]:
    """The true values (C, I, J, K), none of them rounded: in the type on disk, or where they are scaled in one that holds them.

    That is a signed integer where slope and intercept are whole numbers, else float32 if it suffices, else float64.
    """
    if not stored.scaled:
        return stored.data
    scaled = stored.data.astype(np.float64) * stored.slope + stored.intercept
    whole = stored.slope.is_integer() and stored.intercept.is_integer() and stored.data.dtype.kind in "iu"
    kept = in_one_of(scaled, (np.int16, np.int32, np.int64) if whole else (np.float32,))
    return scaled if kept is None else kept


def in_one_of(values: npt.NDArray[Any], dtypes: Sequence[type[np.generic]]) -> npt.NDArray[Any] | None:
    """``values`` as they are if their type is among ``dtypes``, else in the first that keeps them all; None where none does."""
    if values.dtype.type in dtypes:
        return values
    for dtype in dtypes:
        with np.errstate(invalid="ignore", over="ignore"):
            cast = values.astype(dtype)
            if np.array_equal(cast, values, equal_nan=values.dtype.kind == "f"):
                return cast
    return None


def as_label_map(name: str, stored: Stored, labels: Labels | None) -> LabelMap:
    """``stored`` as a LabelMap in the smallest unsigned type that holds its values.

    Raises DataError unless it has one channel of integers from 0 to 65535, all of them in ``labels`` where given.
    """
    channels = stored.data.shape[0]
    if channels != 1:
        raise DataError(
            f"{name}: a label map has one integer per voxel, this file is 4-D with {channels} channels "
            f"(shape {stored.geometry.shape} x {channels}); one-hot masks: keep the channel of the largest value"
        )
    low, high = (float(v[0]) for v in _range(name, stored))
    if low < 0:
        raise DataError(f"{name}: label map values must not be negative; got {low:g}")
    _check_integers(name, stored)
    if high > LARGEST_LABEL + 0.5:
        raise DataError(f"{name}: label map values must lie between 0 and {LARGEST_LABEL}; got {high:.0f}")
    dtype = np.uint8 if high < 255.5 else np.uint16
    if stored.data.dtype == dtype and not stored.scaled:
        data = stored.data
    else:
        data = np.empty(stored.data.shape[::-1], dtype).T
        for place, block in stored.blocks():
            data[place] = np.rint(block) if block.dtype.kind == "f" else block
    if labels is not None:
        _check_named(name, data, labels)
    return LabelMap(data[0], stored.geometry, labels, stored.warnings)


def _range(name: str, stored: Stored) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Smallest and largest true value of each channel (C,). Raises DataError where any is NaN or infinite."""
    low = np.full(stored.data.shape[0], np.inf)
    high = -low
    with np.errstate(invalid="ignore", over="ignore"):
        for (channel, *_), block in stored.blocks():
            low[channel] = np.minimum(low[channel], block.min())
            high[channel] = np.maximum(high[channel], block.max())
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            bad = np.zeros(2, np.int64)
            for _, block in stored.blocks():
                bad += np.count_nonzero(np.isnan(block)), np.count_nonzero(np.isinf(block))
            raise DataError(
                f"{name}: all voxels must be finite, got {bad[0]} NaN and {bad[1]} inf of {stored.data.size} voxels; "
                "replace them before use"
            )
    return low, high


def _check_integers(name: str, stored: Stored) -> None:
    if stored.data.dtype.kind in "iu" and not stored.scaled:
        return
    tolerance = 1e-4 if stored.scaled else 0.0  # a float32 slope such as 0.1 leaves a rounding error
    for _, block in stored.blocks():
        wrong = np.abs(block - np.rint(block)) > tolerance
        if wrong.any():
            raise DataError(
                f"{name}: label map values must be integers; got {block[wrong][0]:.6g} and other fractions; "
                "are these probabilities? keep the structure of the largest"
            )


def _check_named(name: str, data: npt.NDArray[np.unsignedinteger[Any]], labels: Labels) -> None:
    counts = sum(np.bincount(part.ravel(), minlength=LARGEST_LABEL + 1) for part in np.array_split(data[0], 16, axis=2))
    try:
        labels.to_channels(np.flatnonzero(counts))
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
