"""Reliability against the published example and by hand."""

import math

import numpy as np
import pytest

from medseg.statistics.agreement import reliability

# Six targets rated by four judges: table 2 of Shrout and Fleiss 1979 (doi:10.1037/0033-2909.86.2.420), also in
# https://cseanburns.net/NOTES/intraclass-correlation.html.
RATINGS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def test_icc_is_that_of_shrout_and_fleiss_with_the_interval_of_rs_psych():
    found = reliability(RATINGS)
    assert found.icc == pytest.approx(0.29, abs=0.005)  # table 4 of the paper
    assert (found.low, found.high) == pytest.approx((0.019, 0.761), abs=0.001)  # R's psych::ICC and irr::icc
    # "Single_random_raters 0.29, 0.019, 0.76": https://github.com/dwoll/RExRepos/blob/master/md/interRaterICC.md


def test_sem_and_sdc_by_hand():
    # Two readers, the second 1 more each time: no error, the variance of the readers is 0.5.
    found = reliability(np.array([[1.0, 2.0], [3.0, 4.0], [8.0, 9.0]]))
    assert found.sem == pytest.approx(math.sqrt(0.5))
    assert found.sdc == pytest.approx(1.96)
    # Cases vary by 13 about their mean, readers by 0.5.
    assert found.icc == pytest.approx(13 / 13.5)


def test_readers_who_agree_wholly_have_icc_1_and_no_change_goes_undetected():
    found = reliability(np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]))
    assert (found.icc, found.low, found.high, found.sdc) == (1.0, 1.0, 1.0, 0.0)


def test_too_little_is_undefined():
    for values in (np.ones((1, 3)), np.ones((4, 1)), np.zeros((0, 2))):
        assert all(math.isnan(v) for v in vars(reliability(values)).values())
    assert math.isnan(reliability(np.ones((3, 2))).icc)


def test_cases_all_alike_have_icc_0_without_an_interval():
    found = reliability(np.array([[1.1, 1.3, 1.1]] * 4))
    assert found.icc == 0.0
    assert math.isnan(found.low)
    assert found.sdc > 0


@pytest.mark.parametrize("seed", range(20))
def test_volumes_that_differ_by_rounding_alone_have_icc_1(seed):
    volumes = np.random.default_rng(seed).random(5)
    found = reliability(np.stack([volumes, volumes * (1 + 1e-15), volumes / 3 * 3], axis=1))
    assert (found.icc, found.low, found.high) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(30))
def test_limits_hold_the_icc_or_are_not_stated(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=(int(rng.integers(2, 6)), int(rng.integers(2, 5)))), 1)
    found = reliability(values)
    assert math.isnan(found.low) or found.low <= found.icc <= found.high


def test_readers_who_contradict_each_other_have_no_interval_and_no_warning():
    found = reliability(np.array([[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]))
    assert found.icc == pytest.approx(-3.0)  # (0 - 2) / (0 + 2 + 2 (0 - 2) / 3)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
