"""Networks: the table of architectures and the one function that builds from it.

A factory takes ``in_channels``, ``out_channels`` and ``dimensions``, which follow from the data, and its own options,
all by keyword. Its network maps (B, in_channels, *spatial) to logits (B, out_channels, *spatial).
"""

from collections.abc import Callable

from torch import nn

from medseg.core.component import Component, build
from medseg.models.bundle_networks import Reordered, monai
from medseg.models.deeplab import deeplabv3plus
from medseg.models.fcn import fcn
from medseg.models.monai_networks import (
    SeveralHeads,
    attention_unet,
    mednext,
    segresnet,
    swin_unetr,
    unet_plus_plus,
)
from medseg.models.padded import Padded
from medseg.models.per_slice import PerSlice
from medseg.models.pspnet import pspnet
from medseg.models.segnet import segnet
from medseg.models.unet import resenc_unet, unet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "unet": unet,
    "resenc_unet": resenc_unet,
    "attention_unet": attention_unet,
    "unet_plus_plus": unet_plus_plus,
    "segresnet": segresnet,
    "mednext": mednext,
    "swin_unetr": swin_unetr,
    "fcn": fcn,
    "segnet": segnet,
    "pspnet": pspnet,
    "deeplabv3plus": deeplabv3plus,
}

IMPORTED_ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"monai": monai}
"""What an imported model may have beside those: to segment with, not to train."""

WRAPPERS = (PerSlice, Padded, SeveralHeads, Reordered)
"""Modules around a ``network`` whose weights are all of theirs, under its own keys."""


def build_network(
    architecture: Component, *, in_channels: int, out_channels: int, dimensions: int, slice_axis: int | None = None
) -> nn.Module:
    """The network called ``architecture.name`` with its options, for patches (B, in_channels, *spatial).

    A 2D network with a ``slice_axis`` comes wrapped in ``PerSlice`` and takes 3D patches. Raises ConfigError for an
    unknown name or option.
    """
    known = {"in_channels": in_channels, "out_channels": out_channels, "dimensions": dimensions}
    table = IMPORTED_ARCHITECTURES if architecture.name in IMPORTED_ARCHITECTURES else ARCHITECTURES
    network: nn.Module = build(
        "architecture", table, Component(name=architecture.name, options={**architecture.options, **known})
    )
    return network if slice_axis is None else PerSlice(network, slice_axis)


def supervision_weights(network: nn.Module) -> tuple[float, ...] | None:
    """The weight in the loss of each logits tensor that ``network`` lists in training; None for those of a U-Net's stages."""
    weights: tuple[float, ...] | None = getattr(network, "supervision_weights", None)
    return supervision_weights(network.network) if weights is None and isinstance(network, WRAPPERS) else weights
