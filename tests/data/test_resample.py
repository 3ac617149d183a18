"""Our matrices against scipy's zoom and skimage's resize, which nnU-Net resamples with."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.transform import resize

from medseg.data.intensity import ct_window
from medseg.data.resample import axis_matrix, resample, resample_channels, resample_thick, spline_orders

CASES = [
    ((17, 12, 9), (11, 19, 9)),
    ((8, 8, 8), (16, 16, 16)),
    ((21, 30, 5), (7, 13, 23)),
    ((10, 1, 6), (13, 1, 1)),
    ((1, 9, 4), (3, 4, 9)),
]
each_size = pytest.mark.parametrize(("shape", "target"), CASES, ids=str)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@each_size
@pytest.mark.parametrize("order", [0, 1, 3])
def test_it_equals_scipys_zoom_on_the_same_field_of_view(shape, target, order):
    data = noise(shape)
    factors = [t / s for s, t in zip(shape, target, strict=True)]
    theirs = ndimage.zoom(data.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    ours = resample(data, target, (order,) * 3)
    np.testing.assert_allclose(ours, np.clip(theirs, data.min(), data.max()), atol=1e-5)


@each_size
@pytest.mark.parametrize("order", [1, 3])
def test_it_equals_skimages_resize_as_nnunet_calls_it(shape, target, order):
    data = noise(shape)
    theirs = resize(data.astype(np.float64), target, order, mode="edge", anti_aliasing=False, clip=True)
    np.testing.assert_allclose(resample(data, target, (order,) * 3), theirs, atol=1e-5)


def test_an_axis_may_have_an_order_of_its_own():
    data = noise((12, 10, 6))
    in_plane = ndimage.zoom(data.astype(np.float64), (1.5, 0.7, 1), order=3, mode="nearest", grid_mode=True)
    theirs = ndimage.zoom(in_plane, (1, 1, 3), order=1, mode="nearest", grid_mode=True)
    ours = resample(data, (18, 7, 18), (3, 3, 1))
    np.testing.assert_allclose(ours, np.clip(theirs, data.min(), data.max()), atol=1e-5)


@pytest.mark.parametrize("size", range(1, 40, 3))
@pytest.mark.parametrize("target", [1, 2, 5, 17, 64])
def test_every_row_of_a_matrix_sums_to_one(size, target):
    np.testing.assert_allclose(axis_matrix(size, target, 3 if size > 1 else 0).sum(axis=1), 1, atol=1e-12)


def test_channels_lead_and_no_value_leaves_the_range():
    data = np.stack([noise((9, 8, 7), n) > 0.5 for n in range(3)]).astype(np.float32)
    ours = resample(data, (20, 5, 15), (3, 3, 3))
    assert ours.shape == (3, 20, 5, 15)
    assert ours.dtype == np.float32
    assert (ours.min(), ours.max()) == (0.0, 1.0)
    for channel, single in zip(ours, data, strict=True):
        np.testing.assert_array_equal(channel, resample(single, (20, 5, 15), (3, 3, 3)))


def test_a_size_that_stays_leaves_the_voxels_alone():
    data = noise((5, 6, 7))
    assert resample(data, (5, 6, 7), (3, 3, 3)) is data


@pytest.mark.parametrize("shape", [(90, 80, 70), (40, 80, 110)], ids=str)
def test_neither_the_memory_order_nor_where_it_is_normalised_changes_a_bit(shape):
    """Blocks of planes are normalised and resampled in turn; more than one piece an axis, more than one block."""
    data = np.random.default_rng(3).integers(-1000, 1000, (100, 90, 80), np.int16)
    normalise = ct_window(lower=-900.0, upper=900.0, mean=40.0, sd=300.0)
    ours = resample(data, shape, (3, 3, 3), normalise)
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(resample(np.asfortranarray(data), shape, (3, 3, 3), normalise), ours)
    np.testing.assert_array_equal(resample(normalise(data), shape, (3, 3, 3)), ours)
    factors = [t / s for s, t in zip(data.shape, shape, strict=True)]
    theirs = ndimage.zoom(normalise(data).astype(float), factors, order=3, mode="nearest", grid_mode=True)
    np.testing.assert_allclose(ours, np.clip(theirs, ours.min(), ours.max()), atol=1e-5)


@each_size
def test_a_label_map_equals_skimages_resize_of_each_mask(shape, target):
    """As in nnU-Net: each mask linearly, at least one half wins; with two channels that is the larger share."""
    mask = ndimage.gaussian_filter(noise(shape), 1.0) > 0
    share = resize(mask.astype(np.float64), target, 1, mode="edge", anti_aliasing=False, clip=True)
    ours = resample_channels(mask.astype(np.uint8), 2, target)
    clear = np.abs(share - 0.5) > 1e-6
    np.testing.assert_array_equal(ours[clear], (share > 0.5)[clear])


def test_the_lowest_channel_wins_a_tie():
    assert resample_channels(np.array([[[2, 1]]], np.uint8), 3, (1, 1, 1)).item() == 1


def test_many_channels_keep_their_numbers():
    channels = np.zeros((6, 6, 6), np.uint16)
    channels[2:4] = 300
    channels[4:] = 65
    ours = resample_channels(channels, 301, (12, 12, 12))
    assert ours.dtype == np.uint16
    assert np.unique(ours[:4]).tolist() == [0]
    assert np.unique(ours[4:8]).tolist() == [300]
    assert np.unique(ours[8:]).tolist() == [65]


def test_an_axis_over_three_times_coarser_is_resampled_linearly():
    assert spline_orders((1.0, 1.0, 3.0)) == (3, 3, 3)
    assert spline_orders((1.0, 1.2, 3.1)) == (3, 3, 1)
    assert spline_orders((6.0, 1.0, 1.0)) == (1, 3, 3)


@pytest.mark.parametrize("thick", [0, 1, 2])
@pytest.mark.parametrize("thick_size", [4, 11, 17])
def test_thick_slices_are_resized_one_by_one_and_then_the_nearest_is_taken(thick, thick_size):
    """As nnU-Net does: skimage's resize a slice, then map_coordinates of order 0 along the thick axis."""
    data = np.moveaxis(noise((6, 13, 10)), 0, thick)
    target = [19, 8]
    target.insert(thick, thick_size)
    slices = [
        resize(one.astype(float), (19, 8), 3, mode="edge", anti_aliasing=False) for one in np.moveaxis(data, thick, 0)
    ]
    grid = np.mgrid[:thick_size, :19, :8].astype(float)
    grid[0] = 6 / thick_size * (grid[0] + 0.5) - 0.5
    theirs = ndimage.map_coordinates(np.stack(slices), grid, order=0, mode="nearest")
    ours = resample_thick(data, (target[0], target[1], target[2]), 3, 0, thick)
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 0, thick), atol=1e-5)
