"""Sample sizes against exact power and simulation."""

import numpy as np
import pytest
from scipy import stats

from medseg.core.errors import ConfigError
from medseg.statistics.power import for_wilcoxon, patients_for_difference, patients_for_margin
from medseg.workflows.power import power


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_small_medium_and_large_effects_need_what_the_noncentral_t_gives(effect, n):
    # Counted up, by scipy's noncentral t; the formula is in http://www.okstate.edu/sas/v8/sashtml/analyst/chap12/sect7.htm
    def power_of(k):
        limit, shift = stats.t.ppf(0.975, k - 1), effect * np.sqrt(k)
        return stats.nct.sf(limit, k - 1, shift) + stats.nct.cdf(-limit, k - 1, shift)

    assert next(k for k in range(2, 1000) if power_of(k) >= 0.8) == n
    assert patients_for_difference(effect, 1.0, power=0.8, alpha=0.05) == n


def test_n_is_the_least_whose_noncentral_t_reaches_the_power():
    def reached(n):
        limit = stats.t.ppf(0.975, n - 1)
        shift = 0.4 * np.sqrt(n)
        return stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift)

    n = patients_for_difference(-0.02, 0.05, power=0.9, alpha=0.05)
    assert reached(n) >= 0.9 > reached(n - 1)


def test_a_margin_is_shown_about_as_often_as_promised():
    n = patients_for_margin(0.02, 0.0, 0.05, power=0.8, alpha=0.05)
    d = np.random.default_rng(0).normal(0.0, 0.05, (4000, n))
    low = d.mean(axis=1) - stats.t.ppf(0.975, n - 1) * d.std(axis=1, ddof=1) / np.sqrt(n)
    assert np.mean(low > -0.02) == pytest.approx(0.8, abs=0.02)


def test_wilcoxon_never_needs_more_than_its_least_efficiency_says():
    assert for_wilcoxon(34) == 40
    assert power(1.0, difference=0.5).wilcoxon == 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sd": 0.0, "difference": 0.1}, "--sd"),
        ({"sd": float("nan"), "difference": 0.1}, "--sd"),
        ({"sd": 0.1}, "least difference that matters"),
        ({"sd": 0.1, "difference": float("nan")}, "least difference that matters"),
        ({"sd": 0.1, "difference": 0.1, "power": 1.0}, "--power"),
        ({"sd": 0.1, "difference": 0.1, "alpha": 0.9}, "above --alpha"),
        ({"sd": 0.1, "margin": -1.0}, "--margin"),
        ({"sd": 0.1, "margin": 0.02, "difference": -0.03}, "worse than the margin"),
    ],
)
def test_figures_out_of_range_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        power(**given)


def test_the_verb_prints_patients_for_both_tests(capsys):
    from medseg.cli.app import run

    assert run(["power", "--sd", "0.05", "--difference", "0.025"]) == 0
    assert capsys.readouterr().out.startswith("patients: 34 for the paired t-test, at most 40")
    assert run(["power", "--sd", "0", "--difference", "0.025"]) == 2
