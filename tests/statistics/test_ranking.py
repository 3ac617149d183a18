"""Rankings by hand, Kendall's tau against scipy, stability where it is known."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from medseg.statistics.comparison import Endpoint, ModelScores
from medseg.statistics.ranking import rank_models, tau_b

DICE = Endpoint("dice", "ratio", "higher", "liver")
HD = Endpoint("hd95", "mm", "lower", "liver")


def model(name, values, endpoint=DICE, states=None, cases=None):
    by_case = {f"c{n}": v for n, v in enumerate(values)}
    found = {(endpoint.structure, c): "scored" for c in by_case} | (states or {})
    return ModelScores(name, frozenset(cases or by_case), {(endpoint.metric, endpoint.structure): by_case}, found)


def ranked(models, endpoints=(DICE,), **given):
    cases = sorted(set().union(*(m.cases for m in models)))
    patients = given.pop("patients", {c: c for c in cases})
    return rank_models(models, endpoints, patients=patients, **given)


@pytest.mark.parametrize("seed", range(5))
def test_tau_is_that_of_scipy_with_ties(seed):
    rng = np.random.default_rng(seed)
    ranks, others = rng.integers(1, 5, 6).astype(float), rng.integers(1, 5, (20, 6)).astype(float)
    expected = [kendalltau(ranks, row).statistic for row in others]
    assert tau_b(ranks, others) == pytest.approx(expected)
    assert math.isnan(tau_b(np.ones(3), np.array([[1.0, 2.0, 3.0]]))[0])


def test_the_two_rules_by_hand_and_that_they_may_differ():
    # a is best in three of four cases and fails in one; b is second throughout.
    models = [model("a", [0.9, 0.9, 0.9, 0.0]), model("b", [0.8, 0.8, 0.8, 0.8]), model("c", [0.7, 0.7, 0.7, 0.7])]
    means, ranks = ranked(models)
    assert (means.rule, means.figures.tolist()) == ("mean then rank", pytest.approx([0.675, 0.8, 0.7]))
    assert means.ranks.tolist() == [3, 1, 2]
    assert ranks.figures.tolist() == pytest.approx([(1 + 1 + 1 + 3) / 4, (2 + 2 + 2 + 1) / 4, (3 + 3 + 3 + 2) / 4])
    assert ranks.ranks.tolist() == [1, 2, 3]


def test_shares_are_those_of_all_draws_of_patients():
    """Three patients: all 27 draws can be counted."""
    values = np.array([[0.9, 0.2, 0.5], [0.8, 0.6, 0.3], [0.1, 0.5, 0.6]])
    models = [model(n, v) for n, v in zip("abc", values, strict=True)]
    (means, _) = ranked(models, resamples=20_000)
    counts, taus = np.zeros((3, 3)), []
    full = np.round(values.mean(axis=1), 9)
    for draw in np.ndindex(3, 3, 3):
        mean = np.round(values[:, draw].mean(axis=1), 9)
        taus.append(kendalltau(-full, -mean).statistic)
        for m in range(3):
            counts[m, int((mean > mean[m]).sum())] += 1
    assert means.shares == pytest.approx(counts / 27, abs=0.01)
    assert means.tau[0] == pytest.approx(np.nanmean(taus), abs=0.01)


def test_a_clear_order_is_certain_and_equal_models_are_tied_always():
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 0.6, 20)
    for ranking in ranked([model(n, base + 0.1 * k) for k, n in enumerate("abc")]):
        assert ranking.ranks.tolist() == [3, 2, 1]
        assert ranking.shares.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
        assert ranking.tau == (1.0, 1.0, 1.0)
    for ranking in ranked([model(n, base) for n in "abc"]):
        assert ranking.ranks.tolist() == [1, 1, 1]
        assert math.isnan(ranking.tau[0])


def test_models_that_differ_by_noise_alone_are_first_equally_often():
    rng = np.random.default_rng(1)
    base = rng.uniform(0.7, 0.9, (3, 12))
    firsts = []
    for shift in range(3):  # each model in turn has each row of the noise
        (means, _) = ranked([model(n, base[(k + shift) % 3]) for k, n in enumerate("abc")])
        firsts.append(means.shares[0, 0])
    assert sum(firsts) == pytest.approx(1.0, abs=0.01)
    assert max(firsts) < 0.95


def test_a_distance_is_better_the_lower_and_its_mean_is_shown_as_it_is():
    models = [model("a", [1.0, 2.0], HD), model("b", [3.0, 3.0], HD), model("c", [9.0, 4.0], HD)]
    means, ranks = ranked(models, (HD,))
    assert means.figures.tolist() == [1.5, 3.0, 6.5]
    assert means.ranks.tolist() == ranks.ranks.tolist() == [1, 2, 3]


def test_a_failure_without_a_value_makes_a_model_the_last():
    missed = {("liver", "c1"): "missed"}
    models = [model("a", [1.0, math.nan], HD, missed), model("b", [3.0, 3.0], HD), model("c", [9.0, 4.0], HD)]
    means, ranks = ranked(models, (HD,))
    assert math.isnan(means.figures[0])
    assert means.ranks.tolist() == [3, 1, 2]
    assert ranks.figures.tolist() == [2.0, 1.5, 2.5]
    lacking = [model("a", [0.9]), model("b", [0.8, 0.8]), model("c", [0.7, 0.7])]
    means, ranks = ranked(lacking)
    assert means.ranks.tolist() == [3, 1, 2]
    assert ranks.figures.tolist() == [2.0, 1.5, 2.5]


def test_who_rightly_found_nothing_is_first_where_another_claims_a_structure():
    nothing = {("liver", "c1"): "both_empty"}
    models = [model("a", [0.7, math.nan], states=nothing), model("b", [0.9, 0.0], states={("liver", "c1"): "spurious"})]
    models.append(model("c", [0.8, math.nan], states=nothing))
    means, ranks = ranked(models)
    assert means.figures.tolist() == pytest.approx([0.7, 0.45, 0.8])
    assert ranks.figures.tolist() == pytest.approx([(3 + 1.5) / 2, (1 + 3) / 2, (2 + 1.5) / 2])


def test_a_case_undefined_for_an_unknown_reason_is_in_no_figure_and_counted():
    models = [model("a", [0.7, math.nan], states={("liver", "c1"): ""}), model("b", [0.9, 0.1]), model("c", [0.8, 0.9])]
    means, _ = ranked(models)
    assert means.figures.tolist() == pytest.approx([0.7, 0.9, 0.8])
    assert (means.cases, means.unclear) == (2, 1)


def test_over_structures_each_structure_weighs_the_same():
    spleen = Endpoint("dice", "ratio", "higher", "spleen")
    models = []
    for name, liver, other in (("a", 0.9, 0.5), ("b", 0.8, 0.8), ("c", 0.7, 0.6)):
        values = {("dice", "liver"): {"c0": liver, "c1": liver}, ("dice", "spleen"): {"c0": other}}
        states = {("liver", "c0"): "scored", ("liver", "c1"): "scored", ("spleen", "c0"): "scored"}
        models.append(ModelScores(name, frozenset({"c0", "c1"}), values, states | {("spleen", "c1"): "both_empty"}))
    both, by_rank, *rest = ranked(models, (DICE, spleen))
    assert both.structures == ("liver", "spleen")
    assert both.figures.tolist() == pytest.approx([0.7, 0.8, 0.65])
    assert by_rank.figures.tolist() == pytest.approx([(1 + 3) / 2, (2 + 1) / 2, (3 + 2) / 2])
    assert [r.structures for r in rest] == [("liver",), ("liver",), ("spleen",), ("spleen",)]


def test_patients_are_drawn_whole_and_two_models_or_one_patient_have_no_ranking():
    rng = np.random.default_rng(3)
    effects = np.repeat(rng.normal(0, 0.1, (3, 4)), 10, axis=1)
    models = [model(n, 0.7 + e) for n, e in zip("abc", effects, strict=True)]
    cases = [f"c{n}" for n in range(40)]
    apart = ranked(models)[0]
    together = ranked(models, patients={c: str(int(c[1:]) // 10) for c in cases})[0]
    assert together.patients == 4
    assert together.shares.max(axis=1).sum() < apart.shares.max(axis=1).sum()
    assert ranked(models[:2]) == []
    assert ranked(models, patients=dict.fromkeys(cases, "one")) == []
