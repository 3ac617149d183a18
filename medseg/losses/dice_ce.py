"""Soft Dice and cross-entropy, alone and summed.

``labels``, the first parameter of every loss, says what the channels of logits and target are (see ``comparison``).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.losses.comparison import Comparison, Loss, comparison


def dice_ce(
    labels: Labels | None = None,
    /,
    *,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    label_smoothing: float = 0.0,
) -> Loss:
    """Weighted sum of ``dice`` and ``ce``, the loss of nnU-Net (doi:10.1038/s41592-020-01008-z)."""
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        found = compare(logits, target, annotated)
        overlap = dice_term(found, batch_dice=batch_dice, smooth=smooth)
        return dice_weight * overlap + ce_weight * _cross_entropy(found, label_smoothing)

    return loss


def dice(labels: Labels | None = None, /, *, batch_dice: bool = False, smooth: float = 1e-5) -> Loss:
    """One minus the mean soft Dice of the structures, background excluded (doi:10.1109/3DV.2016.79).

    Dice of a structure is (2 * sum(p * y) + smooth) / (sum(p) + sum(y) + smooth), per sample, or over the whole batch
    with ``batch_dice``. A structure absent from the target still counts: its term is 0 where the prediction is empty
    too and grows to 1 with any false probability much above ``smooth`` voxels, where its gradient fades to nothing;
    cross-entropy takes over there. ``batch_dice`` makes such terms rarer.
    """
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        return dice_term(compare(logits, target, annotated), batch_dice=batch_dice, smooth=smooth)

    return loss


def ce(labels: Labels | None = None, /, *, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy, the mean over all voxels; ``label_smoothing`` in [0, 1] after doi:10.1109/CVPR.2016.308.

    A structure absent from the target acts only through the voxels that it claims wrongly. Of regions: the binary
    cross-entropy, the mean over voxels and regions.
    """
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        return _cross_entropy(compare(logits, target, annotated), label_smoothing)

    return loss


def weighted_ce(
    labels: Labels | None = None,
    /,
    *,
    weights: Sequence[float] | Literal["auto"] = "auto",
    label_smoothing: float = 0.0,
) -> Loss:
    """Cross-entropy in which each voxel counts as much as the class it belongs to: the weighted mean over all voxels.

    ``weights``: one number for the background and for each structure, in the order of their values. Of regions: one
    for each, which its voxels weigh where those outside weigh 1. ``auto``: what ``inverse_frequency`` of the training
    cases gives; the plan holds the numbers. Raises ConfigError for a number of them that is not that of the classes,
    for negative ones, and at the first call while they are still ``auto``.
    """
    compare = comparison(labels)
    if weights != "auto":
        _check_weights(weights, labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        if isinstance(weights, str):
            raise ConfigError("weighted_ce: weights are still auto; the plan decides them, or give a list of numbers")
        found = compare(logits, target, annotated)
        table = torch.tensor(weights, dtype=torch.float32, device=logits.device)
        if found.background:
            return _cross_entropy(found, label_smoothing, table[found.truth])
        inside = table.reshape(-1, *[1] * (logits.ndim - 2)).expand_as(logits)
        return _cross_entropy(found, label_smoothing, inside.where(found.truth, 1.0))

    return loss


def dice_term(found: Comparison, *, batch_dice: bool, smooth: float) -> Tensor:
    """One minus the mean soft Dice of the structures or regions; see ``dice``."""
    sums = found.sums().without(found.background)
    if batch_dice:
        sums = sums.over_batch()
    overlap = (2.0 * sums.both + smooth) / (sums.predicted + sums.present + smooth)
    return sums.mean(1.0 - overlap)


def _cross_entropy(found: Comparison, label_smoothing: float, weights: Tensor | None = None) -> Tensor:
    truth = -found.mean(found.log_p_true, weights)
    if label_smoothing == 0.0:
        return truth
    return (1.0 - label_smoothing) * truth - label_smoothing * found.mean(found.unsure(), weights)


def _check_weights(weights: Sequence[float], labels: Labels | None) -> None:
    if isinstance(weights, str) or any(w < 0.0 for w in weights) or not any(w > 0.0 for w in weights):
        raise ConfigError(f"weighted_ce: weights are {weights!r}; expected auto, or numbers >= 0, not all of them 0")
    if labels is not None and len(weights) != labels.outputs:
        raise ConfigError(
            f"weighted_ce: {len(weights)} weights for {labels.outputs} "
            + ("regions" if labels.regions else "channels, the background and the structures; give one for each")
        )
