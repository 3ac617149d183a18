"""Plan a paired study: a difference or a margin, and the spread of differences -> patients needed."""

from dataclasses import dataclass

from medseg.core.errors import ConfigError
from medseg.statistics.power import for_wilcoxon, patients_for_difference, patients_for_margin


@dataclass(frozen=True)
class Power:
    """Patients needed by the paired t-test, and at most by Wilcoxon's signed-rank test, whatever the distribution."""

    t_test: int
    wilcoxon: int


def power(
    sd: float, *, difference: float = 0.0, margin: float | None = None, power: float = 0.8, alpha: float = 0.05
) -> Power:
    """Patients needed to find a mean paired ``difference``, or with ``margin`` to show that a model is not inferior.

    ``sd`` is the standard deviation of the patients' paired differences, such as ``sd`` in the ``comparison.csv`` of a
    pilot; all three are in the metric's unit. Without a margin the test is two-sided at ``alpha``; with one it is one-sided
    at ``alpha / 2``, and ``difference`` is what is expected in truth, positive where the new model is better.

    Raises ConfigError for a figure out of range.
    """
    for name, value in (("--sd", sd), ("--margin", margin)):
        if value is not None and not 0 < value < float("inf"):
            raise ConfigError(f"{name} {value}: must be a number above 0, in the metric's unit")
    for name, value in (("--power", power), ("--alpha", alpha)):
        if not 0 < value < 1:
            raise ConfigError(
                f"{name} {value}: must lie between 0 and 1, such as {'0.8' if name == '--power' else '0.05'}"
            )
    if power <= alpha:
        raise ConfigError(f"--power {power}: must be above --alpha {alpha}; choose 0.8 or 0.9")
    effect = (difference if margin is None else margin + difference) / sd
    if margin is not None and effect <= 0:
        raise ConfigError(
            f"--difference {difference}: a model that is worse than the margin {margin} cannot be shown to be not inferior; "
            "expect less of a loss, or widen the margin"
        )
    if not 1e-3 <= abs(effect) < float("inf"):
        raise ConfigError(
            f"--difference {difference}: over the standard deviation {sd} this is {effect:.2g}, too small for any study; "
            "give the least difference that matters"
        )
    if margin is None:
        needed = patients_for_difference(difference, sd, power=power, alpha=alpha)
    else:
        needed = patients_for_margin(margin, difference, sd, power=power, alpha=alpha)
    return Power(needed, for_wilcoxon(needed))
