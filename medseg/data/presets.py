"""The M, L and XL presets of nnU-Net's residual encoders: how much memory patch and batch may fill.

Source: Isensee 2024, doi:10.1007/978-3-031-72114-4_47, and nnU-Net's planner of that name: a network's feature maps are
counted, and the patch of the median case's shape is shrunk until the count is what a card of that memory holds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medseg.core.errors import ConfigError

LARGEST = 256**3  # voxels to begin with, as nnU-Net does
FEWEST_PATCHES = 2
REFERENCE_PATCHES = {2: 12, 3: 2}  # per step, that the counts below are for


@dataclass(frozen=True)
class Preset:
    """``memory_gb`` of the card, and how many values of feature maps a reference step may have on it, by dimensions."""

    memory_gb: int
    values: Mapping[int, float]


PRESETS = {
    "M": Preset(8, {2: 135e6, 3: 680e6}),
    "L": Preset(24, {2: 380e6, 3: 2_100e6}),
    "XL": Preset(40, {2: 560e6, 3: 3_600e6}),
}


def preset_of(name: str, options: Mapping[str, Any]) -> Preset | None:
    """The preset among the options of the architecture called ``name``. Raises ConfigError for one that there is not."""
    asked = options.get("preset")
    if name != "resenc_unet" or asked is None:
        return None
    if asked not in PRESETS:
        raise ConfigError(f"plan.architecture resenc_unet: preset is {asked!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[asked]


def patches_that_fit(preset: Preset, options: Mapping[str, Any], patch: tuple[int, ...], structures: int) -> int:
    """How many patches of voxels ``patch`` a step may have; 0 where not even two of them fit."""
    dimensions = len(patch)
    values = feature_map_values(options, patch, structures)
    fit = round(preset.values[dimensions] / values * REFERENCE_PATCHES[dimensions])
    smallest = values / REFERENCE_PATCHES[dimensions] * FEWEST_PATCHES
    return 0 if smallest > preset.values[dimensions] else max(FEWEST_PATCHES, fit)


def feature_map_values(options: Mapping[str, Any], patch: tuple[int, ...], out_channels: int) -> int:
    """Values that the convolutions of a ``resenc_unet`` with ``options`` make of one patch, auxiliary heads left out."""
    features, strides = options["features"], options["strides"]
    size, before = list(patch), features[0]
    total: int = features[0] * math.prod(size)
    sizes = []
    for width, stride, blocks in zip(features, strides, options["blocks_per_stage"], strict=True):
        size = [n // step for n, step in zip(size, stride, strict=True)]
        skip = width != before or any(step != 1 for step in stride)
        total += width * math.prod(size) * (2 * blocks + skip)
        sizes.append(math.prod(size))
        before = width
    for width, voxels, convs in zip(features[-2::-1], sizes[-2::-1], options["decoder_convs_per_stage"], strict=True):
        total += width * voxels * (convs + 1)
    return total + out_channels * sizes[0]
