"""The U-Net family of nnU-Net in plain torch: plain or residual encoder, 2D or 3D.

Architecture: U-Net (doi:10.1007/978-3-319-24574-4_28) as configured by nnU-Net (doi:10.1038/s41592-020-01008-z) and
its residual presets (doi:10.1007/978-3-031-72114-4_47). The attribute names are a contract: they give the state dict
the keys of nnU-Net's networks, whose weights load with ``strict=True`` after ``from_nnunet_state_dict``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from medseg.core.errors import ConfigError

NEGATIVE_SLOPE = 0.01
NORM_EPSILON = 1e-5
MOST_STAGES, MOST_LAYERS = 16, 100  # strides of 2 leave one voxel of 32768; a stage of ResEnc XL has 6 blocks

Size = tuple[int, ...]
Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Layers:
    """The torch layers for one number of spatial dimensions."""

    conv: Callable[..., nn.Module]
    transposed_conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    mean_pool: Callable[..., nn.Module]


LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.AvgPool2d),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d, nn.AvgPool3d),
}


@dataclass(frozen=True)
class Stages:
    """What encoder and decoder agree on: one entry per resolution stage, full resolution first."""

    layers: Layers
    features: Size
    kernel_sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    bias: bool

    @property
    def unit(self) -> Size:
        """A kernel or stride of one voxel."""
        return (1,) * len(self.strides[0])


def unet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int],
    kernel_sizes: Rows,
    strides: Rows,
    convs_per_stage: Sequence[int],
    decoder_convs_per_stage: Sequence[int],
    deep_supervision: bool = False,
    conv_bias: bool = True,
) -> nn.Module:
    """U-Net with a plain convolutional encoder, initialised as nnU-Net does (doi:10.1109/ICCV.2015.123).

    ``features``, ``kernel_sizes``, ``strides`` and ``convs_per_stage`` have one entry per resolution stage, full
    resolution first, and ``strides[0]`` is all ones; ``decoder_convs_per_stage`` has one entry less and, as in nnU-Net,
    begins at the lowest resolution. Raises ConfigError when they do not fit together.

    The network maps (B, in_channels, *spatial) to logits (B, out_channels, *spatial); along each axis the size must be
    a multiple of the product of the strides. In training mode with ``deep_supervision`` it returns one logits tensor
    per decoder stage, full resolution first. The state dict does not depend on ``deep_supervision``.
    """
    stages = _stages(dimensions, features, kernel_sizes, strides, conv_bias)
    _check_counts("convs_per_stage", convs_per_stage, len(features))
    inputs = (in_channels, *features)
    convs = (
        ConvStack(stages, i, in_channels=inputs[i], stride=stages.strides[i], count=count)
        for i, count in enumerate(convs_per_stage)
    )
    encoder = Encoder(nn.Identity(), map(nn.Sequential, convs))  # nnU-Net's keys keep a place for pooling: stages.0.0
    return _unet(encoder, stages, out_channels, decoder_convs_per_stage, deep_supervision)


def resenc_unet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int],
    kernel_sizes: Rows,
    strides: Rows,
    blocks_per_stage: Sequence[int],
    decoder_convs_per_stage: Sequence[int],
    deep_supervision: bool = False,
    conv_bias: bool = True,
) -> nn.Module:
    """U-Net with a residual encoder of ResNet-D blocks (doi:10.1109/CVPR.2019.00065); preset M, L, XL; else as ``unet``.

    ``blocks_per_stage`` counts blocks of two convolutions, full resolution first. Every residual branch starts at zero,
    so that a fresh encoder is its skip connections alone.
    """
    stages = _stages(dimensions, features, kernel_sizes, strides, conv_bias)
    _check_counts("blocks_per_stage", blocks_per_stage, len(features))
    inputs = (features[0], *features)
    encoder = Encoder(
        ConvStack(stages, 0, in_channels=in_channels, stride=stages.unit, count=1),
        (ResidualStack(stages, i, in_channels=inputs[i], count=count) for i, count in enumerate(blocks_per_stage)),
    )
    return _unet(encoder, stages, out_channels, decoder_convs_per_stage, deep_supervision)


def from_nnunet_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of nnU-Net's PlainConvUNet or ResidualEncoderUNet under the keys of ``unet`` and ``resenc_unet``.

    nnU-Net lists each tensor under up to four names, because its decoder also holds the encoder and its blocks hold
    their layers twice; one name stays. Prefixes added by torch.compile and DistributedDataParallel go. Nothing is
    copied.
    """
    unwrapped = {_without_wrappers(key): tensor for key, tensor in state.items()}
    aliases = ("decoder.encoder.", ".all_modules.")
    return {key: tensor for key, tensor in unwrapped.items() if not any(alias in key for alias in aliases)}


class ConvNorm(nn.Module):
    """Convolution, padded to lose no border, then instance norm."""

    def __init__(
        self, layers: Layers, *, in_channels: int, out_channels: int, kernel: Size, stride: Size, bias: bool
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel)
        self.conv = layers.conv(in_channels, out_channels, kernel, stride=stride, padding=padding, bias=bias)
        self.norm = layers.norm(out_channels, eps=NORM_EPSILON, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


class ConvStack(nn.Module):
    """``count`` times convolution, norm and LeakyReLU of ``stage``; the first convolution has the stride."""

    def __init__(self, stages: Stages, stage: int, *, in_channels: int, stride: Size, count: int) -> None:
        super().__init__()
        features, kernel = stages.features[stage], stages.kernel_sizes[stage]
        conv = partial(ConvNorm, stages.layers, out_channels=features, kernel=kernel, bias=stages.bias)
        first = conv(in_channels=in_channels, stride=stride)
        self.convs = nn.ModuleList([first, *(conv(in_channels=features, stride=stages.unit) for _ in range(1, count))])

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = _activate(conv(x))
        return x


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip: mean pooling where strided, 1-voxel projection where the features change."""

    def __init__(self, stages: Stages, stage: int, *, in_channels: int, stride: Size) -> None:
        super().__init__()
        features, kernel = stages.features[stage], stages.kernel_sizes[stage]
        conv = partial(ConvNorm, stages.layers, out_channels=features, kernel=kernel, bias=stages.bias)
        self.conv1 = conv(in_channels=in_channels, stride=stride)
        self.conv2 = conv(in_channels=features, stride=stages.unit)
        self.skip = nn.Sequential()
        if stride != stages.unit:
            self.skip.append(stages.layers.mean_pool(stride, stride))
        if in_channels != features:
            self.skip.append(conv(in_channels=in_channels, kernel=stages.unit, stride=stages.unit, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(_activate(self.conv1(x)))
        residual += self.skip(x)
        return _activate(residual)


class ResidualStack(nn.Module):
    """``count`` residual blocks of ``stage``; the first has the stride."""

    def __init__(self, stages: Stages, stage: int, *, in_channels: int, count: int) -> None:
        super().__init__()
        block = partial(ResidualBlock, stages, stage)
        first = block(in_channels=in_channels, stride=stages.strides[stage])
        others = (block(in_channels=stages.features[stage], stride=stages.unit) for _ in range(1, count))
        self.blocks = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)
        return features


class Encoder(nn.Module):
    """A stem, then the stages; returns the features of each stage, full resolution first."""

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        skips = []
        for stage in self.stages:
            x = stage(x)
            skips.append(x)
        return skips


class Decoder(nn.Module):
    """From the encoder's features, a list that it empties, to logits as ``unet`` describes them."""

    def __init__(self, stages: Stages, out_channels: int, counts: Sequence[int], deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.transpconvs, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for i, count in zip(reversed(range(len(counts))), counts, strict=True):
            features, stride = stages.features[i], stages.strides[i + 1]
            upsample = partial(stages.layers.transposed_conv, kernel_size=stride, stride=stride, bias=stages.bias)
            self.transpconvs.append(upsample(stages.features[i + 1], features))
            self.stages.append(ConvStack(stages, i, in_channels=2 * features, stride=stages.unit, count=count))
            self.seg_layers.append(stages.layers.conv(features, out_channels, kernel_size=1))

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        supervised = self.deep_supervision and self.training
        logits: list[Tensor] = []
        x = skips.pop()
        for upsample, stage, head in zip(self.transpconvs, self.stages, self.seg_layers, strict=True):
            # pop lets a joined skip go: inference on 96^3 voxels peaks at 0.7 GiB instead of nnU-Net's 0.8 to 0.9 GiB
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            if supervised:
                logits.append(head(x))
        return logits[::-1] if supervised else self.seg_layers[-1](x)


class UNet(nn.Module):
    """An encoder and a decoder; shapes as in ``unet``."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits: Tensor | list[Tensor] = self.decoder(self.encoder(x))
        return logits


def _activate(x: Tensor) -> Tensor:
    return leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


def _unet(
    encoder: Encoder, stages: Stages, out_channels: int, decoder_counts: Sequence[int], deep_supervision: bool
) -> UNet:
    _check_counts("decoder_convs_per_stage", decoder_counts, len(stages.features) - 1)
    network = UNet(encoder, Decoder(stages, out_channels, decoder_counts, deep_supervision))
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.get_parameter("weight"))
    return network


def _stages(dimensions: int, features: Sequence[int], kernel_sizes: Rows, strides: Rows, bias: bool) -> Stages:
    if dimensions not in LAYERS:
        raise ConfigError(f"dimensions is {dimensions!r}; a U-Net has 2 or 3")
    if not 2 <= len(features) <= MOST_STAGES:
        raise ConfigError(f"features is {list(features)}; a U-Net has 2 to {MOST_STAGES} resolution stages")
    for name, rows in (("kernel_sizes", kernel_sizes), ("strides", strides)):
        if len(rows) != len(features) or any(len(row) != dimensions for row in rows):
            raise ConfigError(f"{name} is {rows}; expected {len(features)} entries of {dimensions} numbers each")
    if any(size % 2 == 0 for kernel in kernel_sizes for size in kernel):
        raise ConfigError(f"kernel_sizes is {kernel_sizes}; every size must be odd to be centred on a voxel")
    if any(step != 1 for step in strides[0]):
        raise ConfigError(f"strides[0] is {strides[0]}; the first stage keeps full resolution, so it must be all ones")
    return Stages(
        LAYERS[dimensions], tuple(features), tuple(map(tuple, kernel_sizes)), tuple(map(tuple, strides)), bias
    )


def _check_counts(name: str, counts: Sequence[int], expected: int) -> None:
    if len(counts) != expected or any(not 1 <= count <= MOST_LAYERS for count in counts):
        raise ConfigError(f"{name} is {list(counts)}; expected {expected} entries from 1 to {MOST_LAYERS}")


def _without_wrappers(key: str) -> str:
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key
