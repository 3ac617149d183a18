"""The promise that no choice lets a missed organ improve a mean, over random cases, for every metric and rule."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.geometry import Geometry
from medseg.metrics import LESION_METRICS, METRICS, CasePair, Rules, score_case, score_structure
from medseg.statistics import mean_over_structures, summarise

STRUCTURES = {1: "liver", 2: "tumour"}
NAMES = (*METRICS, *LESION_METRICS)
AMOUNTS = ("volume", "lesion_false_positives", "reference_lesions")  # neither good nor bad by themselves


def better_way(metric, unit):
    """1 where more is better, -1 where less is, 0 for an amount."""
    if any(word in metric for word in AMOUNTS):
        return 0
    return {"ratio": 1, "mm": -1}[unit]


def scores_of(cases, missed):
    scores = []
    for n, (prediction, reference) in enumerate(cases):
        pair = CasePair.of(prediction, reference, Geometry(reference.shape, np.diag([0.7, 1.0, 3.0, 1.0])))
        for value, name in STRUCTURES.items():
            masks = pair.structure(value, Rules(missed=missed, lesion_iou=0.2))
            scores += score_structure(str(n), name, masks, NAMES)
        scores += score_case(str(n), pair, ["mean_iou"])
    return scores


def not_better(after, before, way):
    """Undefined is not better than a figure; a figure is not better than undefined only where nothing was left out before."""
    return math.isnan(after) or math.isnan(before) or way * (after - before) <= 1e-9


@st.composite
def cohorts(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cases = []
    for _ in range(draw(st.integers(1, 4))):
        shape = tuple(rng.integers(1, 7, 3))
        share = rng.dirichlet([1.5, 1.0, 0.7])
        prediction, reference = (rng.choice(3, size=shape, p=share).astype(np.uint8) for _ in range(2))
        prediction = np.where(rng.random(shape) < rng.choice([0.0, 0.5, 1.0]), reference, prediction)
        reference[reference == rng.integers(1, 8)] = 0  # now and then a structure that is not there
        cases.append((prediction, reference))
    return cases


@pytest.mark.parametrize("missed", ["diagonal", "undefined"])
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(cases=cohorts(), which=st.integers(0, 3), value=st.sampled_from(sorted(STRUCTURES)))
def test_making_a_prediction_empty_never_improves_a_mean(missed, cases, which, value):
    which %= len(cases)
    prediction, reference = cases[which]
    if not (reference == value).any():
        return  # to predict nothing where nothing is, is right
    emptied = list(cases)
    emptied[which] = (np.where(prediction == value, 0, prediction).astype(np.uint8), reference)
    before, after = (summarise(scores_of(c, missed)) for c in (cases, emptied))
    for old, new in zip(before, after, strict=True):
        way = better_way(old.metric, old.unit)
        for figure in ("mean", "median", "q1", "q3"):
            assert not_better(getattr(new, figure), getattr(old, figure), way), (old, new)
        if way and not math.isnan(old.mean) and math.isnan(new.mean):
            assert (missed, new.unit) == ("undefined", "mm"), (old, new)
        if way and math.isnan(old.mean) and not math.isnan(new.mean):
            assert new.mean == 0.0 or new.unit == "mm", (old, new)  # from nothing said to the worst
    for metric in {s.metric for s in before}:
        unit = next(s.unit for s in before if s.metric == metric)
        old, new = mean_over_structures(before, metric), mean_over_structures(after, metric)
        assert not_better(new, old, better_way(metric, unit)), metric


def test_a_withheld_mean_of_one_structure_withholds_the_mean_over_structures():
    reference = np.zeros((6, 6, 6), np.uint8)
    reference[:2], reference[4:] = 1, 2
    prediction = np.where(reference == 2, 0, reference).astype(np.uint8)
    summaries = summarise(scores_of([(prediction, reference), (reference, reference)], "undefined"))
    means = {(s.structure, s.metric): s for s in summaries}
    assert means["liver", "hd95"].mean == 0.0
    assert math.isnan(means["tumour", "hd95"].mean)
    assert math.isnan(means["tumour", "hd95"].high)
    assert means["tumour", "hd95"].n == 1
    assert math.isnan(mean_over_structures(summaries, "hd95"))
    assert mean_over_structures(summaries, "dice") == pytest.approx(0.75)
