"""PSPNet: features beside their means over a pyramid of regions of the patch."""

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

AUXILIARY_WEIGHT = 0.4  # section 5.1 of the paper


def pspnet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    encoder: str = "resnet50",
    features: Sequence[int] = (64, 128, 256, 512),
    bins: Sequence[int] = (1, 2, 3, 6),
    strides: Rows | None = None,
    dilations: Sequence[int] = (1, 1, 2, 4),
    deep_supervision: bool = False,
) -> nn.Module:
    """Pyramid scene parsing on a dilated ResNet, with an auxiliary loss on its third stage (doi:10.1109/CVPR.2017.660).

    ``encoder`` is resnet18, resnet34, resnet50 or resnet101 with ``features`` and ``dilations`` of its four stages.
    ``bins`` are the regions an axis over which features are averaged. ``strides`` are those of stem, pooling and stages
    two to four; by default 2, 2, 2, 1 and 1, so that logits are made at an eighth of the patch and interpolated.

    Shapes as in ``unet``, but any size will do. In training mode with ``deep_supervision`` it returns the logits and
    those of the auxiliary head, both at full size, whose weights in the loss are ``supervision_weights``.
    """
    base = dilated_resnet(
        dimensions,
        encoder,
        in_channels=in_channels,
        features=features,
        strides=strides,
        halvings=3,
        dilations=dilations,
    )
    network = PSPNet(dimensions, base, out_channels, checked_numbers("bins", bins, len(bins)), deep_supervision)
    initialise(network)
    return network


class PSPNet(nn.Module):
    """A ResNet, the pyramid on its last features, a head, and an auxiliary head on its third features."""

    supervision_weights = (1.0, AUXILIARY_WEIGHT)

    def __init__(
        self, dimensions: int, encoder: ResNet, out_channels: int, bins: Sequence[int], deep_supervision: bool
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.encoder = encoder
        *_, third, last = encoder.channels
        branch = max(1, last // max(1, len(bins)))
        pool = layers_for(dimensions).adaptive_mean_pool
        self.pyramid = nn.ModuleList(nn.Sequential(pool(n), ConvUnit(dimensions, last, branch, kernel=1)) for n in bins)
        width = max(1, last // 4)
        self.head = nn.Sequential(
            ConvUnit(dimensions, last + len(bins) * branch, width), conv(dimensions, width, out_channels, kernel=1)
        )
        width = max(1, third // 4)
        self.auxiliary = nn.Sequential(
            ConvUnit(dimensions, third, width), conv(dimensions, width, out_channels, kernel=1)
        )

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        *_, third, last = self.encoder(x)
        context = [resize(branch(last), last.shape[2:]) for branch in self.pyramid]
        logits = resize(self.head(torch.cat([last, *context], dim=1)), x.shape[2:])
        if self.deep_supervision and self.training:
            return [logits, resize(self.auxiliary(third), x.shape[2:])]
        return logits
