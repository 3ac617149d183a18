import math

import pandas as pd
import pytest

from medseg.core.scores import Score
from medseg.statistics import mean_over_structures, summarise


def rows(values, structure="liver", metric="dice", states=None):
    states = states or ["scored"] * len(values)
    return [
        Score(f"c{n}", structure, metric, v, "ratio", s) for n, (v, s) in enumerate(zip(values, states, strict=True))
    ]


def test_centre_and_quartiles_equal_those_of_pandas():
    values = [0.1, 0.7, 0.9, 0.95, 0.2]
    (summary,) = summarise(rows(values))
    described = pd.Series(values).describe()
    found = (summary.n, summary.mean, summary.q1, summary.median, summary.q3)
    assert found == pytest.approx(tuple(described[["count", "mean", "25%", "50%", "75%"]]))


def test_undefined_values_are_counted_and_left_out():
    states = ["scored", "both_empty", "missed", "spurious", "missed"]
    (summary,) = summarise(rows([0.8, math.nan, 0.0, 0.0, 0.0], states=states))
    assert (summary.n, summary.undefined, summary.missed, summary.spurious) == (4, 1, 2, 1)
    assert summary.mean == pytest.approx(0.2)


def test_nothing_defined_has_no_mean():
    (summary,) = summarise(rows([math.nan, math.nan]))
    assert (summary.n, summary.undefined) == (0, 2)
    assert all(math.isnan(v) for v in (summary.mean, summary.median, summary.q1, summary.q3))


def test_summaries_go_metric_by_metric_in_order_of_appearance():
    scores = [Score(c, s, m, 0.5, "ratio") for c in "ab" for s in ("spleen", "liver") for m in ("iou", "dice")]
    found = [(s.metric, s.structure, s.n) for s in summarise(scores)]
    assert found == [("iou", "spleen", 2), ("iou", "liver", 2), ("dice", "spleen", 2), ("dice", "liver", 2)]


def test_no_scores_have_no_summaries():
    assert summarise([]) == []


def test_every_structure_weighs_the_same_in_the_mean_over_structures():
    scores = rows([0.9, 0.9, 0.9]) + rows([0.3], structure="tumour") + rows([math.nan], structure="cyst")
    assert mean_over_structures(summarise(scores), "dice") == pytest.approx(0.6)
    assert math.isnan(mean_over_structures(summarise(scores), "hd95"))
