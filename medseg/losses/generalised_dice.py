"""The generalised Dice loss: one overlap of all structures, small ones weighted up."""

from typing import Literal

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.losses.comparison import Loss, Sums, comparison

Weighting = Literal["square", "simple", "uniform"]
POWERS = {"square": 2.0, "simple": 1.0, "uniform": 0.0}


def generalised_dice(
    labels: Labels | None = None,
    /,
    *,
    weighting: Weighting = "square",
    include_background: bool = True,
    batch_dice: bool = False,
    smooth: float = 1e-5,
) -> Loss:
    """One minus 2 sum_c(w_c sum(p y)) / sum_c(w_c (sum(p) + sum(y))) with w_c = 1 / sum(y)^2 (doi:10.1007/978-3-319-67558-9_28).

    The background is one of the classes, as there. ``weighting`` simple: 1 / sum(y); uniform: 1. Weights are taken
    relative to the largest, so that ``smooth`` weighs the same whatever the number of voxels; a structure absent from
    the sample gets the largest one, as in MONAI. Per sample, or over the whole batch with ``batch_dice``. Raises
    ConfigError for another ``weighting``.
    """
    if weighting not in POWERS:
        raise ConfigError(f"generalised_dice: weighting is {weighting!r}; choose one of {', '.join(POWERS)}")
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        found = compare(logits, target, annotated)
        sums = found.sums() if include_background else found.sums().without(found.background)
        if batch_dice:
            sums = sums.over_batch()
        weights = _weights(sums, POWERS[weighting])
        both = (weights * sums.both).sum(1)
        all_of_them = (weights * (sums.predicted + sums.present)).sum(1)
        terms = 1.0 - (2.0 * both + smooth) / (all_of_them + smooth)
        return terms.sum() / max(terms.numel(), 1)

    return loss


def _weights(sums: Sums, power: float) -> Tensor:
    """(B, K), the largest 1; 0 for what does not count."""
    fewest = sums.present.where(sums.present > 0.0, torch.inf).amin(1, keepdim=True)
    weights = torch.where(sums.present > 0.0, (fewest / sums.present).pow(power), 1.0)
    return weights if sums.counted is None else weights * sums.counted
