"""Deep supervision: any loss, applied to logits of several resolutions (arXiv:1409.5185)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses.comparison import Loss


def deep_supervision(loss: Loss, weights: Sequence[float] | None = None) -> Callable[..., Tensor]:
    """Weighted mean of ``loss`` over a list of logits, full resolution first; plain ``loss`` for a single tensor.

    The result takes logits, target and ``annotated`` as ``loss`` does. ``target`` (B, *spatial) is at full resolution and
    is sampled at the nearest voxel for the others. Weights are divided by their sum; by default they are 1, 1/2, 1/4 and
    so on, with 0 for the lowest of several resolutions, as in nnU-Net (doi:10.1038/s41592-020-01008-z): fine structures
    vanish there. A weight of 0 skips its logits, and the head that made them gets no gradient; give ``weights`` where
    every parameter needs one. Raises ConfigError if they are negative or all 0, ValueError if their number is not that
    of the logits.
    """
    if weights is not None and (min(weights, default=0.0) < 0.0 or sum(weights) <= 0.0):
        raise ConfigError(f"deep supervision weights are {list(weights)}; expected numbers >= 0, not all of them 0")

    def supervised(logits: Tensor | Sequence[Tensor], target: Tensor, annotated: Tensor | None = None) -> Tensor:
        if isinstance(logits, Tensor):
            return loss(logits, target, annotated)
        factors = _default_weights(len(logits)) if weights is None else weights
        if len(factors) != len(logits):
            raise ValueError(
                f"{len(factors)} deep supervision weights for {len(logits)} logits; give one weight for each"
            )
        terms = [
            weight * loss(one, downsample_nearest(target, one.shape[2:]), annotated)
            for weight, one in zip(factors, logits, strict=True)
            if weight > 0.0
        ]
        return torch.stack(terms).sum() / sum(factors)

    return supervised


def downsample_nearest(target: Tensor, size: Sequence[int]) -> Tensor:
    """``target`` (B, *spatial) at spatial ``size``: the value at the voxel that holds each new voxel's centre.

    Equals ``interpolate(mode="nearest-exact")`` but keeps integers as they are; a tie goes to the higher index.
    """
    for axis, new in enumerate(size, start=1):
        old = target.shape[axis]
        if old != new:
            centres = (torch.arange(new, device=target.device) * 2 + 1) * old // (2 * new)
            target = target.index_select(axis, centres)
    return target


def _default_weights(count: int) -> list[float]:
    halving = [0.5**i for i in range(count)]
    return halving if count == 1 else [*halving[:-1], 0.0]
