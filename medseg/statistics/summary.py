"""One line for each structure and metric: the centre and the spread of what is defined, and counts of what is not."""

import math
from collections.abc import Iterable

import numpy as np

from medseg.core.scores import Score, Summary, defined


def summarise(scores: Iterable[Score]) -> list[Summary]:
    """Mean, median and quartiles over cases for each structure and metric: metric by metric, in order of appearance.

    Quartiles interpolate linearly (type 7 of Hyndman and Fan 1996, doi:10.1080/00031305.1996.10473566). Undefined
    values are counted and left out; with none defined all figures are NaN and ``n`` is 0.
    """
    groups: dict[str, dict[str, list[Score]]] = {}
    for score in scores:
        groups.setdefault(score.metric, {}).setdefault(score.structure, []).append(score)
    return [_summary(group) for by_structure in groups.values() for group in by_structure.values()]


def _summary(group: list[Score]) -> Summary:
    values = defined(score.value for score in group)
    q1, median, q3 = (float(q) for q in np.percentile(values, [25, 50, 75])) if values else (math.nan,) * 3
    first, states = group[0], [score.state for score in group]
    return Summary(
        structure=first.structure,
        metric=first.metric,
        unit=first.unit,
        mean=float(np.mean(values)) if values else math.nan,
        median=median,
        q1=q1,
        q3=q3,
        n=len(values),
        undefined=len(group) - len(values),
        missed=states.count("missed"),
        spurious=states.count("spurious"),
    )


def mean_over_structures(summaries: Iterable[Summary], metric: str) -> float:
    """The mean over structures of their means over cases; NaN where none is defined. Every structure weighs the same."""
    means = defined(s.mean for s in summaries if s.metric == metric)
    return float(np.mean(means)) if means else math.nan
