import math

import pandas as pd
import pytest

from medseg.core.scores import Score
from medseg.statistics import mean_over_structures, summarise, worst_scores


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


def test_the_interval_of_the_mean_is_by_patient():
    scores = rows([0.2, 0.2, 0.9, 0.9, 0.5, 0.5])
    patients = {f"c{n}": f"p{n // 2}" for n in range(6)}
    (each,), (grouped,) = summarise(scores), summarise(scores, patients=patients)
    assert (each.patients, grouped.patients, grouped.n) == (6, 3, 6)
    assert (grouped.interval, each.interval) == ("BCa", "BCa")
    assert grouped.low < each.low < each.mean < each.high < grouped.high


def test_the_worst_scores_are_the_missed_and_lowest_of_dice_and_never_the_undefined():
    scores = rows([0.8, 0.0, math.nan, 0.3], states=["scored", "missed", "both_empty", "scored"])
    scores += [Score("c0", "liver", "hd95", 99.0, "mm"), Score("c0", "", "mean_iou", 0.0, "ratio")]
    assert [(s.case, s.value) for s in worst_scores(scores, 2)] == [("c1", 0.0), ("c3", 0.3)]
    assert worst_scores(scores, 0) == []


def test_without_dice_the_worst_go_the_way_of_the_metric():
    far = [Score(c, "liver", "hd95", v, "mm") for c, v in (("a", 3.0), ("b", 30.0))]
    assert [s.case for s in worst_scores(far, 5)] == ["b", "a"]
    signed = [Score(c, "liver", "volume_difference_ml", v, "mL") for c, v in (("a", 3.0), ("b", -30.0))]
    assert [s.case for s in worst_scores(signed, 1)] == ["b"]
    assert worst_scores([Score("a", "liver", "volume_ml", 3.0, "mL")], 5) == []
