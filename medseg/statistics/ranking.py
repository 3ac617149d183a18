"""The ranking of three or more models, and how stable it is: would other patients have given another?"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from medseg.statistics.comparison import AT_FAULT, Endpoint, ModelScores
from medseg.statistics.direction import badness

Floats = npt.NDArray[np.float64]
Rule = Literal["mean then rank", "rank then mean"]
RULES = get_args(Rule)
LEAST_MODELS = 3
RANK_RESAMPLES = 1000
_DECIMALS = 9  # means that differ beyond them are a tie
_LAST = math.inf


@dataclass(frozen=True, eq=False)
class Ranking:
    """Models (M,) ranked on ``structures`` of one metric, 1 is best, equal ones share the better rank.

    ``figures``: the mean of each, or its mean rank; NaN where it has none and is last. ``shares`` (M, M): of the
    resamples the part in which model m had rank r + 1. ``low``, ``median`` and ``high`` of its ranks over resamples: 2.5 %, 50 %
    and 97.5 %. ``tau``: Kendall's tau-b between the ranking of each of the ``resamples`` and that of all cases: its mean, 2.5 %
    and 97.5 %; NaN where all models are tied. Of the ``cases`` that any model defines, ``unclear`` are in no figure: a model
    lacks a value there, and why is unknown.
    """

    metric: str
    unit: str
    structures: tuple[str, ...]
    rule: Rule
    cases: int
    patients: int
    unclear: int
    figures: Floats
    ranks: npt.NDArray[np.int64]
    shares: Floats
    low: Floats
    median: Floats
    high: Floats
    tau: tuple[float, float, float]
    resamples: int

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """As plain JSON values, None where undefined; ``names`` are the models'."""
        plain = {k: _plain(v.tolist() if isinstance(v, np.ndarray) else v) for k, v in vars(self).items()}
        return {"models": list(names), **plain}


@dataclass(frozen=True, eq=False)
class _Values:
    """Of one endpoint, by case and model (cases, M): figures that rise as they get worse, NaN where undefined.

    ``faulty``: where a failure left none. ``unclear`` (cases,): where it is not known whose fault that is.
    """

    worse: Floats
    faulty: npt.NDArray[np.bool_]
    unclear: npt.NDArray[np.bool_]


def rank_models(
    models: Sequence[ModelScores],
    endpoints: Sequence[Endpoint],
    *,
    patients: Mapping[str, str],
    seed: int = 0,
    resamples: int = RANK_RESAMPLES,
) -> list[Ranking]:
    """Every metric's ranking by both rules: over all its structures, where it has several, and on each structure.

    Mean then rank: the models' means over the cases that each defines; over structures the mean of these. Rank then mean: the
    models are ranked in each case, ties sharing the mean rank, and the mean ranks are ranked. A failure without a value
    (missing prediction, a miss that left a distance undefined) makes a model the last: it has no mean, and its
    rank in the case is the last. A model that rightly found nothing where another claims a structure is the first there.

    Stability by ``resamples`` bootstrap samples of whole patients (Wiesenfarth et al. 2021, doi:10.1038/s41598-021-82017-6).
    Nothing with fewer than three models or two patients.
    """
    cases = sorted(patients)
    people = list(dict.fromkeys(patients[case] for case in cases))
    if len(models) < LEAST_MODELS or len(people) < 2:
        return []
    place = {name: n for n, name in enumerate(people)}
    rows = np.array([place[patients[case]] for case in cases], np.intp)
    times = _times(len(people), seed, resamples)[:, rows]
    found = []
    for metric in dict.fromkeys(e.metric for e in endpoints):
        of_metric = [e for e in endpoints if e.metric == metric]
        values = [_values(models, e, cases) for e in of_metric]
        drawn = {rule: [by_rule(v, times) for v in values] for rule, by_rule in _BY_RULE.items()}
        groups = [list(range(len(of_metric)))] if len(of_metric) > 1 else []
        for group in [*groups, *([n] for n in range(len(of_metric)))]:
            names, chosen = tuple(of_metric[n].structure for n in group), [values[n] for n in group]
            for rule, parts in drawn.items():
                ranking = _ranking(of_metric[0], names, rule, np.stack([parts[n] for n in group]), chosen, rows)
                found += [ranking] if ranking else []
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def tau_b(ranks: Floats, others: Floats) -> Floats:
    """Kendall's tau-b of ``ranks`` (M,) with each row of ``others`` (B, M); NaN where either ties all.

    Kendall 1945, doi:10.1093/biomet/33.3.239.
    """
    first, second = np.triu_indices(len(ranks), 1)
    ours = np.sign(ranks[first] - ranks[second])
    theirs = np.sign(others[:, first] - others[:, second])
    norm = np.sqrt(np.abs(ours).sum() * np.abs(theirs).sum(axis=1))
    found: Floats = np.divide(theirs @ ours, norm, out=np.full(len(others), math.nan), where=norm > 0)
    return found


def _times(people: int, seed: int, resamples: int) -> Floats:
    """How often each patient is drawn (resamples, patients); the first row is the study itself, each once."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, people, (resamples, people)) + people * np.arange(resamples)[:, None]
    counted = np.bincount(drawn.ravel(), minlength=resamples * people).reshape(resamples, people)
    return np.concatenate([np.ones((1, people)), counted])


def _values(models: Sequence[ModelScores], endpoint: Endpoint, cases: Sequence[str]) -> _Values:
    key = (endpoint.metric, endpoint.structure)
    worse = np.array(
        [[badness(m.values.get(key, {}).get(c, math.nan), endpoint.better) for m in models] for c in cases]
    )
    undefined = np.isnan(worse)
    faulty, unclear = np.zeros_like(undefined), np.zeros(len(cases), bool)
    for n in np.flatnonzero(undefined.any(axis=1) & ~undefined.all(axis=1)).tolist():
        for m in np.flatnonzero(undefined[n]).tolist():
            lacking = cases[n] not in models[m].cases
            state = "lacking" if lacking else models[m].states.get((endpoint.structure, cases[n]), "")
            faulty[n, m] = state in ("lacking", *AT_FAULT)
            unclear[n] |= not faulty[n, m] and state != "both_empty"
    return _Values(worse, faulty, unclear)


def _ranking(
    endpoint: Endpoint,
    structures: tuple[str, ...],
    rule: Rule,
    parts: Floats,
    values: Sequence[_Values],
    rows: npt.NDArray[np.intp],
) -> Ranking | None:
    """From ``parts`` (structures, 1 + resamples, M): None where the study itself defines nothing for some model."""
    known = ~np.isnan(parts).any(axis=2, keepdims=True)  # a structure that a draw has for some models only says nothing
    count = known.sum(axis=0)
    total = np.where(known, parts, 0.0).sum(axis=0)
    figures = np.divide(total, count, out=np.full_like(total, math.nan), where=count > 0)
    held = ~np.isnan(figures).any(axis=1)
    if not held[0]:
        return None
    ranks = _ranks(figures)
    drawn = ranks[1:][held[1:]]
    models = figures.shape[1]
    low, median, high = np.percentile(drawn, [2.5, 50, 97.5], axis=0, method="inverted_cdf")
    shown = figures[0] if rule == "rank then mean" or endpoint.better != "higher" else -figures[0]
    any_value = np.any([~np.isnan(v.worse).all(axis=1) for v in values], axis=0)
    return Ranking(
        metric=endpoint.metric,
        unit=endpoint.unit,
        structures=structures,
        rule=rule,
        cases=int(any_value.sum()),
        patients=len(set(rows[any_value].tolist())),
        unclear=int(np.any([v.unclear for v in values], axis=0).sum()),
        figures=np.where(np.isinf(shown), math.nan, shown),
        ranks=ranks[0].astype(np.int64),
        shares=np.stack([(drawn == rank).mean(axis=0) for rank in range(1, models + 1)], axis=1),
        low=low,
        median=median,
        high=high,
        tau=_spread(tau_b(ranks[0], drawn)),
        resamples=len(drawn),
    )


def _spread(taus: Floats) -> tuple[float, float, float]:
    known = taus[~np.isnan(taus)]
    if not len(known):
        return math.nan, math.nan, math.nan
    low, high = np.percentile(known, [2.5, 97.5])
    return float(known.mean()), float(low), float(high)


def _means(values: _Values, times: Floats) -> Floats:
    """Each model's mean over the cases drawn that it defines (1 + resamples, M); infinite where a failure has no value."""
    usable = ~np.isnan(values.worse) & ~values.unclear[:, None]
    number = times @ usable
    total = times @ np.where(usable, values.worse, 0.0)
    means = np.divide(total, number, out=np.full_like(total, math.nan), where=number > 0)
    means[times @ (values.faulty & ~values.unclear[:, None]) > 0] = _LAST
    return means


def _mean_ranks(values: _Values, times: Floats) -> Floats:
    """Each model's mean rank over the cases drawn (1 + resamples, M)."""
    from scipy.stats import rankdata

    usable = ~np.isnan(values.worse).all(axis=1) & ~values.unclear
    keys = np.where(np.isnan(values.worse), -math.inf, np.round(values.worse, _DECIMALS))
    keys[values.faulty] = _LAST
    in_case = np.zeros_like(keys)
    in_case[usable] = rankdata(keys[usable], axis=1) if usable.any() else 0.0
    number = (times @ usable)[:, None]
    total = times @ in_case
    found: Floats = np.divide(total, number, out=np.full_like(total, math.nan), where=number > 0)
    return found


_BY_RULE: dict[Rule, Callable[[_Values, Floats], Floats]] = {"mean then rank": _means, "rank then mean": _mean_ranks}


def _ranks(figures: Floats) -> Floats:
    """By row, 1 for the least; equal ones share the better rank."""
    rounded = np.round(figures, _DECIMALS)
    found: Floats = 1.0 + (rounded[:, None, :] < rounded[:, :, None]).sum(axis=2)
    return found
