"""The U-Net family of nnU-Net in plain torch: plain or residual encoder, 2D or 3D.

Architecture: U-Net (doi:10.1007/978-3-319-24574-4_28) as configured by nnU-Net (doi:10.1038/s41592-020-01008-z) and its residual presets
(doi:10.1007/978-3-031-72114-4_47). Module names are part of the contract: they make the keys of the state dict those of nnU-Net's networks,
so that its weights load with ``strict=True`` after ``from_nnunet_state_dict``.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

NEGATIVE_SLOPE = 0.01
NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class Layers:
    """The torch layers of one number of spatial dimensions."""

    conv: Callable[..., nn.Module]
    transposed_conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    mean_pool: Callable[..., nn.Module]


LAYERS = {
    2: Layers(nn.Conv2d, nn.ConvTranspose2d, nn.InstanceNorm2d, nn.AvgPool2d),
    3: Layers(nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d, nn.AvgPool3d),
}


@dataclass(frozen=True)
class Shape:
    """What the encoder and the decoder must agree on; one entry per resolution stage, full resolution first."""

    layers: Layers
    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]
    bias: bool

    @property
    def unit(self) -> tuple[int, ...]:
        """Kernel or stride of one voxel along every axis."""
        return (1,) * len(self.strides[0])


def unet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    convs_per_stage: Sequence[int],
    decoder_convs_per_stage: Sequence[int],
    deep_supervision: bool = False,
    conv_bias: bool = True,
) -> nn.Module:
    """U-Net with a plain convolutional encoder, initialised as nnU-Net does (doi:10.1109/ICCV.2015.123).

    ``features``, ``kernel_sizes``, ``strides`` and ``convs_per_stage`` have one entry per resolution stage, full resolution first;
    ``decoder_convs_per_stage`` has one entry less, lowest resolution first. ``strides[0]`` is all ones. Raises ValueError when they disagree.

    Maps (B, in_channels, *spatial) to logits (B, out_channels, *spatial); every spatial size is a multiple of the product of the strides along
    its axis. In training mode with ``deep_supervision`` it returns one logits tensor per decoder stage, full resolution first. The state dict
    does not depend on ``deep_supervision``.
    """
    shape = _shape(dimensions, features=features, kernel_sizes=kernel_sizes, strides=strides, bias=conv_bias)
    _check_counts(shape, convs_per_stage=convs_per_stage, decoder_convs_per_stage=decoder_convs_per_stage)
    inputs = (in_channels, *shape.features)
    # The nested Sequential holds a place in the keys where nnU-Net may put a pooling layer.
    stages = [
        nn.Sequential(ConvStack(shape, stage, in_channels=inputs[stage], stride=shape.strides[stage], count=count))
        for stage, count in enumerate(convs_per_stage)
    ]
    return _assemble(shape, nn.Identity(), stages, out_channels, decoder_convs_per_stage, deep_supervision)


def resenc_unet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    blocks_per_stage: Sequence[int],
    decoder_convs_per_stage: Sequence[int],
    deep_supervision: bool = False,
    conv_bias: bool = True,
) -> nn.Module:
    """U-Net with a residual encoder (ResNet-D blocks, doi:10.1109/CVPR.2019.00065); the rest is as in ``unet``.

    ``blocks_per_stage`` counts residual blocks of two convolutions each, full resolution first. Every residual branch starts at zero, so that
    a fresh encoder passes on its skip connections alone.
    """
    shape = _shape(dimensions, features=features, kernel_sizes=kernel_sizes, strides=strides, bias=conv_bias)
    _check_counts(shape, blocks_per_stage=blocks_per_stage, decoder_convs_per_stage=decoder_convs_per_stage)
    stem = ConvStack(shape, 0, in_channels=in_channels, stride=shape.unit, count=1)
    inputs = (shape.features[0], *shape.features)
    stages = [
        ResidualStack(shape, stage, in_channels=inputs[stage], count=count)
        for stage, count in enumerate(blocks_per_stage)
    ]
    return _assemble(shape, stem, stages, out_channels, decoder_convs_per_stage, deep_supervision)


def from_nnunet_state_dict(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of nnU-Net's PlainConvUNet or ResidualEncoderUNet under the keys of ``unet`` and ``resenc_unet``.

    nnU-Net stores every tensor under up to four names, since its decoder holds the encoder and its blocks hold their layers twice. One name
    stays. The prefixes that torch.compile and DistributedDataParallel add go too. Tensors are not copied.
    """
    unwrapped = {_without_wrappers(key): tensor for key, tensor in state.items()}
    return {
        key: tensor
        for key, tensor in unwrapped.items()
        if not key.startswith("decoder.encoder.") and ".all_modules." not in key
    }


class ConvNorm(nn.Module):
    """Convolution that keeps the size up to its stride, then instance norm; (B, C, *spatial) -> (B, out_channels, *spatial / stride)."""

    def __init__(
        self,
        layers: Layers,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        bias: bool,
    ) -> None:
        super().__init__()
        padding = tuple(size // 2 for size in kernel_size)
        self.conv = layers.conv(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        self.norm = layers.norm(out_channels, eps=NORM_EPSILON, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        normalised: Tensor = self.norm(self.conv(x))
        return normalised


class ConvStack(nn.Module):
    """``count`` times convolution, norm and LeakyReLU with the features and kernel of ``stage``; the first convolution has the stride."""

    def __init__(self, shape: Shape, stage: int, *, in_channels: int, stride: tuple[int, ...], count: int) -> None:
        super().__init__()
        out_channels = shape.features[stage]
        self.convs = nn.ModuleList(
            ConvNorm(
                shape.layers,
                in_channels=in_channels if i == 0 else out_channels,
                out_channels=out_channels,
                kernel_size=shape.kernel_sizes[stage],
                stride=stride if i == 0 else shape.unit,
                bias=shape.bias,
            )
            for i in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = _activate(conv(x))
        return x


class ResidualBlock(nn.Module):
    """ResNet-D block: two convolutions beside a skip of mean pooling (where strided) and a 1-voxel projection (where features change)."""

    def __init__(self, shape: Shape, stage: int, *, in_channels: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        features = shape.features[stage]
        conv = partial(
            ConvNorm, shape.layers, out_channels=features, kernel_size=shape.kernel_sizes[stage], bias=shape.bias
        )
        self.conv1 = conv(in_channels=in_channels, stride=stride)
        self.conv2 = conv(in_channels=features, stride=shape.unit)
        self.skip = nn.Sequential()
        if stride != shape.unit:
            self.skip.append(shape.layers.mean_pool(stride, stride))
        if in_channels != features:
            self.skip.append(conv(in_channels=in_channels, kernel_size=shape.unit, stride=shape.unit, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.conv2(_activate(self.conv1(x)))
        residual += self.skip(x)
        return _activate(residual)


class ResidualStack(nn.Module):
    """``count`` residual blocks with the features, kernel and stride of ``stage``."""

    def __init__(self, shape: Shape, stage: int, *, in_channels: int, count: int) -> None:
        super().__init__()
        first = ResidualBlock(shape, stage, in_channels=in_channels, stride=shape.strides[stage])
        others = (
            ResidualBlock(shape, stage, in_channels=shape.features[stage], stride=shape.unit) for _ in range(count - 1)
        )
        self.blocks = nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.blocks(x)
        return features


class Encoder(nn.Module):
    """The stem and the stages; returns the features of every stage, full resolution first."""

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
    """From the encoder's features, which it empties, to logits: of full resolution, or of every stage under deep supervision."""

    def __init__(self, shape: Shape, *, out_channels: int, counts: Sequence[int], deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.transpconvs, self.stages, self.seg_layers = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for stage, count in zip(reversed(range(len(counts))), counts, strict=True):
            features, below, stride = shape.features[stage], shape.features[stage + 1], shape.strides[stage + 1]
            self.transpconvs.append(
                shape.layers.transposed_conv(below, features, stride, stride=stride, bias=shape.bias)
            )
            self.stages.append(ConvStack(shape, stage, in_channels=2 * features, stride=shape.unit, count=count))
            self.seg_layers.append(shape.layers.conv(features, out_channels, 1))

    def forward(self, skips: list[Tensor]) -> Tensor | list[Tensor]:
        supervised = self.deep_supervision and self.training
        logits: list[Tensor] = []
        x = skips.pop()
        for upsample, stage, head in zip(self.transpconvs, self.stages, self.seg_layers, strict=True):
            # pop() lets go of each skip once it is joined: without gradients its memory is free during the convolutions
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            if supervised:
                logits.append(head(x))
        return logits[::-1] if supervised else self.seg_layers[-1](x)


class UNet(nn.Module):
    """An encoder and a decoder; see ``unet`` for shapes."""

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits: Tensor | list[Tensor] = self.decoder(self.encoder(x))
        return logits


def _shape(
    dimensions: int,
    *,
    features: Sequence[int],
    kernel_sizes: Sequence[Sequence[int]],
    strides: Sequence[Sequence[int]],
    bias: bool,
) -> Shape:
    if dimensions not in LAYERS:
        raise ValueError(f"dimensions is {dimensions!r}; a U-Net has {' or '.join(map(str, LAYERS))}")
    for name, rows in (("kernel_sizes", kernel_sizes), ("strides", strides)):
        if len(rows) != len(features) or any(len(row) != dimensions for row in rows):
            raise ValueError(
                f"{name} is {rows!r}; expected {len(features)} entries (one per entry of features) of {dimensions} numbers"
            )
    if len(features) < 2:
        raise ValueError(f"features is {features!r}; a U-Net needs at least two resolution stages")
    if any(size % 2 == 0 for kernel_size in kernel_sizes for size in kernel_size):
        raise ValueError(f"kernel_sizes is {kernel_sizes!r}; every size must be odd, so that the patch keeps its size")
    if any(step != 1 for step in strides[0]):
        raise ValueError(f"strides[0] is {strides[0]!r}; the first stage works at full resolution, so it must be all 1")
    return Shape(LAYERS[dimensions], tuple(features), tuple(map(tuple, kernel_sizes)), tuple(map(tuple, strides)), bias)


def _check_counts(shape: Shape, *, decoder_convs_per_stage: Sequence[int], **encoder_counts: Sequence[int]) -> None:
    stages = len(shape.features)
    expected = dict.fromkeys(encoder_counts, stages) | {"decoder_convs_per_stage": stages - 1}
    for name, counts in (*encoder_counts.items(), ("decoder_convs_per_stage", decoder_convs_per_stage)):
        if len(counts) != expected[name] or any(count < 1 for count in counts):
            raise ValueError(
                f"{name} is {counts!r}; expected {expected[name]} entries of at least 1, for {stages} stages"
            )


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, ResidualBlock):
            nn.init.zeros_(module.conv2.norm.weight)
            nn.init.zeros_(module.conv2.norm.bias)


def _activate(x: Tensor) -> Tensor:
    return leaky_relu(x, NEGATIVE_SLOPE, inplace=True)


def _without_wrappers(key: str) -> str:
    while key.startswith(("module.", "_orig_mod.")):
        key = key.partition(".")[2]
    return key
