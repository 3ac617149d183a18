"""A network's last layer apart from the rest: it is linear, so that windows can be blended before it."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from medseg.core.boxes import Box
from medseg.core.plan import Plan
from medseg.models.architectures import WRAPPERS

WITH_HEAD = ("unet", "resenc_unet")
"""The architectures that end with a convolution of one voxel and a bias."""

AT_ONCE = 2**14
"""Voxels whose logits are computed at once: more leave the processor's cache, which doubles the time."""
FEWEST = 2**10
"""Fewer are filled up to it: libraries sum a small product in another order, and a voxel would have other bits."""
SLAB_VALUES = 2**25  # logits that a slab holds


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer of a network: from ``features`` to logits by ``weight`` (K, C) and ``bias`` (K,), float32, voxel by voxel.

    The weighted mean of windows' logits is the head of the weighted mean of their features, but for rounding. Where C is
    less than K, less is added up and held, and the head runs once for each voxel, not once for each window over it.
    """

    weight: Tensor
    bias: Tensor

    @property
    def features(self) -> int:
        """C, the number of features."""
        return self.weight.shape[1]

    def logits(self, features: Tensor) -> Tensor:
        """Logits (K, n, A, B) of ``features`` (C, n, A, B) of any float type. A voxel's do not depend on the others'."""
        flat = features.flatten(1)
        found = torch.empty(len(self.bias), flat.shape[1])
        bias = self.bias[:, None]
        for start in range(0, flat.shape[1], AT_ONCE):
            some = flat[:, start : start + AT_ONCE].float()
            count = some.shape[1]
            if count < FEWEST:
                some = pad(some, (0, FEWEST - count))
            found[:, start : start + count] = torch.addmm(bias, self.weight, some)[:, :count]
        return found.view(-1, *features.shape[1:])

    def pieces(self, box: Box, features: Tensor) -> Iterator[tuple[Box, Tensor]]:
        """The logits of a brick's ``features`` (C, *box), a few voxels at a time: where they lie, and (K, ...)."""
        across = features[0, 0].numel()
        planes, rows = max(1, AT_ONCE // across), max(1, AT_ONCE // features.shape[3])
        first, second, third = box
        for i in range(0, features.shape[1], planes):
            for j in range(0, features.shape[2], rows):
                some = features[:, i : i + planes, j : j + rows]
                a, b = first.start + i, second.start + j
                yield (slice(a, a + some.shape[1]), slice(b, b + some.shape[2]), third), self.logits(some)

    def slabs(self, features: Tensor) -> Iterator[Tensor]:
        """The logits of a slab's ``features`` (C, n, A, B) in thinner slabs (K, m, A, B), in order."""
        planes = max(1, SLAB_VALUES // (len(self.bias) * features[0, 0].numel()))
        yield from map(self.logits, torch.split(features, planes, dim=1))


def head_key(plan: Plan) -> str | None:
    """How the head's weights are called in the network of ``plan``; None where it does not end with one."""
    features = plan.architecture.options.get("features")
    if plan.architecture.name not in WITH_HEAD or not isinstance(features, list | tuple):
        return None  # options that are none of a network are told when it is built
    return f"decoder.seg_layers.{len(features) - 2}"


def features_of(plan: Plan) -> int:
    """How many features the head of the network of ``plan`` takes; as many as it has outputs where it has no head."""
    features = plan.architecture.options.get("features")
    first = features[0] if head_key(plan) and features else None
    return first if isinstance(first, int) else plan.structure_labels.outputs


def cut_head(network: nn.Module, key: str) -> None:
    """Take the head called ``key`` off ``network``, which gives features (B, C, *spatial) from then on."""
    while isinstance(network, WRAPPERS):
        network = network.network
    owner, _, name = key.rpartition(".")
    network.get_submodule(owner).register_module(name, nn.Identity())
