"""Networks: the table of architectures and the one function that builds from it.

A factory takes ``in_channels``, ``out_channels`` and ``dimensions``, which follow from the data, and its own options,
all by keyword. Its network maps (B, in_channels, *spatial) to logits (B, out_channels, *spatial).
"""

from collections.abc import Callable

from torch import nn

from medseg.core.component import Component, build
from medseg.models.per_slice import PerSlice
from medseg.models.unet import resenc_unet, unet

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "unet": unet,
    "resenc_unet": resenc_unet,
}


def build_network(
    architecture: Component, *, in_channels: int, out_channels: int, dimensions: int, slice_axis: int | None = None
) -> nn.Module:
    """The network called ``architecture.name`` with its options, for patches (B, in_channels, *spatial).

    A 2D network with a ``slice_axis`` comes wrapped in ``PerSlice`` and takes 3D patches. Raises ConfigError for an
    unknown name or option.
    """
    known = {"in_channels": in_channels, "out_channels": out_channels, "dimensions": dimensions}
    network: nn.Module = build(
        "architecture", ARCHITECTURES, Component(name=architecture.name, options={**architecture.options, **known})
    )
    return network if slice_axis is None else PerSlice(network, slice_axis)
