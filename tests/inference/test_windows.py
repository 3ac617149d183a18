"""Where windows lie and how they are weighted, against MONAI's and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from scipy.ndimage import gaussian_filter

from medseg.inference.windows import axis_starts, gaussian_weights, nnunet_weights, window_starts


@given(size=st.integers(1, 300), window=st.integers(1, 90), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_windows_cover_the_axis_in_order_with_at_least_the_overlap(size, window, overlap):
    starts = axis_starts(size, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == max(0, size - window)
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= max(1, np.ceil(window * (1 - overlap)))).all()


@given(size=st.integers(1, 300), window=st.integers(1, 90))
def test_there_is_no_window_more_than_needed(size, window):
    """Half a window a step: ceil of what is left over the step, and the first."""
    assert len(axis_starts(size, window, 0.5)) == 1 + int(np.ceil(max(0, size - window) / max(1.0, window / 2)))


def test_starts_follow_i_j_k():
    assert window_starts((6, 4, 4), (4, 4, 2), 0.5) == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 0, 2),
        (2, 0, 0),
        (2, 0, 1),
        (2, 0, 2),
    ]


@pytest.mark.parametrize("window", [(9, 9, 9), (7, 13, 5), (41, 55, 41), (1, 33, 31), (1, 1, 1)])
def test_the_weights_of_an_odd_window_equal_monais_importance_map(window):
    theirs = compute_importance_map(window, mode="gaussian", sigma_scale=0.125)
    np.testing.assert_allclose(gaussian_weights(window), theirs, rtol=1e-5)


@pytest.mark.parametrize("window", [(8, 8, 8), (40, 56, 40), (1, 32, 32)])
def test_the_weights_of_an_even_window_equal_monais_but_for_a_factor_and_the_floor(window):
    """Without a voxel at the centre MONAI's largest weight is below 1; ours is 1. The factor cancels in the mean."""
    ours, theirs = gaussian_weights(window), compute_importance_map(window, mode="gaussian", sigma_scale=0.125).numpy()
    both = (ours > 2e-3) & (theirs > 2e-3)
    np.testing.assert_allclose(ours[both], theirs[both] / theirs.max(), rtol=1e-5)
    assert (ours.min(), ours.max()) == (np.float32(1e-3), 1.0)


@pytest.mark.parametrize("window", [(8, 12, 16), (40, 56, 40), (1, 32, 24), (7, 9, 5)])
def test_the_weights_of_an_import_are_nnunets_recipe_to_the_bit(window):
    """A point at n // 2, scipy's Gaussian over it, times 10 in float16, zeros replaced by the smallest that is none."""
    point = np.zeros(window)
    point[tuple(n // 2 for n in window)] = 1
    smooth = gaussian_filter(point, [n / 8 for n in window], mode="constant")
    half = (smooth / (smooth.max() / 10)).astype(np.float16)
    half[half == 0] = half[half != 0].min()
    np.testing.assert_array_equal(nnunet_weights(window), half.astype(np.float32) / np.float32(10))
