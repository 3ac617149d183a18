"""The options of each architecture that follow from the patch, its stages and the width that fits the time."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medseg.core.errors import ConfigError

Rows = Sequence[Sequence[int]]
Options = dict[str, Any]

VGG_POOLINGS = 5
MOST_FEATURES = {2: 512, 3: 320}  # Isensee 2021, doi:10.1038/s41592-020-01008-z
RESENC_BLOCKS = (1, 3, 4, 6, 6, 6)  # Isensee 2024, doi:10.1007/978-3-031-72114-4_47


@dataclass(frozen=True)
class Rung:
    """A network of the ladder: ``features`` of its first stage, and one instead of two convolutions where it is ``light``.

    A light network halves the work at full resolution, where most of it lies.
    """

    features: int
    light: bool = False


@dataclass(frozen=True)
class Stages:
    """What the grid says about a network: ``strides`` and ``kernel_sizes`` of a U-Net's stages, and the ``patch`` they divide.

    ``patch`` has the axes of the network: two for 2D.
    """

    kernel_sizes: Rows
    strides: Rows
    patch: Sequence[int]

    @property
    def dimensions(self) -> int:
        return len(self.patch)

    def halvings(self, count: int, most: int | None = None) -> list[list[int]]:
        """``count`` rows of strides: the U-Net's, at most ``most`` of them, then ones."""
        rows = [list(row) for row in self.strides[1 : 1 + (count if most is None else most)]]
        return rows + [[1] * self.dimensions] * (count - len(rows))

    def map_size(self, rows: Rows) -> int:
        """The longest axis of the features that ``rows`` of strides leave of the patch."""
        return max(n // math.prod(row[axis] for row in rows) for axis, n in enumerate(self.patch))


def options_for(name: str, given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    """The options of the architecture called ``name``; those ``given`` overrule, and others follow them where they must."""
    kept = {key: value for key, value in given.items() if key not in PLANNER_OPTIONS.get(name, ())}
    if name in OF_STAGES and isinstance(features := given.get("features"), list | tuple) and "strides" not in given:
        stages = _as_many(name, stages, len(features))
    return {**PLANNERS[name](given, rung, stages), **kept} if name in PLANNERS else kept


def _as_many(name: str, stages: Stages, count: int) -> Stages:
    """``stages`` cut to ``count``, as many as the config gives features for. Raises ConfigError where the patch has fewer."""
    if count > len(stages.strides):
        raise ConfigError(
            f"plan.architecture: {name}: features has {count} entries, but a patch of {'x'.join(map(str, stages.patch))} makes "
            f"{len(stages.strides)} stages; give so many features at most, a larger plan.patch_size, or strides, too"
        )
    return replace(stages, strides=stages.strides[:count], kernel_sizes=stages.kernel_sizes[:count])


def reason_for(name: str, stages: Stages) -> str:
    """Why the network has the shape that it has, in a few words."""
    halving = "halve an axis while at least 4 voxels stay, coarse axes later"
    if name in MULTIPLES:
        return f"published shape, which halves every axis alike: patches in multiples of {MULTIPLES[name]} fill it"
    if name in OF_STAGES:
        return f"{len(stages.strides)} stages: {halving}"
    return f"published shape, with the patch's {len(stages.strides) - 1} halvings as its strides: {halving}"


def size_multiple(name: str) -> int:
    """What each axis of a patch is best a multiple of; 1 where the U-Net's strides are the network's own."""
    return MULTIPLES.get(name, 1)


OF_STAGES = ("unet", "resenc_unet", "attention_unet")  # an entry of each option for each of the patch's stages
# Options that the planner alone understands, by architecture: what they ask for is in the plan.
PLANNER_OPTIONS = {"resenc_unet": ("preset",)}
MULTIPLES = {"segresnet": 8, "mednext": 16, "unet_plus_plus": 16, "swin_unetr": 32}


def _widths(rung: Rung, stages: Stages) -> list[int]:
    return [min(rung.features * 2**s, MOST_FEATURES[stages.dimensions]) for s in range(len(stages.strides))]


def _doubling(given: Mapping[str, Any], first: int, most: int) -> list[int]:
    """Features that double from ``first``, for as many stages as ``given`` has or ``most``."""
    asked = given.get("features")
    return [first * 2**s for s in range(len(asked) if isinstance(asked, list | tuple) else most)]


def _unet(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    count = len(stages.strides)
    ends = 1 if rung.light else 2
    return {
        "features": _widths(rung, stages),
        "kernel_sizes": [list(row) for row in stages.kernel_sizes],
        "strides": [list(row) for row in stages.strides],
        "convs_per_stage": [ends] + [2] * (count - 1),
        "decoder_convs_per_stage": [2] * (count - 2) + [ends] if count > 1 else [],
    }


def _resenc_unet(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    count = len(stages.strides)
    return {
        "features": _widths(rung, stages),
        "kernel_sizes": [list(row) for row in stages.kernel_sizes],
        "strides": [list(row) for row in stages.strides],
        "blocks_per_stage": list(RESENC_BLOCKS[:count]),
        "decoder_convs_per_stage": [1] * (count - 1),
    }


def _attention_unet(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    return {"features": _widths(rung, stages), "strides": [list(row) for row in stages.strides[1:]]}


def _unet_plus_plus(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    f = rung.features
    return {"features": [f, f, 2 * f, 4 * f, 8 * f, f]}  # MONAI's proportions


def _segresnet(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    features = _doubling(given, rung.features, 4)
    return {"features": features, "blocks_per_stage": [1, *[2] * (len(features) - 2), 4]}  # 1, 2, 2, 4 as published


def _mednext(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    features = _doubling(given, rung.features, 5)
    return {
        "features": features,
        "blocks_per_stage": [2] * len(features),
        "expansions": [2] * len(features),
        "kernel": 3,
    }


def _swin_unetr(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    first = 12 * max(1, rung.features // 8)  # heads need multiples of 12; 32 features become the published 48
    return {"features": _doubling({}, first, 5), "blocks_per_stage": [2, 2, 2, 2], "window": 7}


def _fcn(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    f = rung.features
    common = {"encoder": "vgg16", "fuse": 8, "strides": stages.halvings(VGG_POOLINGS)}
    if given.get("encoder", "vgg16") != "vgg16":
        return {**common, "features": [f, 2 * f, 4 * f, 8 * f]}
    # The paper's 4096 in the classifier were for 1000 classes of photographs: twice the last stage's here.
    return {**common, "features": [f, 2 * f, 4 * f, 8 * f, 8 * f], "head_features": 16 * f}


def _segnet(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    f = rung.features
    return {"features": [f, 2 * f, 4 * f, 8 * f, 8 * f], "strides": stages.halvings(VGG_POOLINGS)}


def _dilated_resnet(rung: Rung, stages: Stages, halvings: int) -> Options:
    """A ResNet of ``halvings`` out of five, the rest made up for by dilation, as far as the patch has so many."""
    f = rung.features
    rows = stages.halvings(5, halvings)
    deep = len(stages.strides) - 1 >= halvings
    dilations = {3: [1, 1, 2, 4], 4: [1, 1, 1, 2]}[halvings] if deep else [1, 1, 1, 1]
    return {
        "encoder": "resnet50" if f >= 32 else "resnet18",
        "features": [f, 2 * f, 4 * f, 8 * f],
        "strides": rows,
        "dilations": dilations,
    }


def _pspnet(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    options = _dilated_resnet(rung, stages, 3)
    size = stages.map_size(options["strides"])
    return {**options, "bins": [n for n in (1, 2, 3, 6) if n <= size]}


def _deeplabv3plus(given: Mapping[str, Any], rung: Rung, stages: Stages) -> Options:
    options = _dilated_resnet(rung, stages, 4)
    # The paper's rates 6, 12 and 18 are for features of 33 x 33; the same shares of smaller ones.
    size = stages.map_size(options["strides"])
    rates = sorted({max(1, round(rate * min(size, 33) / 33)) for rate in (6, 12, 18)})
    f = rung.features
    return {**options, "rates": rates, "aspp_features": 4 * f, "low_features": max(4, 3 * f // 4)}


PLANNERS: dict[str, Callable[[Mapping[str, Any], Rung, Stages], Options]] = {
    "unet": _unet,
    "resenc_unet": _resenc_unet,
    "attention_unet": _attention_unet,
    "unet_plus_plus": _unet_plus_plus,
    "segresnet": _segresnet,
    "mednext": _mednext,
    "swin_unetr": _swin_unetr,
    "fcn": _fcn,
    "segnet": _segnet,
    "pspnet": _pspnet,
    "deeplabv3plus": _deeplabv3plus,
}
