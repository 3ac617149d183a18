"""Networks of MONAI as they are, by their name and their own arguments: what a MONAI bundle describes. Not for training."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medseg.core.errors import ConfigError

NETWORKS = ("UNet", "BasicUNet", "AttentionUnet", "DynUNet", "SegResNet", "SwinUNETR", "UNETR", "VNet")
FROM_THE_PLAN = ("spatial_dims", "in_channels", "out_channels")


def monai(
    *,
    in_channels: int,
    out_channels: int,
    dimensions: int,
    network: str,
    arguments: Mapping[str, Any],
    outputs: Sequence[int] | None = None,
    deep_supervision: bool = False,
) -> nn.Module:
    """MONAI's ``network`` (a name of ``NETWORKS``) with its own ``arguments``.

    ``outputs``: the order in which its outputs are taken.
    Raises ConfigError for an unknown name or argument, and for an argument that is not plain data.
    """
    if network not in NETWORKS:
        raise ConfigError(f"the network {network!r} of MONAI is not one that medseg has; it has {', '.join(NETWORKS)}")
    import monai.networks.nets

    factory = getattr(monai.networks.nets, network)
    known = [name for name in inspect.signature(factory.__init__).parameters if name not in ("self", *FROM_THE_PLAN)]
    for name, value in arguments.items():
        if name not in known:
            raise ConfigError(f"the network {network} of MONAI has no argument {name!r}; it has {', '.join(known)}")
        if not _is_plain(value):
            raise ConfigError(f"the network {network}: {name} is not plain data")
    sizes = {"spatial_dims": dimensions, "in_channels": in_channels, "out_channels": out_channels}
    with torch.device("cpu" if network == "SwinUNETR" else torch.get_default_device()):  # it reads numbers from tensors
        built: nn.Module = factory(**sizes, **arguments)
    return built if outputs is None else Reordered(built, outputs)


class Reordered(nn.Module):
    """The outputs of ``network`` in another order."""

    def __init__(self, network: nn.Module, outputs: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.outputs = list(outputs)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits[:, self.outputs]


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, str | int | float)
