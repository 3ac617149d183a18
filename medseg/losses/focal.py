"""The focal loss, alone and with Dice."""

from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.losses.comparison import Comparison, Loss, comparison
from medseg.losses.dice_ce import dice_term


def focal(labels: Labels | None = None, /, *, gamma: float = 2.0) -> Loss:
    """Cross-entropy times (1 - p)^gamma, the mean over voxels: voxels that are right count less (doi:10.1109/ICCV.2017.324).

    ``gamma`` 0 makes this ``ce``. Raises ConfigError for a ``gamma`` below 0 or between 0 and 1, whose gradient is
    infinite where p is 1.
    """
    _check_gamma(gamma)
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        return _focal_term(compare(logits, target, annotated), gamma)

    return loss


def dice_focal(
    labels: Labels | None = None,
    /,
    *,
    dice_weight: float = 1.0,
    focal_weight: float = 1.0,
    gamma: float = 2.0,
    batch_dice: bool = False,
    smooth: float = 1e-5,
) -> Loss:
    """Weighted sum of ``dice`` and ``focal``; ``gamma`` 0 makes this ``dice_ce``. Raises ConfigError as ``focal`` does."""
    _check_gamma(gamma)
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        found = compare(logits, target, annotated)
        overlap = dice_term(found, batch_dice=batch_dice, smooth=smooth)
        return dice_weight * overlap + focal_weight * _focal_term(found, gamma)

    return loss


def _focal_term(found: Comparison, gamma: float) -> Tensor:
    return -found.mean((1.0 - found.log_p_true.exp()).pow(gamma) * found.log_p_true)


def _check_gamma(gamma: float) -> None:
    if gamma < 1.0 and gamma != 0.0:
        raise ConfigError(f"gamma is {gamma}; expected 0, or 1 and above")
