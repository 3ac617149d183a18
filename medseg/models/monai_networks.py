"""MONAI's networks with medseg's options. MONAI is imported when one is built: that takes seconds.

Batch norm is replaced by group norm, which small batches do not harm (arXiv:1803.08494). What only training needs is in
every state dict, so that it does not depend on ``deep_supervision``.
"""

import math
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError
from medseg.models.encoders import Rows, checked_numbers, checked_strides, group_norm, layers_for
from medseg.models.padded import Padded

SWIN_MULTIPLE = 32
HEAD_WIDTH = 12  # features of the first stage come in multiples of this


def attention_unet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int] = (64, 128, 256, 512, 1024),
    strides: Rows | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's Attention U-Net: what lies deeper gates each skip connection (arXiv:1804.03999).

    ``features`` has one entry a stage, full resolution first, and ``strides`` one less, 2 each by default. Shapes as in
    ``unet``, but any size will do, and there are no heads for ``deep_supervision``.
    """
    channels = _stages("features", features)
    rows = checked_strides(strides, dimensions, len(channels) - 1)
    from monai.networks.nets.attentionunet import AttentionUnet

    network = AttentionUnet(dimensions, in_channels, out_channels, channels=channels, strides=rows)
    _without_batch_norm(network)
    return Padded(network, [math.prod(row[axis] for row in rows) for axis in range(dimensions)])


def segresnet(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int] = (32, 64, 128, 256),
    blocks_per_stage: Sequence[int] = (1, 2, 2, 4),
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's SegResNet, the residual network with group norm that won BraTS 2018 (arXiv:1810.11654), without its VAE.

    ``features`` double from stage to stage; ``blocks_per_stage`` counts the encoder's, the decoder has one each. Shapes
    as in ``unet``, but any size will do, and there are no heads for ``deep_supervision``.
    """
    layers_for(dimensions)
    channels = _doubling(features)
    blocks = checked_numbers("blocks_per_stage", blocks_per_stage, len(channels))
    from monai.networks.nets.segresnet import SegResNet

    network = SegResNet(
        dimensions,
        channels[0],
        in_channels,
        out_channels,
        norm=("GROUP", {"num_groups": math.gcd(channels[0], 8)}),
        blocks_down=blocks,
        blocks_up=(1,) * (len(blocks) - 1),
    )
    return Padded(network, [2 ** (len(blocks) - 1)] * dimensions)


def swin_unetr(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int] = (48, 96, 192, 384, 768),
    blocks_per_stage: Sequence[int] = (2, 2, 2, 2),
    window: int = 7,
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's Swin UNETR: a shifted-window transformer as encoder, a convolutional decoder (arXiv:2201.01266).

    ``features`` double from stage to stage, the first of five a multiple of 12; ``blocks_per_stage`` counts the
    transformer's in four; ``window`` is that of attention. Patches in multiples of 32 need no padding; shapes as in
    ``unet``, and there are no heads for ``deep_supervision``.
    """
    layers_for(dimensions)
    channels = _doubling(checked_numbers("features", features, 5))
    if channels[0] % HEAD_WIDTH:
        raise ConfigError(f"features begin with {channels[0]}; swin_unetr needs a multiple of {HEAD_WIDTH}")
    blocks = checked_numbers("blocks_per_stage", blocks_per_stage, 4)
    (width,) = checked_numbers("window", [window], 1)
    if find_spec("einops") is None:
        raise ConfigError("swin_unetr needs the package einops; install it with `pip install 'medseg[swin]'`")
    from monai.networks.nets.swin_unetr import SwinUNETR

    with torch.device("cpu"):  # it reads numbers from tensors, which those of the meta device do not have
        network = SwinUNETR(
            in_channels,
            out_channels,
            depths=blocks,
            window_size=width,
            feature_size=channels[0],
            spatial_dims=dimensions,
        )
    for module in network.modules():
        if hasattr(module, "relative_position_index"):  # follows from the window: nothing that is learned or averaged
            index = module.relative_position_index
            del module.relative_position_index
            module.register_buffer("relative_position_index", index, persistent=False)
    return Padded(network, [SWIN_MULTIPLE] * dimensions)


def unet_plus_plus(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int] = (32, 32, 64, 128, 256, 32),
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's U-Net++: nested skip connections, supervised at four depths (doi:10.1007/978-3-030-00889-5_1).

    ``features`` are those of five stages and of the last decoder. Shapes as in ``unet``, but any size will do. In
    training mode with ``deep_supervision`` it returns four logits at full size, the deepest path's first; all count alike.
    """
    layers_for(dimensions)
    channels = checked_numbers("features", features, 6)
    from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus

    network = BasicUNetPlusPlus(dimensions, in_channels, out_channels, features=channels, deep_supervision=True)
    return Padded(SeveralHeads(network, deep_supervision, deepest=-1), [16] * dimensions)


def mednext(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    features: Sequence[int] = (32, 64, 128, 256, 512),
    blocks_per_stage: Sequence[int] = (2, 2, 2, 2, 2),
    expansions: Sequence[int] = (2, 2, 2, 2, 2),
    kernel: int = 3,
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's MedNeXt, a U-Net of ConvNeXt blocks (doi:10.1007/978-3-031-43901-8_39); by default the smallest, S.

    ``features`` double from stage to stage; ``blocks_per_stage`` and ``expansions`` (of a block's inner features) have one
    entry a stage, the bottleneck last, and the decoder mirrors the encoder. ``kernel`` is 3 or 5 in the paper. Shapes as
    in ``unet``, but any size will do, and there are no heads for ``deep_supervision``.
    """
    layers_for(dimensions)
    channels = _doubling(features)
    *blocks, deepest = checked_numbers("blocks_per_stage", blocks_per_stage, len(channels))
    *ratios, inner = checked_numbers("expansions", expansions, len(channels))
    if kernel % 2 == 0:
        raise ConfigError(f"kernel is {kernel}; it must be odd to be centred on a voxel")
    from monai.networks.nets.mednext import MedNeXt

    network = MedNeXt(
        dimensions,
        channels[0],
        in_channels,
        out_channels,
        encoder_expansion_ratio=ratios,
        decoder_expansion_ratio=ratios[::-1],
        bottleneck_expansion_ratio=inner,
        kernel_size=kernel,
        use_residual_connection=True,
        blocks_down=blocks,
        blocks_bottleneck=deepest,
        blocks_up=blocks[::-1],
    )
    return Padded(network, [2 ** len(blocks)] * dimensions)


class SeveralHeads(nn.Module):
    """Lists the logits of ``network`` in training with ``deep_supervision``, the ``deepest`` first; that one otherwise."""

    def __init__(self, network: nn.Module, deep_supervision: bool, *, deepest: int) -> None:
        super().__init__()
        self.network = network
        self.deep_supervision = deep_supervision
        self.deepest = deepest
        self.supervision_weights = (1.0, 1.0, 1.0, 1.0)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        logits: list[Tensor] = self.network(x)
        if self.deep_supervision and self.training:
            return logits[::-1]
        return logits[self.deepest]


def _stages(name: str, features: Sequence[int]) -> tuple[int, ...]:
    if len(features) < 2:
        raise ConfigError(f"{name} is {list(features)}; expected two resolution stages or more")
    return checked_numbers(name, features, len(features))


def _doubling(features: Sequence[int]) -> tuple[int, ...]:
    channels = _stages("features", features)
    if any(channels[0] * 2**i != f for i, f in enumerate(channels)):
        raise ConfigError(f"features is {list(channels)}; here each stage has twice those of the one before")
    return channels


def _without_batch_norm(network: nn.Module) -> None:
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, group_norm(child.num_features))
