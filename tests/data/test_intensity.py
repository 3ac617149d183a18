"""INTENSITIES by hand, and what every scheme promises."""

import numpy as np
import pytest

from medseg.data.intensity import INTENSITIES, ct_window, z_score

OPTIONS = {
    "ct_window": {"lower": -100.0, "upper": 200.0, "mean": 50.0, "sd": 75.0},
    "in_turn": {"steps": ["z_score_nonzero", {"name": "min_max", "lower": -1.0}]},
}
every_scheme = pytest.mark.parametrize("name", INTENSITIES)
every_type = pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int32, np.float32])


@every_scheme
@every_type
def test_every_scheme_gives_finite_float32_of_the_same_shape_and_leaves_its_input(name, dtype):
    data = np.random.default_rng(0).integers(0, 120, (4, 5, 6)).astype(dtype)
    before = data.copy()
    result = INTENSITIES[name](**OPTIONS.get(name, {}))(data)
    assert result.dtype == np.float32
    assert result.shape == data.shape
    assert np.isfinite(result).all()
    np.testing.assert_array_equal(data, before)


@every_scheme
@pytest.mark.parametrize("value", [0, -1024, 3.7e6])
def test_a_constant_volume_stays_finite_and_constant(name, value):
    result = INTENSITIES[name](**OPTIONS.get(name, {}))(np.full((3, 3, 3), value, np.float32))
    assert np.isfinite(result).all()
    assert np.ptp(result) == 0


def test_the_ct_window_clips_then_scales():
    result = ct_window(lower=-100.0, upper=200.0, mean=50.0, sd=75.0)(np.array([-1000, -100, 50, 125, 3000], np.int16))
    np.testing.assert_allclose(result, [-2, -2, 0, 1, 2])


def test_a_foreground_without_spread_gives_no_division_by_zero():
    assert ct_window(lower=7.0, upper=7.0, mean=7.0, sd=0.0)(np.array([1, 7, 9], np.int16)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("mean", "sd"), [(0, 1), (1e6, 1e3), (1.7e6, 2.0), (-3, 1e-3)])
def test_the_z_score_has_mean_0_and_sd_1_however_far_from_0_the_data(mean, sd):
    data = np.random.default_rng(1).normal(mean, sd, (20, 20, 20))
    result = z_score()(data.astype(np.float32)).astype(np.float64)
    assert abs(result.mean()) < 1e-3
    assert abs(result.std() - 1) < 1e-3


def test_percentiles_become_minus_one_and_one_and_background_zeros_stay():
    data = np.concatenate([[-1e6], np.linspace(0, 100, 999), [1e6]])
    found = INTENSITIES["percentile"](lower=1, upper=99)(data)
    assert found.min() == -1
    assert found.max() == 1
    assert found[500] == pytest.approx(0, abs=0.01)
    brain = np.where(np.arange(1000) % 2, 0.0, np.arange(1000.0) + 5)
    scaled = INTENSITIES["z_score_nonzero"]()(brain)
    assert (scaled[brain == 0] == 0).all()
    assert scaled[brain != 0].mean() == pytest.approx(0, abs=1e-6)
    assert scaled[brain != 0].std() == pytest.approx(1, abs=1e-6)
