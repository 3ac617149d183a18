"""ece and brier by hand, against MONAI, and over which voxels."""

import itertools
import math

import numpy as np
import pytest
import torch
from monai.metrics import CalibrationErrorMetric

from medseg.core.geometry import Geometry
from medseg.metrics.calibration import (
    BINS,
    CaseForecast,
    Forecast,
    box_around,
    brier,
    brier_multiclass,
    ece,
    ece_top_label,
)
from medseg.metrics.table import CASE_METRICS, CASE_PROBABILITY_METRICS, METRICS, PROBABILITY_METRICS
from medseg.statistics.direction import better


def forecast(p, y):
    return Forecast(np.array(p, float), np.array(y, bool))


def test_by_hand():
    # Bins of 1/15: 0.1 and 0.12 in the second, 0.9 in the 14th, 0.8 in the 12th (its upper limit).
    found = forecast([0.1, 0.12, 0.9, 0.9, 0.8], [0, 1, 1, 0, 1])
    assert ece(found) == pytest.approx((abs(0.22 - 1) + abs(1.8 - 1) + abs(0.8 - 1)) / 5)
    assert brier(found) == pytest.approx((0.1**2 + 0.88**2 + 0.1**2 + 0.9**2 + 0.2**2) / 5)


def test_certain_and_right_is_0_certain_and_wrong_is_1():
    assert ece(forecast([0, 1, 1], [0, 1, 1])) == brier(forecast([0, 1, 1], [0, 1, 1])) == 0.0
    assert ece(forecast([0, 1], [1, 0])) == brier(forecast([0, 1], [1, 0])) == 1.0


def test_the_prevalence_everywhere_is_calibrated_and_has_its_variance_for_a_brier_score():
    found = forecast([0.25] * 8, [1, 1, 0, 0, 0, 0, 0, 0])
    assert ece(found) == pytest.approx(0.0)
    assert brier(found) == pytest.approx(0.25 * 0.75)


def test_a_limit_belongs_to_the_bin_below_as_in_the_paper():
    # 1/15 and a bit less lie in one bin: errors of opposite sign cancel there.
    assert ece(forecast([1 / BINS, 0.0], [0, 0])) == pytest.approx(1 / BINS / 2)
    both = ece(forecast([1 / BINS, 1 / BINS + 1e-6], [1, 0]))
    assert both == pytest.approx((1 - 1 / BINS + 1 / BINS) / 2, abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_ece_is_that_of_monai(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (3, 8, 9, 10))
    p = np.exp(logits) / np.exp(logits).sum(axis=0)
    truth = rng.integers(0, 3, (8, 9, 10))
    onehot = np.stack([truth == c for c in range(3)])
    metric = CalibrationErrorMetric(num_bins=BINS, include_background=True, calibration_reduction="expected",
                                    metric_reduction="none")  # fmt: skip
    metric(torch.from_numpy(p)[None].float(), torch.from_numpy(onehot)[None].float())
    expected = metric.aggregate()[0].tolist()
    assert [ece(Forecast(p[c], onehot[c])) for c in range(3)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_all_labels_are_those_of_numpy_written_out(seed):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet([1, 1, 1, 1], 50).T
    truth = rng.integers(0, 4, 50)
    found = CaseForecast(p, truth)
    assert brier_multiclass(found) == pytest.approx(((p - np.eye(4)[truth].T) ** 2).sum(axis=0).mean())
    top, right = p.max(axis=0), p.argmax(axis=0) == truth
    edges = np.linspace(0, 1, BINS + 1)
    expected = sum(
        abs(top[b].sum() - right[b].sum()) / 50
        for low, high in itertools.pairwise(edges)
        if (b := (top > low) & (top <= high)).any()
    )
    assert ece_top_label(found) == pytest.approx(expected)


def test_brier_of_two_labels_is_twice_that_of_the_structure():
    p = np.random.default_rng(0).random(20)
    truth = np.arange(20) % 3 == 0
    both = brier_multiclass(CaseForecast(np.stack([1 - p, p]), truth.astype(int)))
    assert both == pytest.approx(2 * brier(Forecast(p, truth)))


def test_the_box_is_10_mm_wider_and_cut_at_the_border():
    mask = np.zeros((40, 30, 20), bool)
    mask[15:20, 3:5, 10] = True
    grid = Geometry(mask.shape, np.diag([1.0, 2.0, 4.0, 1.0]))
    assert box_around(mask, grid) == (slice(5, 30), slice(0, 10), slice(7, 14))
    assert box_around(np.zeros_like(mask), grid) is None


def test_every_entry_is_undefined_without_a_reference_and_better_the_lower():
    nothing, nobody = forecast([], []), CaseForecast(np.zeros((2, 0)), np.zeros(0, int))
    for name, of_structure in PROBABILITY_METRICS.items():
        assert math.isnan(of_structure(nothing))
        assert better(name, of_structure.unit) == "lower"
    for name, of_case in CASE_PROBABILITY_METRICS.items():
        assert math.isnan(of_case(nobody))
        assert better(name, of_case.unit) == "lower"
    assert not {*PROBABILITY_METRICS, *CASE_PROBABILITY_METRICS} & {*METRICS, *CASE_METRICS}
    for entry in (ece, brier, ece_top_label, brier_multiclass):
        assert "19" in entry.__doc__ or "20" in entry.__doc__  # the year of its source
