"""The Tversky loss: Dice with a price of its own for false positives and for false negatives."""

from torch import Tensor

from medseg.core.errors import ConfigError
from medseg.core.labels import Labels
from medseg.losses.comparison import Loss, comparison


def tversky(
    labels: Labels | None = None,
    /,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    batch_dice: bool = False,
    smooth: float = 1e-5,
) -> Loss:
    """One minus the mean over structures of TP / (TP + alpha FP + beta FN), all of them sums of probabilities.

    Source: doi:10.1007/978-3-319-67389-9_44, whose ``alpha`` (the price of false positives) of 0.3 and ``beta`` (of false
    negatives) of 0.7 are the defaults; 0.5 and 0.5 make this ``dice``. Absent structures, ``batch_dice`` and ``smooth`` are
    as there. Raises ConfigError where a price is negative or both are 0.
    """
    if min(alpha, beta) < 0.0 or alpha + beta <= 0.0:
        raise ConfigError(f"tversky: alpha is {alpha} and beta {beta}; expected numbers >= 0, not both of them 0")
    compare = comparison(labels)

    def loss(logits: Tensor, target: Tensor, annotated: Tensor | None = None) -> Tensor:
        found = compare(logits, target, annotated)
        sums = found.sums().without(found.background)
        if batch_dice:
            sums = sums.over_batch()
        false_positive, false_negative = sums.predicted - sums.both, sums.present - sums.both
        index = (sums.both + smooth) / (sums.both + alpha * false_positive + beta * false_negative + smooth)
        return sums.mean(1.0 - index)

    return loss
