"""The libraries of the extra ``fast`` give what scipy gives, voxel for voxel and number for number."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.core.fast import components, near_outside, pieces

SHAPES = st.tuples(*[st.integers(1, 14)] * 3)
SPACINGS = st.tuples(*[st.sampled_from([0.3, 0.7, 0.8, 1.0, 1.1, 2.0, 3.0, 5.0])] * 3)


@pytest.fixture(params=["fast", "scipy"], scope="module")
def library(request):
    """With the extra, and as if it were not installed."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cc3d", "edt"):
            if request.param == "fast":
                pytest.importorskip(name, reason="the extra fast is not installed")
            else:
                patch.setitem(sys.modules, name, None)
        yield request.param


@settings(max_examples=300, deadline=None)
@given(
    shape=SHAPES,
    filled=st.floats(0.02, 0.7),
    fortran=st.booleans(),
    steps=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_components_are_numbered_as_by_scipy(library, shape, filled, fortran, steps, seed):
    mask = np.random.default_rng(seed).random(shape) < filled
    found = components(np.asfortranarray(mask) if fortran else mask, (6, 18, 26)[steps - 1])
    np.testing.assert_array_equal(found, ndimage.label(mask, ndimage.generate_binary_structure(3, steps))[0])


@settings(max_examples=100, deadline=None)
@given(shape=SHAPES, fortran=st.booleans(), steps=st.integers(1, 3), seed=st.integers(0, 2**32))
def test_pieces_are_the_components_of_each_value_by_scipy(library, shape, fortran, steps, seed):
    data = np.random.default_rng(seed).choice(np.array([0, 1, 2, 200], np.uint8), shape, p=[0.3, 0.4, 0.2, 0.1])
    found = pieces(np.asfortranarray(data) if fortran else data, (6, 18, 26)[steps - 1])
    assert (found > 0).tolist() == (data > 0).tolist()
    assert len(np.unique(found[found > 0])) == found.max()
    for value in (1, 2, 200):
        numbers, count = ndimage.label(data == value, ndimage.generate_binary_structure(3, steps))
        own = np.unique(found[data == value])
        assert len(own) == count
        np.testing.assert_array_equal(np.searchsorted(own, found)[data == value] + 1, numbers[data == value])


@settings(max_examples=300, deadline=None)
@given(shape=SHAPES, spacing=SPACINGS, steps=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_what_is_near_is_near_by_scipy_also_where_the_distance_equals_the_width(library, shape, spacing, steps, seed):
    mask = np.random.default_rng(seed).random(shape) < 0.9
    mask[0, 0, 0] = False
    width = steps * spacing[0]
    for wide in (width, width * (1 + 1e-6)):
        expected = ndimage.distance_transform_edt(mask, sampling=spacing) <= wide
        np.testing.assert_array_equal(near_outside(mask, np.array(spacing), wide), expected)


def test_nothing_has_no_components(library):
    assert components(np.zeros((0, 3, 4), bool)).shape == (0, 3, 4)
    assert not components(np.zeros((2, 3, 4), bool)).any()
