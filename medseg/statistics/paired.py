"""Tests and effect sizes of paired differences, one for each patient."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
PERMUTATIONS = 9999
EXACT_UP_TO = 15  # patients: 32,768 ways to give signs
_CHUNK = 2**22  # signs held at a time
_SAME = 1e-9  # relative difference below which two sums differ by rounding alone


def sign_flip_p(sums: Floats, *, seed: int = 0, permutations: int = PERMUTATIONS) -> Floats:
    """Two-sided p of each column of ``sums`` (patients, K): had each patient's sign been a coin, how often so large a total?

    Exact over all signs up to 15 patients that differ from 0 (Fisher 1935, The Design of Experiments, section 21); above
    that from random signs, (1 + hits) / (1 + draws) (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585). A patient
    of 0 or without a value (0) changes nothing. 1 where all are 0.
    """
    few = (sums != 0).sum(axis=0) <= EXACT_UP_TO
    found = np.ones(sums.shape[1])
    for column in np.flatnonzero(few):
        found[column] = _exact_p(sums[sums[:, column] != 0, column])
    if not few.all():
        found[~few] = _random_p(sums[:, ~few], seed, permutations)
    return found


def _exact_p(values: Floats) -> float:
    if not len(values):
        return 1.0
    bits = np.arange(2 ** (len(values) - 1))[:, None] >> np.arange(len(values)) & 1  # the last sign stays: symmetry
    totals = np.abs((1.0 - 2.0 * bits) @ values)
    return float((totals >= _threshold(values[:, None])[0]).mean())


def _random_p(sums: Floats, seed: int, permutations: int) -> Floats:
    rng, limit = np.random.default_rng(seed), _threshold(sums)
    hits = np.zeros(sums.shape[1])
    step = max(1, _CHUNK // len(sums))
    for start in range(0, permutations, step):
        rows = min(step, permutations - start)
        signs = 1.0 - 2.0 * rng.integers(0, 2, (rows, len(sums)), dtype=np.int8)
        hits += (np.abs(signs @ sums) >= limit).sum(axis=0)
    p: Floats = (1 + hits) / (1 + permutations)
    return p


def _threshold(sums: Floats) -> Floats:
    """The observed totals, less what rounding could take from an equal one."""
    total: Floats = np.abs(sums.sum(axis=0)) - _SAME * np.abs(sums).sum(axis=0)
    return total


def wilcoxon_p(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; differences of 0 are left out (Wilcoxon 1945, doi:10.2307/3001968).

    ``scipy.stats.wilcoxon`` chooses: exact for few differences, else the normal approximation corrected for ties. 1
    where all are 0, NaN where there is none.
    """
    from scipy.stats import wilcoxon

    if not len(differences):
        return math.nan
    left = differences[differences != 0]
    return float(wilcoxon(left).pvalue) if len(left) else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p adjusted for one family by Holm's step-down method (Holm 1979); NaN is no test and does not count.

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    from statsmodels.stats.multitest import multipletests

    found = np.array(p_values, float)
    tested = ~np.isnan(found)
    if tested.any():
        found[tested] = multipletests(found[tested], method="holm")[1]
    return [float(p) for p in found]


def rank_biserial(differences: Floats) -> float:
    """Matched-pairs rank-biserial correlation, from -1 to 1: ranks for less ranks against, over all ranks.

    Kerby 2014, doi:10.2466/11.IT.3.1. 0 where all differences are 0, NaN where there is none.
    """
    from scipy.stats import rankdata

    left = differences[differences != 0]
    if not len(left):
        return 0.0 if len(differences) else math.nan
    ranks = rankdata(np.abs(left))
    return float((ranks * np.sign(left)).sum() / ranks.sum())


def standardised_mean(differences: Floats) -> float:
    """Mean over standard deviation (n - 1) of the differences, Cohen's d_z; NaN with fewer than two or no spread.

    Lakens 2013, doi:10.3389/fpsyg.2013.00863.
    """
    if len(differences) < 2 or np.ptp(differences) <= _SAME * np.abs(differences).max():
        return math.nan
    return float(differences.mean() / differences.std(ddof=1))
