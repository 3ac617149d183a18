"""One line for each structure and metric: the centre and the spread of what is defined, and counts of what is not."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from medseg.core.scores import Score, Summary, defined, withheld
from medseg.statistics.bootstrap import Interval, mean_intervals
from medseg.statistics.direction import badness, better

Group = list[Score]


def summarise(scores: Iterable[Score], *, patients: Mapping[str, str] | None = None) -> list[Summary]:
    """Mean with its interval, median and quartiles over cases of each structure and metric, by metric, in order of appearance.

    Quartiles interpolate linearly (type 7 of Hyndman and Fan 1996, doi:10.1080/00031305.1996.10473566); the 95 %
    interval of the mean is ``bootstrap.mean_intervals``, by patient: ``patients`` names that of each case, without it
    each case is one. Undefined values are counted and left out; with none defined all figures are NaN and ``n`` is 0. Where
    a missed or spurious case has no distance, no figure is stated either: without that case it would be better for the failure.
    """
    groups: dict[str, dict[str, Group]] = {}
    for score in scores:
        groups.setdefault(score.metric, {}).setdefault(score.structure, []).append(score)
    listed = [group for by_structure in groups.values() for group in by_structure.values()]
    return [_summary(group, i) for group, i in zip(listed, _intervals(listed, patients or {}), strict=True)]


def _intervals(groups: list[Group], patients: Mapping[str, str]) -> list[Interval]:
    """Of each group's mean; groups over the same cases are resampled together."""
    found: dict[int, Interval] = {}
    by_cases: dict[tuple[str, ...], list[int]] = {}
    for n, group in enumerate(groups):
        by_cases.setdefault(tuple(s.case for s in group), []).append(n)
    for cases, columns in by_cases.items():
        values = np.array([_stated(groups[n]) for n in columns], float).T
        intervals = mean_intervals(values, [patients.get(case, case) for case in cases])
        found |= dict(zip(columns, intervals, strict=True))
    return [found[n] for n in range(len(groups))]


def _stated(group: Group) -> list[float]:
    """The values that figures over cases are made of; all NaN where they are withheld."""
    return [math.nan] * len(group) if withheld(group) else [score.value for score in group]


def _summary(group: Group, interval: Interval) -> Summary:
    n, stated = len(defined(score.value for score in group)), defined(_stated(group))
    q1, median, q3 = (float(q) for q in np.percentile(stated, [25, 50, 75])) if stated else (math.nan,) * 3
    first, states = group[0], [score.state for score in group]
    return Summary(
        structure=first.structure,
        metric=first.metric,
        unit=first.unit,
        mean=float(np.mean(stated)) if stated else math.nan,
        median=median,
        q1=q1,
        q3=q3,
        n=n,
        undefined=len(group) - n,
        missed=states.count("missed"),
        spurious=states.count("spurious"),
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        patients=interval.patients,
    )


def mean_over_structures(summaries: Iterable[Summary], metric: str) -> float:
    """The mean over structures of their means over cases; every structure weighs the same.

    NaN where none is defined, and where a structure's distances are withheld because of a missed or spurious case.
    """
    rows = [s for s in summaries if s.metric == metric]
    if any(math.isnan(s.mean) and s.unit == "mm" and s.missed + s.spurious for s in rows):
        return math.nan
    means = defined(s.mean for s in rows)
    return float(np.mean(means)) if means else math.nan


def worst_scores(scores: Iterable[Score], count: int) -> list[Score]:
    """The ``count`` worst scores of structures, the worst first: of dice, or without it of the first metric that has a better way.

    Undefined scores are not among them; ties go by case and structure.
    """
    listed = [s for s in scores if s.structure and better(s.metric, s.unit)]
    metric = "dice" if any(s.metric == "dice" for s in listed) else next((s.metric for s in listed), "")
    way = next((better(s.metric, s.unit) for s in listed if s.metric == metric), None)
    found = [s for s in listed if s.metric == metric and not math.isnan(s.value)]
    return sorted(found, key=lambda s: (-badness(s.value, way) if way else 0, s.case, s.structure))[:count]
