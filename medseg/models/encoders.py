"""VGG16 and ResNet in 2D and 3D without their classifiers: encoders that a decoder is put on.

Their batch norm is group norm here (arXiv:1803.08494): the statistics of one or two patches are noise,
and a bottleneck of a single voxel has none. Convolutions before a norm have no bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.core.errors import ConfigError

MOST_GROUPS = 8  # those of MONAI's SegResNet
FEWEST_PER_GROUP = 4  # of a single voxel, fewer channels would be normalised to nearly nothing
VGG16_CONVS = (2, 2, 3, 3, 3)  # configuration D of arXiv:1409.1556: 13 convolutions
RESNETS = {  # table 1 of doi:10.1109/CVPR.2016.90: blocks in each of four stages
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
}
EXPANSION = 4

Size = tuple[int, ...]
Rows = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Layers:
    """The torch layers for one number of spatial dimensions."""

    conv: type[nn.Module]
    max_pool: type[nn.Module]
    max_unpool: type[nn.Module]
    adaptive_mean_pool: type[nn.Module]
    interpolation: str


LAYERS = {
    2: Layers(nn.Conv2d, nn.MaxPool2d, nn.MaxUnpool2d, nn.AdaptiveAvgPool2d, "bilinear"),
    3: Layers(nn.Conv3d, nn.MaxPool3d, nn.MaxUnpool3d, nn.AdaptiveAvgPool3d, "trilinear"),
}


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm of up to 8 groups that hold 4 channels or more; one group where that cannot be."""
    able = [n for n in range(1, MOST_GROUPS + 1) if channels % n == 0 and channels // n >= FEWEST_PER_GROUP]
    return nn.GroupNorm(max(able, default=1), channels)


def conv(dimensions: int, inputs: int, outputs: int, *, kernel: int, **options: Any) -> nn.Module:
    """A convolution padded to keep the size (B, inputs, *spatial) but for its stride; ``options`` are torch's."""
    padding = options.get("dilation", 1) * (kernel // 2)
    return layers_for(dimensions).conv(inputs, outputs, kernel, padding=padding, **options)


class ConvUnit(nn.Sequential):
    """Convolution, group norm, ReLU; ``options`` are those of torch's convolution."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, *, kernel: int = 3, **options: Any) -> None:
        convolution = conv(dimensions, inputs, outputs, kernel=kernel, bias=False, **options)
        super().__init__(convolution, group_norm(outputs), nn.ReLU(inplace=True))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """``x`` (B, C, *spatial) linearly interpolated to spatial ``size``; itself where it has that already."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return interpolate(x, size=list(size), mode=layers_for(x.ndim - 2).interpolation, align_corners=False)


class VGG16(nn.Module):
    """Five stages of convolutions, each followed by max pooling; maps to the five pooled features, largest first.

    ``strides`` are those of the poolings, and their windows. Any size of patch will do: a window may hang over the edge.
    """

    def __init__(self, dimensions: int, in_channels: int, features: Sequence[int], strides: Rows) -> None:
        super().__init__()
        self.stages = vgg_stages(dimensions, in_channels, features)
        pool = layers_for(dimensions).max_pool
        self.pools = nn.ModuleList(pool(tuple(row), tuple(row), ceil_mode=True) for row in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for stage, pool in zip(self.stages, self.pools, strict=True):
            x = pool(stage(x))
            found.append(x)
        return found


def vgg_stages(dimensions: int, in_channels: int, features: Sequence[int]) -> nn.ModuleList:
    """The 13 convolutions of VGG16 in five stages, each (B, features of the one before, *spatial) at one resolution."""
    inputs = (in_channels, *features)
    return nn.ModuleList(
        nn.Sequential(*(ConvUnit(dimensions, inputs[i] if n == 0 else f, f) for n in range(count)))
        for i, (f, count) in enumerate(zip(features, VGG16_CONVS, strict=True))
    )


class ResNet(nn.Module):
    """A stem and max pooling, then four stages of residual blocks; maps to their features, largest first.

    The stem is the paper's 7-pixel convolution in 2D and three of 3 voxels in 3D (ResNet-C, arXiv:1812.01187): the cube
    of 7 is too coarse for thin patches, and its gradient on the CPU corrupts memory where a patch is less than 6 voxels
    deep (oneDNN of torch 2.13).

    ``strides`` are those of the stem's convolution, of its pooling and of stages two to four. ``dilations`` are those of
    the four stages. ``channels`` says how many each stage gives.
    """

    def __init__(
        self,
        dimensions: int,
        name: str,
        *,
        in_channels: int,
        features: Sequence[int],
        strides: Rows,
        dilations: Sequence[int] = (1, 1, 1, 1),
    ) -> None:
        super().__init__()
        kind, counts = RESNETS[name]
        steps = [tuple(row) for row in strides]
        self.channels = tuple(f * (EXPANSION if kind == "bottleneck" else 1) for f in features)
        self.stem = _stem(dimensions, in_channels, features[0], steps[0])
        one = (1,) * dimensions
        self.pool = nn.Identity() if steps[1] == one else layers_for(dimensions).max_pool(3, steps[1], 1)
        block = Bottleneck if kind == "bottleneck" else BasicBlock
        inputs = (features[0], *self.channels)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    block(
                        dimensions,
                        inputs[i] if n == 0 else self.channels[i],
                        features[i],
                        outputs=self.channels[i],
                        stride=one if n or i == 0 else steps[i + 1],
                        dilation=dilations[i],
                    )
                    for n in range(count)
                )
            )
            for i, count in enumerate(counts)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.pool(self.stem(x))
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


def dilated_resnet(
    dimensions: int,
    encoder: str,
    *,
    in_channels: int,
    features: Sequence[int],
    strides: Rows | None,
    halvings: int,
    dilations: Sequence[int],
) -> ResNet:
    """The ResNet called ``encoder``, its options checked; without ``strides`` the first ``halvings`` of five are 2, the rest 1.

    Raises ConfigError for an unknown name, and for numbers that do not fit.
    """
    layers_for(dimensions)
    default = [(2,) * dimensions] * halvings + [(1,) * dimensions] * (5 - halvings)
    return ResNet(
        dimensions,
        checked_encoder(encoder, tuple(RESNETS)),
        in_channels=in_channels,
        features=checked_numbers("features", features, 4),
        strides=checked_strides(default if strides is None else strides, dimensions, 5),
        dilations=checked_numbers("dilations", dilations, 4),
    )


def _stem(dimensions: int, in_channels: int, features: int, stride: Size) -> nn.Module:
    if dimensions == 2:
        return ConvUnit(dimensions, in_channels, features, kernel=7, stride=stride)
    half = max(1, features // 2)
    return nn.Sequential(
        ConvUnit(dimensions, in_channels, half, stride=stride),
        ConvUnit(dimensions, half, half),
        ConvUnit(dimensions, half, features),
    )


class _Residual(nn.Module):
    """``branch`` beside a skip, which is a strided 1-voxel projection where the shape changes."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, stride: Size, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch
        self.skip = nn.Sequential()
        if inputs != outputs or any(step != 1 for step in stride):
            projection = conv(dimensions, inputs, outputs, kernel=1, stride=stride, bias=False)
            self.skip = nn.Sequential(projection, group_norm(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        activated: Tensor = self.relu(self.branch(x) + self.skip(x))
        return activated


class BasicBlock(_Residual):
    """Two convolutions of 3 voxels."""

    def __init__(self, dimensions: int, inputs: int, width: int, *, outputs: int, stride: Size, dilation: int) -> None:
        second = conv(dimensions, width, outputs, kernel=3, dilation=dilation, bias=False)
        branch = nn.Sequential(
            ConvUnit(dimensions, inputs, width, stride=stride, dilation=dilation), second, group_norm(outputs)
        )
        super().__init__(dimensions, inputs, outputs, stride, branch)


class Bottleneck(_Residual):
    """A convolution of 3 voxels between two of 1 voxel, the last of which widens; the middle one has the stride."""

    def __init__(self, dimensions: int, inputs: int, width: int, *, outputs: int, stride: Size, dilation: int) -> None:
        branch = nn.Sequential(
            ConvUnit(dimensions, inputs, width, kernel=1),
            ConvUnit(dimensions, width, width, stride=stride, dilation=dilation),
            conv(dimensions, width, outputs, kernel=1, bias=False),
            group_norm(outputs),
        )
        super().__init__(dimensions, inputs, outputs, stride, branch)


def initialise(network: nn.Module) -> None:
    """He initialisation of every convolution (doi:10.1109/ICCV.2015.123), biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def layers_for(dimensions: int) -> Layers:
    """Raises ConfigError for other than 2 or 3 dimensions."""
    if dimensions not in LAYERS:
        raise ConfigError(f"dimensions is {dimensions!r}; a network has 2 or 3")
    return LAYERS[dimensions]


def checked_strides(strides: Rows | None, dimensions: int, count: int) -> list[Size]:
    """``strides``, or 2 along every axis ``count`` times. Raises ConfigError where they are not 1 or 2, or not so many."""
    layers_for(dimensions)
    rows = [(2,) * dimensions] * count if strides is None else [tuple(row) for row in strides]
    if len(rows) != count or any(len(row) != dimensions or not set(row) <= {1, 2} for row in rows):
        raise ConfigError(f"strides is {strides}; expected {count} entries of {dimensions} numbers, each 1 or 2")
    return rows


def checked_numbers(name: str, numbers: Sequence[int], count: int) -> tuple[int, ...]:
    """``numbers`` as a tuple. Raises ConfigError where they are not ``count`` whole numbers of 1 or more, layers of up to 100."""
    most = 100 if name.endswith("_per_stage") else 10**9
    if len(numbers) != count or any(not isinstance(n, int) or not 1 <= n <= most for n in numbers):
        raise ConfigError(f"{name} is {list(numbers)}; expected {count} whole numbers from 1 to {most}")
    return tuple(numbers)


def checked_encoder(name: str, known: Sequence[str]) -> str:
    """``name``. Raises ConfigError where it is not among those ``known``."""
    if name not in known:
        raise ConfigError(f"encoder is {name!r}; choose one of {', '.join(known)}")
    return name
