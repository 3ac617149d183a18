"""Paired comparisons counted by hand: who wins, whom an undefined case counts against, and when a margin is met."""

import math

import numpy as np
import pytest
from scipy import stats

from medseg.metrics import CASE_METRICS, LESION_METRICS, METRICS
from medseg.statistics.comparison import Endpoint, ModelScores, compare_models
from medseg.statistics.direction import badness, better

DICE = Endpoint("dice", "ratio", "higher", "liver")
NAN = math.nan


def model(name, values, *, states=None, metric="dice", cases=None):
    """``values`` of the liver in cases c00, c01, ...; None is a case that the model lacks."""
    listed = {f"c{n:02}": v for n, v in enumerate(values) if v is not None}
    named = {("liver", f"c{n:02}"): s for n, s in enumerate(states or [])}
    return ModelScores(name, frozenset(listed), {(metric, "liver"): listed}, named)


def compared(a, b, *, endpoint=DICE, margin=None, patients=None):
    cases = sorted(a.cases | b.cases)
    margins = {} if margin is None else {endpoint.metric: margin}
    patients = patients or dict(zip(cases, cases, strict=True))
    (row,) = compare_models([a, b], [endpoint], pairs=[(0, 1)], patients=patients, margins=margins)
    return row


def test_difference_wins_and_means_by_hand():
    row = compared(model("a", [0.5, 0.6, 0.7, 0.8]), model("b", [0.6, 0.6, 0.9, 0.7]))
    assert (row.n, row.wins, row.ties, row.losses) == (4, 2, 1, 1)
    assert (row.mean_first, row.mean_second) == pytest.approx((0.65, 0.7))
    assert (row.mean, row.median) == pytest.approx((0.05, 0.05))
    # Differences 0.1, 0, 0.2, -0.1: ranks 1.5 and 3 for, 1.5 against.
    assert row.rank_biserial == pytest.approx(3 / 6)
    # Signs of 0.1, 0.2, -0.1: totals of size 0.2 or more are 0.4, 0.2, 0.2 and their opposites.
    assert row.permutation_p == 6 / 8


def test_lower_distances_win_and_their_effect_is_positive():
    hd95 = Endpoint("hd95", "mm", "lower", "liver")
    a, b = (model(n, v, metric="hd95") for n, v in (("a", [5.0, 6.0, 9.0]), ("b", [4.0, 5.5, 7.0])))
    row = compared(a, b, endpoint=hd95)
    assert (row.wins, row.losses, row.rank_biserial) == (3, 0, 1.0)
    assert row.mean < 0 < row.d_z


def test_signed_figures_are_compared_by_their_size():
    signed = Endpoint("volume_difference_ml", "mL", "nearer to 0", "liver")
    a, b = (model(n, v, metric=signed.metric) for n, v in (("a", [-10.0, 10.0]), ("b", [1.0, -1.0])))
    row = compared(a, b, endpoint=signed)
    assert (row.mean_first, row.mean_second, row.mean, row.wins) == (10.0, 1.0, -9.0, 2)


def test_a_case_that_one_model_missed_and_the_other_found_is_in_the_difference():
    row = compared(
        model("a", [0.9, 0.9], states=["scored", "scored"]), model("b", [0.9, 0.0], states=["scored", "missed"])
    )
    assert (row.n, row.mean, row.losses) == (2, pytest.approx(-0.45), 1)


def test_a_spurious_structure_counts_against_its_model_where_the_other_has_no_value():
    empty = ["scored"] * 4 + ["both_empty"]
    a = model("a", [0.8, 0.8, 0.7, 0.9, NAN], states=empty)
    b = model("b", [0.81, 0.82, 0.73, 0.94, 0.0], states=[*empty[:4], "spurious"])
    row = compared(a, b, margin=0.02)
    assert (row.n, row.against_first, row.against_second, row.wins, row.losses) == (4, 0, 1, 4, 1)
    assert row.low > 0
    assert row.non_inferior is False  # better wherever both are defined, yet a case stands against it
    turned = compared(b, a)
    assert (turned.against_first, turned.wins) == (1, 1)


def test_a_distance_left_undefined_by_a_miss_counts_against_the_model_that_missed():
    hd95 = Endpoint("hd95", "mm", "lower", "liver")
    a = model("a", [3.0, 4.0, 50.0], metric="hd95", states=["scored"] * 3)
    b = model("b", [3.0, 4.0, NAN], metric="hd95", states=["scored", "scored", "missed"])
    row = compared(a, b, endpoint=hd95)
    assert (row.n, row.against_second, row.losses) == (2, 1, 1)
    # As in a summary: a mean without the missed case would be better for the miss.
    assert all(
        math.isnan(v) for v in (row.mean, row.low, row.mean_second, row.wilcoxon_holm, row.permutation_p, row.d_z)
    )
    assert row.interval == ""


def test_a_missing_prediction_counts_against_its_model_and_an_unknown_reason_against_none():
    row = compared(model("a", [0.9, 0.8, NAN]), model("b", [0.9, None, 0.5]))
    assert (row.n, row.against_second, row.unclear, row.wins, row.ties, row.losses) == (1, 1, 1, 0, 1, 1)


def test_undefined_in_both_is_counted():
    row = compared(model("a", [NAN, NAN]), model("b", [NAN, NAN]))
    assert (row.n, row.both_undefined, row.interval, row.wins + row.ties + row.losses) == (0, 2, "", 0)
    assert math.isnan(row.mean)
    assert math.isnan(row.wilcoxon_p)
    assert math.isnan(row.permutation_holm)


@pytest.mark.parametrize(("shift", "expected"), [(0.0, True), (-0.015, True), (-0.03, False)])
def test_not_inferior_where_the_whole_interval_is_better_than_the_margin(shift, expected):
    a = np.random.default_rng(0).uniform(0.7, 0.9, 30)
    b = a + shift + np.random.default_rng(1).uniform(-0.004, 0.004, 30)
    row = compared(model("a", a), model("b", b), margin=0.02)
    assert row.non_inferior is expected
    assert (row.low > -0.02) is expected
    distance = Endpoint("hd95", "mm", "lower", "liver")
    mirrored = compared(model("a", -a, metric="hd95"), model("b", -b, metric="hd95"), endpoint=distance, margin=0.02)
    assert mirrored.non_inferior is expected
    assert mirrored.high == pytest.approx(-row.low, abs=2e-4)


def test_two_patients_show_nothing():
    assert compared(model("a", [0.5, 0.5]), model("b", [0.9, 0.8]), margin=0.02).non_inferior is False


def test_scans_of_one_patient_are_one_unit_in_the_tests():
    rng = np.random.default_rng(3)
    one = rng.normal(0.02, 0.03, 12)
    a, b = model("a", np.full(36, 0.8)), model("b", 0.8 + np.repeat(one, 3))
    row = compared(a, b, patients={f"c{n:02}": f"p{n // 3}" for n in range(36)})
    single = compared(model("a", np.full(12, 0.8)), model("b", 0.8 + one))
    assert (row.n, row.patients, single.patients) == (36, 12, 12)
    assert row.wilcoxon_p == pytest.approx(stats.wilcoxon(one).pvalue)
    assert (row.permutation_p, row.low, row.high) == pytest.approx((single.permutation_p, single.low, single.high))


def test_p_is_adjusted_over_every_row_of_each_test():
    rng = np.random.default_rng(4)
    endpoints = [DICE, Endpoint("dice", "ratio", "higher", "spleen")]
    models = []
    for name in "abc":
        values = {("dice", s): {f"c{n}": float(v) for n, v in enumerate(rng.random(10))} for s in ("liver", "spleen")}
        models.append(ModelScores(name, frozenset(f"c{n}" for n in range(10)), values, {}))
    patients = {f"c{n}": f"c{n}" for n in range(10)}
    rows = compare_models(models, endpoints, pairs=[(0, 1), (0, 2)], patients=patients, margins={})
    raw = sorted(r.wilcoxon_p for r in rows)
    by_hand = np.minimum(1, np.maximum.accumulate([p * m for p, m in zip(raw, (4, 3, 2, 1), strict=True)]))
    assert sorted(r.wilcoxon_holm for r in rows) == pytest.approx(by_hand.tolist())
    assert [(r.first, r.second, r.endpoint.structure) for r in rows] == [
        ("a", "b", "liver"), ("a", "b", "spleen"), ("a", "c", "liver"), ("a", "c", "spleen"),
    ]  # fmt: skip


def test_the_better_way_of_every_metric_is_known():
    ways = {name: better(name, m.unit) for name, m in (METRICS | LESION_METRICS | CASE_METRICS).items()}
    nearer = {"volume_difference_ml", "relative_volume_difference"}
    lower = {name for name, m in METRICS.items() if m.unit == "mm"}
    lower |= {name for name in LESION_METRICS if name.startswith("lesion_false_positives")}
    neither = {"volume_ml", "reference_volume_ml"} | {name for name in LESION_METRICS if name.startswith("reference_")}
    for way, expected in (("nearer to 0", nearer), ("lower", lower), (None, neither)):
        assert {name for name, found in ways.items() if found == way} == expected
    assert {name for name, found in ways.items() if found == "higher"} == set(ways) - nearer - lower - neither
    assert better("ece", "ratio") == "lower"


def test_badness_rises_as_a_figure_gets_worse():
    assert badness(0.2, "higher") > badness(0.9, "higher")
    assert badness(9.0, "lower") > badness(2.0, "lower")
    assert badness(-5.0, "nearer to 0") > badness(3.0, "nearer to 0")


@pytest.mark.parametrize("seed", range(12))
def test_every_case_is_counted_once_whatever_is_missing(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 7))
    kinds = ("scored", "missed", "spurious", "both_empty", "")
    models = []
    for name in "ab":
        values = [
            None if rng.random() < 0.1 else float(rng.choice([NAN, 0.0, 0.5, 1.0, rng.random()])) for _ in range(n)
        ]
        models.append(model(name, values, states=[str(s) for s in rng.choice(kinds, n)]))
    cases = models[0].cases | models[1].cases
    if cases:
        row = compared(*models, margin=0.1)
        assert row.wins + row.ties + row.losses + row.both_undefined + row.unclear == len(cases)
        assert not row.interval or row.low <= row.high
