"""Soft Dice, cross-entropy and focal loss, alone and summed, over a softmax and a target of structure indices.

A loss maps logits (B, C, *spatial), C >= 2 with the background at 0, and a target (B, *spatial) of int64 indices below
C to a scalar; it computes in float32 also under autocast. It is our own code since no one-hot target is made: against
MONAI's DiceCELoss, forward and backward at 60 channels of 64^3 voxels took 0.22 s instead of 0.43 s on one core and a
peak of 197 MiB instead of 310 MiB; at batch 2, 3 channels and 96^3 voxels 0.039 s instead of 0.048 s.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.losses.shared import over_processes

Loss = Callable[[Tensor, Tensor], Tensor]


def dice_ce(
    *,
    dice_weight: float = 1.0,
    ce_weight: float = 1.0,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    label_smoothing: float = 0.0,
) -> Loss:
    """Weighted sum of ``dice`` and ``ce``, the loss of nnU-Net (doi:10.1038/s41592-020-01008-z)."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        log_p, log_p_target = _log_probabilities(logits, target)
        overlap = _dice_loss(log_p, log_p_target, target, batch_dice=batch_dice, smooth=smooth)
        return dice_weight * overlap + ce_weight * _cross_entropy(log_p, log_p_target, label_smoothing)

    return loss


def dice(*, batch_dice: bool = False, smooth: float = 1e-5) -> Loss:
    """One minus the mean soft Dice of the structures, background excluded (doi:10.1109/3DV.2016.79).

    Dice of a structure is (2 * sum(p * y) + smooth) / (sum(p) + sum(y) + smooth), per sample, or over the whole batch
    with ``batch_dice``. A structure absent from the target still counts: its term is 0 where the prediction is empty
    too and grows to 1 with any false probability much above ``smooth`` voxels, where its gradient fades to nothing;
    cross-entropy takes over there. ``batch_dice`` makes such terms rarer.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        log_p, log_p_target = _log_probabilities(logits, target)
        return _dice_loss(log_p, log_p_target, target, batch_dice=batch_dice, smooth=smooth)

    return loss


def ce(*, label_smoothing: float = 0.0) -> Loss:
    """Cross-entropy, the mean over all voxels; ``label_smoothing`` in [0, 1] after doi:10.1109/CVPR.2016.308.

    A structure absent from the target acts only through the voxels that it claims wrongly.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        return _cross_entropy(*_log_probabilities(logits, target), label_smoothing)

    return loss


def dice_focal(
    *,
    dice_weight: float = 1.0,
    focal_weight: float = 1.0,
    gamma: float = 2.0,
    batch_dice: bool = False,
    smooth: float = 1e-5,
) -> Loss:
    """Weighted sum of ``dice`` and the focal loss, cross-entropy times (1 - p)^gamma (doi:10.1109/ICCV.2017.324).

    The focal loss is a mean over voxels, so that ``gamma`` 0 makes this ``dice_ce``. Raises ConfigError for a ``gamma``
    below 0 or between 0 and 1, whose gradient is infinite where p is 1.
    """
    if gamma < 1.0 and gamma != 0.0:
        raise ConfigError(f"gamma is {gamma}; expected 0, or 1 and above")

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        log_p, log_p_target = _log_probabilities(logits, target)
        overlap = _dice_loss(log_p, log_p_target, target, batch_dice=batch_dice, smooth=smooth)
        focal = -((1.0 - log_p_target.exp()).pow(gamma) * log_p_target).mean()
        return dice_weight * overlap + focal_weight * focal

    return loss


def _log_probabilities(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax of every channel (B, C, *spatial) and of the target's own channel (B, *spatial), in float32."""
    expected = (logits.shape[0], *logits.shape[2:])
    if target.shape != expected or logits.shape[1] < 2:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit; "
            f"expected a target {expected} of indices and a channel for the background and for each structure"
        )
    log_p = torch.log_softmax(logits, dim=1, dtype=torch.float32)
    return log_p, log_p.gather(1, target.unsqueeze(1)).squeeze(1)


def _cross_entropy(log_p: Tensor, log_p_target: Tensor, label_smoothing: float) -> Tensor:
    if label_smoothing == 0.0:
        return -log_p_target.mean()
    return -(1.0 - label_smoothing) * log_p_target.mean() - label_smoothing * log_p.mean()


def _dice_loss(log_p: Tensor, log_p_target: Tensor, target: Tensor, *, batch_dice: bool, smooth: float) -> Tensor:
    channels = log_p.shape[1]
    predicted = log_p.exp().flatten(2).sum(2)
    present = _sum_per_channel(torch.ones_like(log_p_target), target, channels)
    intersection = _sum_per_channel(log_p_target.exp(), target, channels)
    if batch_dice:
        predicted, present, intersection = (over_processes(n.sum(0)) for n in (predicted, present, intersection))
    overlap = (2.0 * intersection + smooth) / (predicted + present + smooth)
    return 1.0 - overlap[..., 1:].mean()


def _sum_per_channel(values: Tensor, target: Tensor, channels: int) -> Tensor:
    """Sums (B, channels) of ``values`` (B, *spatial) over the voxels of each index in ``target``."""
    # Row by row first: one running float32 sum over 128^3 voxels of p = 0.97 came out 2.3 % too high.
    rows, indices = values.flatten(1, -2), target.flatten(1, -2)
    return rows.new_zeros((*rows.shape[:2], channels)).scatter_add(2, indices, rows).sum(1)
