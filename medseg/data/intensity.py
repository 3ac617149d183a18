"""INTENSITIES: from stored intensities to the network's input, one entry per scheme."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.component import Component, build
from medseg.core.errors import ConfigError

Array = npt.NDArray[np.float32]
Normalise = Callable[[npt.NDArray[np.generic]], Array]


def ct_window(*, lower: float, upper: float, mean: float, sd: float) -> Normalise:
    """Clip to [``lower``, ``upper``] HU, then subtract ``mean`` and divide by ``sd``, all measured inside the structures.

    Source: Isensee 2021, doi:10.1038/s41592-020-01008-z (0.5 and 99.5 percentiles of the foreground).
    """
    if not (lower <= upper and sd >= 0 and math.isfinite(lower + upper + mean + sd)):
        raise ConfigError(
            f"intensity ct_window: lower {lower}, upper {upper}, mean {mean}, sd {sd}; lower must not lie above upper, nor sd "
            "below 0, and all must be finite"
        )

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        # In place, in single precision from the start: a CT has half a gigabyte in it, and numpy would clip in double.
        normalised = np.array(data, np.float32)
        np.clip(normalised, np.float32(lower), np.float32(upper), out=normalised)
        normalised -= np.float32(mean)
        normalised /= np.float32(max(sd, 1e-6))
        return normalised

    return normalise


def z_score() -> Normalise:
    """Subtract the volume's own mean and divide by its own standard deviation; a constant volume becomes zero."""

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        values = data.astype(np.float64)
        centred = values - values.mean()
        sd = float(np.sqrt(np.mean(centred**2)))
        return (centred / sd).astype(np.float32) if sd > 0 else np.zeros(data.shape, np.float32)

    return normalise


def z_score_nonzero() -> Normalise:
    """``z_score`` of the voxels that are not 0, for scans whose background was set to 0 (skull-stripped); it stays 0."""

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        inside = data != 0
        found = np.zeros(data.shape, np.float32)
        if inside.any():
            found[inside] = z_score()(data[inside])
        return found

    return normalise


def percentile(*, lower: float = 0.5, upper: float = 99.5) -> Normalise:
    """The volume's own percentiles ``lower`` and ``upper`` become -1 and 1, what lies beyond them too."""
    if not 0 <= lower < upper <= 100:
        raise ConfigError(f"intensity percentile: lower {lower} and upper {upper} must rise, from 0 to 100")

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        values = data.astype(np.float64)
        low, high = (float(end) for end in np.percentile(values, (lower, upper)))
        scaled: Array = (np.clip((values - low) / max(high - low, 1e-12), 0, 1) * 2 - 1).astype(np.float32)
        return scaled

    return normalise


def unit_range() -> Normalise:
    """The volume's own smallest value becomes 0, its largest 1 (nnU-Net's RescaleTo01Normalization)."""

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        values = data.astype(np.float32)
        values -= values.min()
        scaled: Array = values / np.float32(max(float(values.max()), 1e-8))
        return scaled

    return normalise


def min_max(*, lower: float = 0.0, upper: float = 1.0) -> Normalise:
    """The volume's own smallest value becomes ``lower``, its largest ``upper`` (MONAI's ScaleIntensity).

    A constant volume becomes ``lower`` times its value.
    """

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        values = data.astype(np.float32)
        low, high = values.min(), values.max()
        if low == high:
            return values * np.float32(lower)
        scaled: Array = (values - low) / (high - low) * np.float32(upper - lower) + np.float32(lower)
        return scaled

    return normalise


def in_turn(*, steps: Sequence[str | Mapping[str, Any]]) -> Normalise:
    """Other schemes one after the other: each of ``steps`` is a name, or {name: ..., option: ...}."""
    if not steps:
        raise ConfigError("intensity in_turn: steps is empty; give the schemes that it is made of")
    schemes: list[Normalise] = [build("intensity", INTENSITIES, Component.model_validate(step)) for step in steps]

    def normalise(data: npt.NDArray[np.generic]) -> Array:
        found = schemes[0](data)
        for scheme in schemes[1:]:
            found = scheme(found)
        return found

    return normalise


def divided(*, by: float = 255.0) -> Normalise:
    """The stored intensities ``by`` a number: 255 brings 8-bit colours to the range from 0 to 1."""
    if not (by > 0 and math.isfinite(by)):
        raise ConfigError(f"intensity divided: by is {by}; give a number above 0, such as 255")
    return lambda data: data.astype(np.float32) / np.float32(by)


def none() -> Normalise:
    """The stored intensities as they are."""
    return lambda data: data.astype(np.float32)


INTENSITIES: dict[str, Callable[..., Normalise]] = {
    "ct_window": ct_window,
    "z_score": z_score,
    "z_score_nonzero": z_score_nonzero,
    "percentile": percentile,
    "unit_range": unit_range,
    "min_max": min_max,
    "in_turn": in_turn,
    "divided": divided,
    "none": none,
}
VOXEL_BY_VOXEL = ("ct_window", "divided", "none")
"""Schemes that need nothing of a voxel but its value, so that any part of a volume can be normalised alone."""
