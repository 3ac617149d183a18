"""Agreement between readers who measured the same cases."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """Predicted less reference volume over cases, in mL: mean, 95 % limits of agreement, n. NaN limits with fewer than two.

    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """

    bias: float
    low: float
    high: float
    n: int


def limits_of_agreement(differences: Floats) -> Limits:
    """Mean, and mean plus and minus 1.96 standard deviations (n - 1)."""
    n = len(differences)
    bias = float(differences.mean()) if n else math.nan
    spread = 1.96 * float(differences.std(ddof=1)) if n > 1 else math.nan
    return Limits(bias, bias - spread, bias + spread, n)


@dataclass(frozen=True)
class Reliability:
    """ICC(2,1) with its 95 % interval; ``sem`` and ``sdc`` in the unit of what was measured; NaN where undefined.

    ``sem`` is the standard error of measurement for absolute agreement, and ``sdc`` the smallest detectable change between
    two measurements by any two readers, 1.96 sqrt(2) sem.
    """

    icc: float
    low: float
    high: float
    sem: float
    sdc: float


def reliability(values: Floats) -> Reliability:
    """Of ``values`` (cases, readers), none NaN: two-way random effects, absolute agreement, a single reader.

    Shrout and Fleiss 1979, doi:10.1037/0033-2909.86.2.420; the interval is McGraw and Wong's 1996, doi:10.1037/1082-989X.1.1.30;
    sem and sdc are de Vet et al.'s 2006, doi:10.1016/j.jclinepi.2005.10.015. All NaN with fewer than two cases or readers.
    """
    n, k = values.shape
    if n < 2 or k < 2:
        return Reliability(*(math.nan,) * 5)
    of_cases, of_readers, error = _mean_squares(values)
    sem = math.sqrt(max(of_readers - error, 0.0) / n + error)
    sdc = 1.96 * math.sqrt(2) * sem
    total = of_cases + (k - 1) * error + k * (of_readers - error) / n
    if total <= 0 or np.ptp(values) == 0:
        return Reliability(math.nan, math.nan, math.nan, sem, sdc)
    icc = (of_cases - error) / total
    return Reliability(icc, *_limits(icc, of_cases, of_readers, error, n=n, k=k), sem, sdc)


def _mean_squares(values: Floats) -> tuple[float, float, float]:
    """Between cases, between readers, and what is left."""
    n, k = values.shape
    rows, columns, mean = values.mean(axis=1), values.mean(axis=0), values.mean()
    left = values - rows[:, None] - columns[None, :] + mean
    of_cases, of_readers = k * ((rows - mean) ** 2).sum() / (n - 1), n * ((columns - mean) ** 2).sum() / (k - 1)
    found = (of_cases, of_readers, (left**2).sum() / ((n - 1) * (k - 1)))
    rounding = 1e-12 * float(np.ptp(values)) ** 2
    of_cases, of_readers, error = (0.0 if square <= rounding else float(square) for square in found)
    return of_cases, of_readers, error


def _limits(icc: float, of_cases: float, of_readers: float, error: float, *, n: int, k: int) -> tuple[float, float]:
    """Limits of the 95 % interval: the ICC itself where readers differ in nothing, NaN where cases and error do not vary.

    NaN also where the approximation gives limits that do not hold the ICC.
    """
    from scipy.stats import f

    if error == 0 and of_readers == 0:
        return icc, icc
    a = k * icc / (n * (1 - icc))
    b = 1 + k * icc * (n - 1) / (n * (1 - icc))
    squares = (a * of_readers) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    if squares == 0:
        return math.nan, math.nan
    degrees = (a * of_readers + b * error) ** 2 / squares
    rest = k * of_readers + (k * n - k - n) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = f.ppf(0.975, n - 1, degrees), f.ppf(0.975, degrees, n - 1)
        low = n * (of_cases - above * error) / (above * rest + n * of_cases)
        high = n * (below * of_cases - error) / (rest + n * below * of_cases)
    # Of a negative ICC the approximation of the degrees of freedom fails, and with it the interval.
    return (float(low), float(high)) if low <= icc <= high else (math.nan, math.nan)
