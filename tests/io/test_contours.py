"""Outlines along pixel edges: filled by other rules and other libraries they are the mask again."""

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from scipy import ndimage
from skimage.draw import polygon2mask

from medseg.io.contours import filled, outlines


def masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    dense = [rng.random(tuple(rng.integers(1, 14, 2))) < rng.uniform(0.1, 0.95) for _ in range(60)]
    smooth = [ndimage.gaussian_filter(rng.standard_normal((40, 30)), 2.5) > 0 for _ in range(5)]
    return [*dense, *smooth]


def area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y) / 2)


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_outlines_fill_to_the_mask_by_every_rule(mask):
    polygons = outlines(mask)
    parts = sum((filled([polygon], mask.shape).astype(int) for polygon in polygons), np.zeros(mask.shape, int))
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    np.testing.assert_array_equal(parts, mask)  # each stands for itself: no voxel twice, no hole in another
    centres = np.argwhere(np.ones_like(mask))
    by_matplotlib, by_skimage = np.zeros(mask.size, bool), np.zeros(mask.shape, bool)
    for polygon in polygons:
        by_matplotlib |= Outline(polygon, closed=False).contains_points(centres)
        by_skimage |= polygon2mask(mask.shape, polygon)
    np.testing.assert_array_equal(by_matplotlib.reshape(mask.shape), mask)
    np.testing.assert_array_equal(by_skimage, mask)


@pytest.mark.parametrize("mask", masks(), ids=lambda mask: f"{mask.shape[0]}x{mask.shape[1]}")
def test_there_is_an_outline_for_each_part_and_its_area_is_that_of_its_pixels(mask):
    polygons = outlines(mask)
    parts, count = ndimage.label(mask)
    assert sorted(area(p) for p in polygons) == pytest.approx(sorted(np.bincount(parts[mask])[1:]))
    assert len(polygons) == count


def test_one_pixel_is_a_square_around_its_centre():
    mask = np.zeros((4, 5), bool)
    mask[2, 3] = True
    (square,) = outlines(mask)
    assert sorted(map(tuple, square)) == [(1.5, 2.5), (1.5, 3.5), (2.5, 2.5), (2.5, 3.5)]


def test_a_ring_is_one_outline_with_a_keyhole():
    mask = np.ones((5, 5), bool)
    mask[2, 2] = False
    (ring,) = outlines(mask)
    assert area(ring) == 24
    assert (
        len(ring) == 4 + 4 + 2
    )  # the corners, and both ways of the channel at the outer edge and none at the inner corner


def test_an_empty_mask_has_no_outline_and_no_outline_fills_nothing():
    assert outlines(np.zeros((3, 4), bool)) == []
    assert not filled([], (3, 4)).any()


def test_what_lies_outside_the_plane_is_cut_off():
    square = np.array([[-3.2, -2.5], [1.5, -2.5], [1.5, 9.5], [-3.2, 9.5]])
    expected = np.zeros((4, 5), bool)
    expected[:2] = True
    np.testing.assert_array_equal(filled([square], (4, 5)), expected)
