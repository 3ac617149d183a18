"""FCN: a fully convolutional classifier whose coarse scores are refined by those of earlier stages."""

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.encoders import (
    RESNETS,
    VGG16,
    ConvUnit,
    ResNet,
    Rows,
    checked_encoder,
    checked_numbers,
    checked_strides,
    conv,
    initialise,
    resize,
)

FUSED_SKIPS = {32: 0, 16: 1, 8: 2}


def fcn(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    encoder: str = "vgg16",
    fuse: int = 8,
    features: Sequence[int] = (64, 128, 256, 512, 512),
    head_features: int = 4096,
    strides: Rows | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """FCN-8s, -16s or -32s on VGG16 or a ResNet: scores of coarse stages, fused upwards (doi:10.1109/CVPR.2015.7298965).

    ``encoder`` is vgg16, resnet18, resnet34, resnet50 or resnet101; ``features`` are those of its stages, five of VGG16
    and four of a ResNet. ``fuse`` 8 adds the scores of the two stages before the last, as pool4 and pool3 of the paper,
    16 those of one, 32 none. VGG16 ends in the paper's convolutional classifier of ``head_features``, 7 pixels wide, or
    3 voxels in 3D, where 7 would have 343 weights a pair of features. ``strides`` are those of the five halvings, 2 each
    by default; the paper's names then say the stride of the finest scores. Upsampling is linear.

    Shapes as in ``unet``, but any size will do, and there are no heads for ``deep_supervision``.
    """
    if fuse not in FUSED_SKIPS:
        raise ConfigError(f"fuse is {fuse!r}; choose 8, 16 or 32")
    rows = checked_strides(strides, dimensions, 5)
    base: nn.Module
    if checked_encoder(encoder, ("vgg16", *RESNETS)) == "vgg16":
        channels = checked_numbers("features", features, 5)
        base = VGG16(dimensions, in_channels, channels, rows)
        (head,) = checked_numbers("head_features", [head_features], 1)
        kernel = 7 if dimensions == 2 else 3
        classifier = nn.Sequential(
            ConvUnit(dimensions, channels[-1], head, kernel=kernel), ConvUnit(dimensions, head, head, kernel=1)
        )
        widths = (*channels[:-1], head)
    else:
        resnet = ResNet(
            dimensions,
            encoder,
            in_channels=in_channels,
            features=checked_numbers("features", features, 4),
            strides=rows,
        )
        base, classifier, widths = resnet, nn.Sequential(), resnet.channels
    network = FCN(base, classifier, dimensions, widths[::-1][: 1 + FUSED_SKIPS[fuse]], out_channels)
    initialise(network)
    return network


class FCN(nn.Module):
    """An encoder, a classifier on its last features, and a score layer for each stage that is fused, coarsest first."""

    def __init__(
        self, encoder: nn.Module, classifier: nn.Module, dimensions: int, widths: Sequence[int], out_channels: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = classifier
        self.scores = nn.ModuleList(conv(dimensions, width, out_channels, kernel=1) for width in widths)

    def forward(self, x: Tensor) -> Tensor:
        found = self.encoder(x)
        found[-1] = self.classifier(found[-1])
        logits: Tensor = self.scores[0](found[-1])
        for score, features in zip(self.scores[1:], found[-2::-1], strict=False):
            finer = score(features)
            logits = finer + resize(logits, finer.shape[2:])
        return resize(logits, x.shape[2:])
