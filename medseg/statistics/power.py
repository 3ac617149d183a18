"""How many patients a paired study needs."""

import math

WILCOXON_EFFICIENCY = 0.864  # Hodges and Lehmann 1956: whatever the distribution, never less against the t-test
MOST = 10**7


def patients_for_difference(difference: float, sd: float, *, power: float, alpha: float) -> int:
    """Patients for a two-sided paired t-test at ``alpha`` to find a mean ``difference`` with probability ``power``.

    ``sd``: standard deviation of the patients' paired differences. By the noncentral t distribution (Cohen 1988,
    Statistical Power Analysis for the Behavioral Sciences).

    >>> patients_for_difference(0.5, 1.0, power=0.8, alpha=0.05)
    34
    """
    return _least(abs(difference) / sd, power, alpha, "two-sided")


def patients_for_margin(margin: float, difference: float, sd: float, *, power: float, alpha: float) -> int:
    """Patients to show non-inferiority by a one-sided paired test at ``alpha / 2``.

    ``difference`` is the true mean difference, positive where the new model is better; it must lie above ``-margin``.
    """
    return _least((margin + difference) / sd, power, alpha / 2, "larger")


def for_wilcoxon(patients: int) -> int:
    """As many as ``patients`` for the t-test are at most needed for the signed-rank test: by its least asymptotic efficiency."""
    return math.ceil(patients / WILCOXON_EFFICIENCY)


def _least(effect: float, power: float, alpha: float, alternative: str) -> int:
    """The least n whose power reaches ``power``: it rises with n, so by halving. At most MOST."""
    from statsmodels.stats.power import TTestPower

    test = TTestPower()

    def enough(n: int) -> bool:
        return bool(test.power(effect, n, alpha, alternative=alternative) >= power)

    low, high = 1, 2
    while high < MOST and not enough(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
