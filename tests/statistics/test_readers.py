"""Williams' index and the difference to the readers' own agreement, by hand."""

import math

import numpy as np
import pytest

from medseg.statistics.readers import against_readers

NAMES = [f"p{n}" for n in range(8)]


def test_index_and_difference_by_hand():
    between = np.array([0.8, 0.9, 0.7, 0.8, 0.8, 0.9, 0.7, 0.8])
    model = np.array([0.9, 0.8, 0.8, 0.7, 0.8, 0.85, 0.75, 0.6])
    found = against_readers(between, model, NAMES)
    assert (found.readers, found.model) == pytest.approx((0.8, 0.775))
    assert found.difference == pytest.approx(-0.025)
    assert found.index == pytest.approx(0.775 / 0.8)
    assert (found.cases, found.patients, found.interval.method) == (8, 8, "BCa")
    assert found.interval.low < -0.025 < found.interval.high
    assert found.index_interval.low < found.index < found.index_interval.high


def test_the_interval_of_the_index_is_that_of_scipy():
    from scipy.stats import bootstrap

    rng = np.random.default_rng(3)
    between = rng.uniform(0.6, 0.9, 25)
    model = between + rng.normal(0, 0.05, 25)
    found = against_readers(between, model, [str(n) for n in range(25)])
    expected = bootstrap(
        (model, between),
        lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=4999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert (found.index_interval.low, found.index_interval.high) == pytest.approx(
        (expected.low, expected.high), abs=2e-4
    )


def test_a_model_that_is_a_constant_worse_has_that_difference_and_no_wider_interval():
    between = np.linspace(0.6, 0.95, 8)
    found = against_readers(between, between - 0.1, NAMES)
    assert found.difference == pytest.approx(-0.1)
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.1, -0.1))
    assert not found.not_inferior(0.2)  # no BCa interval of values all alike: nothing is claimed


def test_what_the_model_alone_drew_is_counted_and_bars_the_claim():
    rng = np.random.default_rng(0)
    between, names = rng.uniform(0.8, 0.9, 12), [str(n) for n in range(12)]
    model = between + rng.normal(0, 0.001, 12)
    assert against_readers(between, model, names).not_inferior(0.02)
    assert not against_readers(between, model - 0.03, names).not_inferior(0.02)
    between[3], model[3] = math.nan, 0.0
    found = against_readers(between, model, names)
    assert (found.cases, found.spurious) == (11, 1)
    assert not found.not_inferior(0.02)


def test_cases_of_one_patient_are_drawn_together():
    rng = np.random.default_rng(2)
    between, shift = rng.uniform(0.7, 0.9, 30), np.repeat(rng.normal(0, 0.05, 6), 5)
    apart = against_readers(between, between + shift, [str(n) for n in range(30)])
    together = against_readers(between, between + shift, [str(n // 5) for n in range(30)])
    assert together.patients == 6
    assert together.interval.high - together.interval.low > 1.5 * (apart.interval.high - apart.interval.low)


def test_readers_who_never_agree_give_no_index():
    found = against_readers(np.zeros(4), np.full(4, 0.5), NAMES[:4])
    assert math.isnan(found.index)
    assert math.isnan(found.index_interval.low)
    nothing = against_readers(np.full(2, math.nan), np.full(2, math.nan), NAMES[:2])
    assert nothing.cases == 0
    assert math.isnan(nothing.difference)


def test_one_case_without_any_agreement_leaves_the_index_its_interval():
    rng = np.random.default_rng(1)
    between = np.array([0.0, *rng.uniform(0.7, 0.9, 11)])
    found = against_readers(between, between + 0.02, [str(n) for n in range(12)])
    assert found.index_interval.method == "BCa"
    assert found.index_interval.low < found.index < found.index_interval.high
