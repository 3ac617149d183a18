"""DeepLabv3+: dilated convolutions of several rates side by side, refined by early features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.encoders import (
    ConvUnit,
    ResNet,
    Rows,
    checked_numbers,
    conv,
    dilated_resnet,
    initialise,
    layers_for,
    resize,
)


def deeplabv3plus(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    encoder: str = "resnet50",
    features: Sequence[int] = (64, 128, 256, 512),
    rates: Sequence[int] = (6, 12, 18),
    aspp_features: int = 256,
    low_features: int = 48,
    strides: Rows | None = None,
    dilations: Sequence[int] = (1, 1, 1, 2),
    deep_supervision: bool = False,
) -> nn.Module:
    """Atrous spatial pyramid pooling on a ResNet, and a decoder that adds early features (doi:10.1007/978-3-030-01234-2_49).

    ``encoder`` is resnet18, resnet34, resnet50 or resnet101 with ``features`` and ``dilations`` of its four stages.
    ``rates`` are the dilations of the pyramid's 3-voxel convolutions beside one of 1 voxel and the patch's mean, each of
    ``aspp_features``; ``low_features`` is what is kept of the first stage's. ``strides`` are those of stem, pooling and
    stages two to four; by default 2, 2, 2, 2 and 1, the paper's output stride of 16.

    Shapes as in ``unet``, but any size will do, and there are no heads for ``deep_supervision``.
    """
    base = dilated_resnet(
        dimensions,
        encoder,
        in_channels=in_channels,
        features=features,
        strides=strides,
        halvings=4,
        dilations=dilations,
    )
    (width,) = checked_numbers("aspp_features", [aspp_features], 1)
    (low,) = checked_numbers("low_features", [low_features], 1)
    rates = checked_numbers("rates", rates, len(rates))
    network = DeepLabV3Plus(dimensions, base, out_channels, rates=rates, width=width, low=low)
    initialise(network)
    return network


class DeepLabV3Plus(nn.Module):
    """A ResNet, the pyramid on its last features, and a decoder of two convolutions at the size of its first."""

    def __init__(
        self, dimensions: int, encoder: ResNet, out_channels: int, *, rates: Sequence[int], width: int, low: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        first, last = encoder.channels[0], encoder.channels[-1]
        self.aspp = ASPP(dimensions, last, width, rates)
        self.low = ConvUnit(dimensions, first, low, kernel=1)
        self.decoder = nn.Sequential(
            ConvUnit(dimensions, width + low, width),
            ConvUnit(dimensions, width, width),
            conv(dimensions, width, out_channels, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *_, last = self.encoder(x)
        coarse = resize(self.aspp(last), first.shape[2:])
        return resize(self.decoder(torch.cat([coarse, self.low(first)], dim=1)), x.shape[2:])


class ASPP(nn.Module):
    """A 1-voxel convolution, dilated ones of ``rates`` and the patch's mean (arXiv:1706.05587), joined to ``width``."""

    def __init__(self, dimensions: int, inputs: int, width: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([ConvUnit(dimensions, inputs, width, kernel=1)])
        self.branches.extend(ConvUnit(dimensions, inputs, width, dilation=rate) for rate in rates)
        pool = layers_for(dimensions).adaptive_mean_pool(1)
        self.mean = nn.Sequential(pool, ConvUnit(dimensions, inputs, width, kernel=1))
        self.join = ConvUnit(dimensions, (2 + len(rates)) * width, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        found = [branch(x) for branch in self.branches]
        found.append(resize(self.mean(x), x.shape[2:]))
        joined: Tensor = self.join(torch.cat(found, dim=1))
        return joined
