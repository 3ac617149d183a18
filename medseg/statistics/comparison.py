"""Models scored on the same cases, compared pair by pair: differences, intervals, tests, and what each case counts for."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.statistics.bootstrap import mean_intervals
from medseg.statistics.direction import Better
from medseg.statistics.paired import holm, rank_biserial, sign_flip_p, standardised_mean, wilcoxon_p

Floats = npt.NDArray[np.float64]
TIE = 1e-9  # differences below this are a tie
AT_FAULT = ("missed", "spurious")
_FIGURES = (
    *(
        "mean_first",
        "mean_second",
        "mean",
        "median",
        "sd",
        "low",
        "high",
        "wilcoxon_p",
        "permutation_p",
        "wilcoxon_holm",
    ),
    *("permutation_holm", "rank_biserial", "d_z"),
)
_NOTHING: dict[str, Any] = {**dict.fromkeys(_FIGURES, math.nan), "interval": ""}


@dataclass(frozen=True)
class Endpoint:
    """What is compared: one metric of one structure, and which way it is better; ``structure`` is empty for a whole case."""

    metric: str
    unit: str
    better: Better
    structure: str


@dataclass(frozen=True)
class ModelScores:
    """One model's figures: by (metric, structure), then case; ``states`` by (structure, case); NaN is undefined.

    ``cases`` are those that were scored; a case that is not there counts against the model. ``references``: sha256 of each
    case's reference, where known.
    """

    name: str
    cases: frozenset[str]
    values: Mapping[tuple[str, str], Mapping[str, float]]
    states: Mapping[tuple[str, str], str]
    references: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """``second`` less ``first`` for one endpoint. Figures are over the ``n`` cases that both define, of ``patients``.

    ``wins`` and ``losses`` are those of ``second``, with the cases that only one of them defines: ``against_first`` and
    ``against_second`` count those that its miss, spurious structure or missing prediction left undefined, ``unclear``
    those where that is unknown. Where a miss or a spurious structure left a distance undefined, wins and losses are stated
    and no other figure is. ``rank_biserial`` and ``d_z`` are positive where
    ``second`` is better; ``sd`` is of the patients' mean differences, for ``statistics.power``.
    """

    endpoint: Endpoint
    first: str
    second: str
    n: int
    patients: int
    mean_first: float
    mean_second: float
    mean: float
    median: float
    sd: float
    low: float
    high: float
    interval: str
    wilcoxon_p: float
    permutation_p: float
    wilcoxon_holm: float
    permutation_holm: float
    rank_biserial: float
    d_z: float
    wins: int
    ties: int
    losses: int
    both_undefined: int
    against_first: int
    against_second: int
    unclear: int
    margin: float
    non_inferior: bool | None


@dataclass(frozen=True, eq=False)
class _Pairs:
    """The paired values of one endpoint over all cases, NaN where undefined, and who is to blame where one is."""

    endpoint: Endpoint
    first: str
    second: str
    a: Floats
    b: Floats
    against_first: int
    against_second: int
    unclear: int
    both_undefined: int
    withheld: bool


def compare_models(
    models: Sequence[ModelScores],
    endpoints: Sequence[Endpoint],
    *,
    pairs: Sequence[tuple[int, int]],
    patients: Mapping[str, str],
    margins: Mapping[str, float],
    seed: int = 0,
) -> list[Difference]:
    """Every endpoint of every pair of models (their places in ``models``): the second less the first.

    ``patients``: the patient of each case of any model; intervals resample and tests flip whole patients. Signed
    figures are compared by their size. ``margins``: by metric, in its unit. p is adjusted by Holm's method over all
    rows, for each of the two tests. A margin is met where the 95 % interval lies on the good side of it, so one-sided at
    2.5 %; never without a BCa interval, nor where a case counts against ``second`` outside the differences.
    """
    cases = sorted(patients)
    found = [_pair(models[a], models[b], endpoint, cases) for a, b in pairs for endpoint in endpoints]
    if not found:
        return []
    names = [patients[case] for case in cases]
    differences = np.stack([p.b - p.a for p in found], axis=1)
    sums, means = _per_patient(differences, names)
    intervals = mean_intervals(differences, names, seed=seed)
    flips = sign_flip_p(sums, seed=seed)
    rows = []
    for k, (pair, interval) in enumerate(zip(found, intervals, strict=True)):
        row = _described(pair, differences[:, k], means[:, k], float(flips[k]))
        row = replace(row, low=interval.low, high=interval.high, interval=interval.method, patients=interval.patients)
        row = replace(row, **_NOTHING) if pair.withheld else row
        rows.append(_judged(row, margins.get(pair.endpoint.metric, math.nan)))
    return _adjusted(rows)


def _pair(first: ModelScores, second: ModelScores, endpoint: Endpoint, cases: Sequence[str]) -> _Pairs:
    key = (endpoint.metric, endpoint.structure)
    a, b = (np.array([m.values.get(key, {}).get(c, math.nan) for c in cases]) for m in (first, second))
    if endpoint.better == "nearer to 0":
        a, b = np.abs(a), np.abs(b)
    blame = [
        _blame(first, second, endpoint.structure, cases[n]) for n in np.flatnonzero(np.isnan(a) != np.isnan(b)).tolist()
    ]
    both = int((np.isnan(a) & np.isnan(b)).sum())
    counts = (blame.count("first"), blame.count("second"), blame.count(""))
    withheld = any(_withheld(m, endpoint, values, cases) for m, values in ((first, a), (second, b)))
    return _Pairs(endpoint, first.name, second.name, a, b, *counts, both, withheld)


def _withheld(model: ModelScores, endpoint: Endpoint, values: Floats, cases: Sequence[str]) -> bool:
    """True where a miss or a spurious structure left a distance without a value: without that case the rest looks better."""
    if endpoint.unit != "mm":
        return False
    return any(
        model.states.get((endpoint.structure, cases[n])) in AT_FAULT for n in np.flatnonzero(np.isnan(values)).tolist()
    )


def _blame(first: ModelScores, second: ModelScores, structure: str, case: str) -> str:
    """Whose fault it is that ``case`` has a value in one model alone."""
    faulty = [case not in m.cases or m.states.get((structure, case)) in AT_FAULT for m in (first, second)]
    if faulty[0] == faulty[1]:
        return ""
    return "first" if faulty[0] else "second"


def _per_patient(differences: Floats, names: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum (0 without a value) and mean (NaN without) of each patient's differences, (patients, K)."""
    place = {name: n for n, name in enumerate(dict.fromkeys(names))}
    rows = np.array([place[name] for name in names], np.intp)
    defined = ~np.isnan(differences)
    sums, counts = (np.zeros((len(place), differences.shape[1])) for _ in range(2))
    settled = np.where(np.abs(differences) < TIE, 0.0, differences)
    np.add.at(sums, rows, np.where(defined, settled, 0.0))
    np.add.at(counts, rows, defined)
    sums[np.abs(sums) < TIE] = 0.0
    means = np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)
    return sums, means


def _described(pair: _Pairs, differences: Floats, by_patient: Floats, flip: float) -> Difference:
    """The row before intervals, margin and adjustment."""
    kept = ~np.isnan(differences)
    d, units = differences[kept], np.round(by_patient[~np.isnan(by_patient)], 12)  # equal ranks stay equal
    gain = 1.0 if pair.endpoint.better == "higher" else -1.0
    better, worse = int((gain * d >= TIE).sum()), int((gain * d <= -TIE).sum())
    p = wilcoxon_p(units)
    return Difference(
        endpoint=pair.endpoint,
        first=pair.first,
        second=pair.second,
        n=len(d),
        patients=len(units),
        mean_first=_mean(pair.a[kept]),
        mean_second=_mean(pair.b[kept]),
        mean=_mean(d),
        median=float(np.median(d)) if len(d) else math.nan,
        sd=float(units.std(ddof=1)) if len(units) > 1 else math.nan,
        low=math.nan,
        high=math.nan,
        interval="",
        wilcoxon_p=p,
        permutation_p=flip if len(d) else math.nan,
        wilcoxon_holm=p,
        permutation_holm=flip,
        rank_biserial=gain * rank_biserial(units),
        d_z=gain * standardised_mean(units),
        wins=better + pair.against_first,
        ties=len(d) - better - worse,
        losses=worse + pair.against_second,
        both_undefined=pair.both_undefined,
        against_first=pair.against_first,
        against_second=pair.against_second,
        unclear=pair.unclear,
        margin=math.nan,
        non_inferior=None,
    )


def _judged(row: Difference, margin: float) -> Difference:
    """With the margin and whether the interval meets it; None without a margin."""
    if math.isnan(margin):
        return row
    inside = row.low > -margin if row.endpoint.better == "higher" else row.high < margin
    whole = row.interval == "BCa" and not row.against_second and not row.unclear
    return replace(row, margin=margin, non_inferior=bool(inside and whole))


def _adjusted(rows: list[Difference]) -> list[Difference]:
    ranks, flips = holm([r.wilcoxon_p for r in rows]), holm([r.permutation_p for r in rows])
    return [replace(row, wilcoxon_holm=w, permutation_holm=f) for row, w, f in zip(rows, ranks, flips, strict=True)]


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
