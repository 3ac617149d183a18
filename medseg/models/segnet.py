"""SegNet: a decoder that puts features back where the encoder's max pooling took them from."""

from collections.abc import Sequence

from torch import Tensor, nn

from medseg.models.encoders import (
    VGG16_CONVS,
    ConvUnit,
    Rows,
    checked_numbers,
    checked_strides,
    conv,
    initialise,
    layers_for,
    vgg_stages,
)


def segnet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int] = (64, 128, 256, 512, 512),
    strides: Rows | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """VGG16 and its mirror image, which unpools by the indices of the encoder's max pooling (doi:10.1109/TPAMI.2016.2644615).

    ``strides`` are those of the five poolings, 2 each by default. Shapes as in ``unet``, but any size will do, and there
    are no heads for ``deep_supervision``.
    """
    network = SegNet(
        dimensions,
        in_channels,
        out_channels,
        features=checked_numbers("features", features, len(VGG16_CONVS)),
        strides=checked_strides(strides, dimensions, len(VGG16_CONVS)),
    )
    initialise(network)
    return network


class SegNet(nn.Module):
    """13 convolutions down, 13 up, the last of which gives the logits."""

    def __init__(
        self, dimensions: int, in_channels: int, out_channels: int, *, features: Sequence[int], strides: Rows
    ) -> None:
        super().__init__()
        layers = layers_for(dimensions)
        windows = [tuple(row) for row in strides]
        self.encoder = vgg_stages(dimensions, in_channels, features)
        self.pools = nn.ModuleList(layers.max_pool(w, w, ceil_mode=True, return_indices=True) for w in windows)
        self.unpools = nn.ModuleList(layers.max_unpool(w, w) for w in reversed(windows))
        self.decoder = nn.ModuleList()
        for i in reversed(range(1, len(features))):
            same = (ConvUnit(dimensions, features[i], features[i]) for _ in range(VGG16_CONVS[i] - 1))
            self.decoder.append(nn.Sequential(*same, ConvUnit(dimensions, features[i], features[i - 1])))
        self.decoder.append(ConvUnit(dimensions, features[0], features[0]))
        self.head = conv(dimensions, features[0], out_channels, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        taken = []
        for stage, pool in zip(self.encoder, self.pools, strict=True):
            x = stage(x)
            size = x.shape[2:]
            x, indices = pool(x)
            taken.append((indices, size))
        for unpool, stage in zip(self.unpools, self.decoder, strict=True):
            indices, size = taken.pop()
            x = stage(unpool(x, indices, output_size=list(size)))
        logits: Tensor = self.head(x)
        return logits
