"""Bootstrap intervals of means over cases, resampled by patient: cases of one patient are not independent."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 4999
CONFIDENCE = 0.95
SEED = 0
INTERVAL_METHOD = (
    f"95 % bootstrap interval of the mean over cases, {RESAMPLES} resamples of whole patients, seed {SEED}: BCa; "
    "percentile where BCa is undefined (fewer than three patients, or all alike); none for one patient"
)
_CHUNK = 2**18  # drawn indices held at a time
_SAME = 1e-10  # relative difference below which two means differ by rounding alone


@dataclass(frozen=True)
class Interval:
    """Limits of a 95 % interval. ``method``: ``BCa``, ``percentile`` where BCa is undefined, or empty with NaN limits.

    ``patients`` is how many had a value, so how many were resampled.
    """

    low: float
    high: float
    method: str
    patients: int


def mean_intervals(
    values: Floats, patients: Sequence[str], *, seed: int = SEED, resamples: int = RESAMPLES
) -> list[Interval]:
    """For each column of ``values`` (cases, K), the 95 % interval of its mean over cases; NaN is undefined and left out.

    Whole patients are drawn with replacement, from those that have a value, ``resamples`` times; the figure is the mean
    over the cases drawn.
    The interval is BCa (Efron 1987, doi:10.1080/01621459.1987.10478410) with the jackknife's acceleration over
    patients. It is the percentile interval where BCa is undefined: fewer than three patients, or all with the same
    mean. One patient has no interval. A column's draws depend on ``seed`` and its number of patients alone, and are those
    of ``scipy.stats.bootstrap`` with that seed.
    """
    sums, counts = _by_patient(values, patients)
    found = [Interval(math.nan, math.nan, "", 0)] * values.shape[1]
    for rows, columns in _alike(counts > 0):
        if rows.sum() < 2:
            nothing = Interval(math.nan, math.nan, "", int(rows.sum()))
            found = [nothing if c in set(columns.tolist()) else old for c, old in enumerate(found)]
            continue
        intervals = _intervals(sums[rows][:, columns], counts[rows][:, columns], seed, resamples)
        for column, interval in zip(columns, intervals, strict=True):
            found[column] = interval
    return found


def ratio_interval(
    numerators: Floats, denominators: Floats, patients: Sequence[str], *, seed: int = SEED, resamples: int = RESAMPLES
) -> Interval:
    """The 95 % interval of the sum of ``numerators`` over that of ``denominators``, both (cases,), by whole patients.

    As ``mean_intervals``. None where the denominators of some draw sum to 0.
    """
    parts, _ = _by_patient(np.stack([numerators, denominators], axis=1), patients)
    sums, counts = parts[:, :1], parts[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        replicates = _replicates(sums, counts, seed, resamples)[:, 0] if len(parts) > 1 else np.array([math.nan])
        without_each = ((sums.sum() - sums) / (counts.sum() - counts))[:, 0]
    if not (np.isfinite(replicates).all() and np.isfinite(without_each).all()):
        return Interval(math.nan, math.nan, "", len(parts))
    return Interval(*bca_limits(replicates, float(sums.sum() / counts.sum()), without_each), len(parts))


def bca_limits(
    replicates: Floats, observed: float, jackknife: Floats, *, confidence: float = CONFIDENCE
) -> tuple[float, float, str]:
    """Lower and upper limit of a statistic at ``confidence`` from its bootstrap ``replicates``, and the method that gave them.

    ``jackknife``: the statistic without each unit in turn. The bias correction counts replicates equal to the observed
    value by half. The percentile interval where there are fewer than three units, all leave the statistic as it is, or
    every replicate lies on one side of the observed value. Efron and Tibshirani 1993, An Introduction to the Bootstrap,
    equations 14.10 to 14.15.
    """
    from scipy.special import ndtr, ndtri

    tail = (1 - confidence) / 2
    tails = np.array([tail, 1 - tail])
    scale = _SAME * max(abs(observed), float(np.abs(replicates).max()), 1e-300)
    below = (replicates < observed - scale).mean()
    not_above = (replicates <= observed + scale).mean()
    deviations = jackknife.mean() - jackknife
    spread = float((deviations**2).sum())
    share = (below + not_above) / 2
    method = "percentile"
    if len(jackknife) > 2 and np.abs(deviations).max() > scale and 0 < share < 1:
        acceleration = float((deviations**3).sum()) / (6 * spread**1.5)
        bias = ndtri(share)
        shifted = bias + ndtri(tails)
        tails, method = ndtr(bias + shifted / (1 - acceleration * shifted)), "BCa"
    low, high = np.percentile(replicates, 100 * tails)
    return float(low), float(high), method


def _by_patient(values: Floats, patients: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of defined values of each patient (patients, K), patients in order of appearance."""
    place = {patient: n for n, patient in enumerate(dict.fromkeys(patients))}
    rows = np.array([place[patient] for patient in patients], np.intp)
    defined = ~np.isnan(values)
    sums, counts = np.zeros((len(place), values.shape[1])), np.zeros((len(place), values.shape[1]))
    np.add.at(sums, rows, np.where(defined, values, 0.0))
    np.add.at(counts, rows, defined)
    return sums, counts


def _alike(present: npt.NDArray[np.bool_]) -> Iterator[tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]]:
    """The patients that have a value, and the columns where it is these: they share their draws."""
    patterns: dict[bytes, list[int]] = {}
    for column, pattern in enumerate(np.packbits(present, axis=0).T):
        patterns.setdefault(pattern.tobytes(), []).append(column)
    for columns in patterns.values():
        yield present[:, columns[0]], np.array(columns, np.intp)


def _intervals(sums: Floats, counts: Floats, seed: int, resamples: int) -> list[Interval]:
    """Intervals of the columns of ``sums`` over ``counts`` (patients, K), each of which is above 0."""
    n = len(sums)
    replicates = _replicates(sums, counts, seed, resamples)
    total, number = sums.sum(axis=0), counts.sum(axis=0)
    without_each = (total - sums) / (number - counts)
    limits = (
        bca_limits(replicates[:, k], float(total[k] / number[k]), without_each[:, k]) for k in range(sums.shape[1])
    )
    return [Interval(low, high, method, n) for low, high, method in limits]


def _replicates(sums: Floats, counts: Floats, seed: int, resamples: int) -> Floats:
    """The mean over the cases of the patients drawn, (resamples, K): how often each is drawn times what each has."""
    n, rng = len(sums), np.random.default_rng(seed)
    found = np.empty((resamples, sums.shape[1]))
    step = max(1, _CHUNK // n)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(0, n, (rows, n))
        drawn += n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)
        found[start : start + rows] = (times @ sums) / (times @ counts)
    return found
