"""Paired tests against textbook examples, scipy, and counting by hand."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from medseg.statistics.paired import holm, rank_biserial, sign_flip_p, standardised_mean, wilcoxon_p

# Depression scale before and after, Hollander and Wolfe 1973, page 29: the first example of R's wilcox.test,
# https://stat.ethz.ch/R-manual/R-devel/library/stats/html/wilcox.test.html
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
# Darwin's maize, cross- less self-fertilised in eighths of an inch, Fisher 1935, The Design of Experiments, sections 17
# and 21: https://vincentarelbundock.github.io/Rdatasets/doc/HistData/ZeaMays.html
MAIZE = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48.0])


def test_wilcoxon_gives_hollander_and_wolfes_p():
    # R: V = 40, one-sided p 0.01953; the other side doubles it: 20 of 512 rankings.
    assert wilcoxon_p(BEFORE - AFTER) == pytest.approx(20 / 512)
    assert rank_biserial(BEFORE - AFTER) == pytest.approx((40 - 5) / 45)


def test_sign_flips_of_darwins_maize_are_those_that_all_signs_give():
    assert MAIZE.sum() == 314
    totals = np.array(list(product((1, -1), repeat=15))) @ MAIZE
    counted = int(np.count_nonzero(np.abs(totals) >= 314))
    assert counted == 2 * 863
    assert sign_flip_p(MAIZE[:, None])[0] == counted / 32768


@pytest.mark.parametrize("n", [1, 2, 5, 8])
def test_few_patients_are_counted_exactly(n):
    values = np.round(np.random.default_rng(n).normal(0.3, 1, n), 1)
    totals = [abs(np.dot(signs, values)) for signs in product((1, -1), repeat=n)]
    exact = np.mean([t >= abs(values.sum()) - 1e-9 for t in totals])
    assert sign_flip_p(values[:, None])[0] == pytest.approx(exact)


def test_the_exact_p_is_that_of_scipy():
    values = np.random.default_rng(0).normal(0.2, 1, 11)
    known = stats.permutation_test(
        (values, np.zeros(11)), lambda x, y, axis: (x - y).mean(axis=axis), permutation_type="samples", vectorized=True
    )
    assert sign_flip_p(values[:, None])[0] == pytest.approx(known.pvalue)


def test_random_signs_come_near_the_exact_p_and_never_give_0():
    values = np.r_[MAIZE, 0.001]  # 16 patients: no longer counted out
    assert sign_flip_p(values[:, None])[0] == pytest.approx(1726 / 32768, abs=0.01)
    assert sign_flip_p(np.ones((40, 1)))[0] == 1 / 10000


def test_patients_without_a_value_or_without_a_difference_change_nothing():
    padded = np.r_[MAIZE, np.zeros(30)][:, None]
    assert sign_flip_p(padded)[0] == sign_flip_p(MAIZE[:, None])[0]
    assert sign_flip_p(np.zeros((20, 2))).tolist() == [1.0, 1.0]


def test_equal_totals_count_although_their_sums_round_differently():
    values = np.array([0.1, 0.2, 0.3, 0.6])  # 0.1 + 0.2 + 0.3 - 0.6 is 1e-16, not 0
    assert sign_flip_p(values[:, None])[0] == 2 / 16
    # |total| >= 0 always
    assert sign_flip_p(np.array([0.1, 0.2, 0.3, -0.6])[:, None])[0] == 1.0


def test_p_is_uniform_without_a_difference():
    found = sign_flip_p(np.random.default_rng(1).normal(size=(25, 400)), permutations=999)
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.8, math.nan, 0.9])[0] == 1.0  # two tests, not three
    assert math.isnan(holm([0.8, math.nan, 0.9])[1])
    assert holm([]) == []
    assert all(math.isnan(p) for p in holm([math.nan]))


def test_no_difference_is_p_1_and_no_pair_has_none():
    nothing, zeros = np.zeros(0), np.zeros(5)
    assert (wilcoxon_p(zeros), rank_biserial(zeros)) == (1.0, 0.0)
    assert all(math.isnan(f(nothing)) for f in (wilcoxon_p, rank_biserial, standardised_mean))
    assert math.isnan(standardised_mean(np.full(4, 0.1)))


def test_effect_sizes_by_hand():
    d = np.array([1.0, 2.0, 3.0, -4.0])
    assert rank_biserial(d) == pytest.approx((1 + 2 + 3 - 4) / 10)
    assert standardised_mean(d) == pytest.approx(0.5 / math.sqrt((0.25 + 2.25 + 6.25 + 20.25) / 3))
