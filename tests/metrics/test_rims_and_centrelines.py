"""boundary_iou and cldice: by hand, against the authors' definitions, on any storage order, and where a mask is empty."""

import json
import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import skeletonize

from medseg.core.errors import ConfigError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.metrics import METRICS, CasePair, MaskPair, Rules
from medseg.metrics.boundary import rim
from medseg.metrics.centreline import skeleton
from tests.metrics.test_surface import _value_of, affine_of, blobs, boxed

NAMES = ("boundary_iou", "cldice")


def score(name, prediction, reference, spacing=(1.0, 1.0, 1.0), width=2.0):
    grid = Geometry(reference.shape, affine_of(spacing))
    return METRICS[name](MaskPair.of(prediction, reference, grid, Rules(boundary_mm=width)))


# boundary_iou


def rim_in_pixels(mask, width):
    """The authors' boundary (boundary_iou/utils/boundary_utils.py of bowenc0221/boundary-iou-api): erosion by a square."""
    inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)[1:-1, 1:-1]
    return mask & ~inner


@pytest.mark.parametrize("seed", range(20))
def test_rectangles_have_the_boundary_iou_of_the_authors(seed):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(2):
        start, size = rng.integers(0, 10, 2), rng.integers(4, 20, 2)
        masks.append(boxed((32, 32), (start, start + size)))
    width = int(rng.integers(1, 5))
    a, b = (rim_in_pixels(m, width) for m in masks)
    expected = (a & b).sum() / (a | b).sum()
    found = score("boundary_iou", *(m[:, :, None] for m in masks), width=float(width))
    assert found == pytest.approx(expected)


def test_a_box_shifted_by_a_voxel_by_hand():
    a, b = boxed((12, 10, 10), ((1, 1, 1), (9, 9, 9))), boxed((12, 10, 10), ((2, 1, 1), (10, 9, 9)))
    # Each rim of one voxel has 8³ - 6³ voxels. Both hold 7 planes; in the outer two of these, whole planes of one box, the
    # other's rim has 8² - 6² voxels; the five between share 8² - 6².
    both, one = 7 * (64 - 36), 512 - 216
    assert score("boundary_iou", a, b, width=1.0) == pytest.approx(both / (2 * one - both))
    assert score("boundary_iou", a, a, width=1.0) == 1.0


def test_a_rim_is_in_millimetres_and_holds_the_surface_where_a_voxel_is_larger():
    mask = np.ones((9, 9, 9), bool)
    thick = rim(mask, np.diag([1.0, 2.0, 5.0]), 4.0)
    # 4 voxels of 1 mm and 2 of 2 mm from each face, and of 5 mm the surface: 1 x 5 x 7 voxels are left inside.
    assert thick.sum() == 9**3 - 1 * 5 * 7
    assert rim(mask, np.diag([1.0, 2.0, 5.0]), 0.1).sum() == 9**3 - 7**3


def test_a_flat_picture_has_no_rim_across():
    mask = np.ones((9, 9, 1), bool)
    assert rim(mask, np.eye(3), 2.0, (False, False, True)).sum() == 81 - 25
    line = np.ones((1, 9, 1), bool)
    assert rim(line, np.eye(3), 1.0, (True, False, True)).sum() == 2
    assert not rim(np.ones((1, 1, 1), bool), np.eye(3), 1.0, (True, True, True)).any()


@pytest.mark.parametrize("width", [0.5, 2.0, 4.5])
@pytest.mark.parametrize("shear", [0.0, 0.6])
def test_a_rim_on_any_grid_is_that_of_all_distances(width, shear):
    mask, _ = blobs(np.random.default_rng(4), (9, 8, 7))
    columns = affine_of((0.8, 1.2, 3.0))[:3, :3] @ np.array([[1, 0, shear], [0, 1, -shear], [0, 0, 1]])
    padded = np.pad(mask, 8)
    inside, outside = np.argwhere(padded), np.argwhere(~padded)
    nearest = np.array([np.linalg.norm((outside - p) @ columns.T, axis=1).min() for p in inside])
    expected = np.zeros_like(padded)
    expected[tuple(inside[nearest <= width].T)] = True
    expected |= padded & ~ndimage.binary_erosion(padded)
    assert np.array_equal(rim(mask, columns, width), expected[8:-8, 8:-8, 8:-8])


def test_a_width_of_0_is_refused():
    with pytest.raises(ConfigError, match="boundary 0 mm"):
        Rules(boundary_mm=0)


# cldice


def by_the_authors(prediction, reference):
    """cldice_metric/cldice.py of jocpae/clDice."""
    precision, sensitivity = (
        (mask & line).sum() / line.sum()
        for mask, line in ((reference, skeletonize(prediction)), (prediction, skeletonize(reference)))
    )
    return 2 * precision * sensitivity / (precision + sensitivity)


def tube(shape, radius, seed):
    """A random walk along the last axis with a disc around it, of odd width."""
    rng = np.random.default_rng(seed)
    lines = np.zeros(shape, bool)
    at = np.array(shape[:-1]) // 2
    for n in range(shape[-1]):
        at = np.clip(at + rng.integers(-1, 2, len(at)), radius + 1, np.array(shape[:-1]) - radius - 2)
        lines[(*at, n)] = True
    return ndimage.binary_dilation(lines, iterations=radius)


@pytest.mark.parametrize("seed", range(10))
def test_tubes_have_the_cldice_of_the_authors(seed):
    for shape in ((24, 24, 30), (24, 40)):
        reference = tube(shape, 2, seed)
        prediction = reference & ~(np.arange(shape[-1]) % 11 == 5) | np.roll(reference, 2, axis=0)
        flat = [m if m.ndim == 3 else m[:, :, None] for m in (prediction, reference)]
        grid = Geometry(flat[1].shape, np.diag([0.7, 0.7, 2.0, 1.0]))  # RAS: as the authors walk through it
        assert METRICS["cldice"](MaskPair.of(*flat, grid)) == pytest.approx(by_the_authors(prediction, reference))


def test_a_tube_cut_short_by_hand():
    reference = boxed((9, 9, 30), ((3, 3, 0), (6, 6, 30)))
    line = np.argwhere(skeleton(reference))
    assert {tuple(p[:2]) for p in line} == {(4, 4)}
    prediction = reference.copy()
    prediction[:, :, 10:] = False
    lost = int((line[:, 2] >= 10).sum())
    sensitivity = (len(line) - lost) / len(line)
    assert score("cldice", prediction, reference) == pytest.approx(2 * sensitivity / (1 + sensitivity))
    thinner = boxed((9, 9, 30), ((4, 4, 0), (5, 5, 30)))
    assert score("cldice", thinner, reference) == 1.0  # the line is whole, however thin
    beside = boxed((9, 9, 30), ((0, 0, 0), (1, 1, 30)))
    assert score("cldice", beside, reference) == 0.0


def test_parts_that_thinning_takes_away_have_a_centreline_all_the_same():
    two = boxed((8, 8, 20), ((3, 3, 2), (5, 5, 18)))
    assert skeletonize(two).sum() == 0  # scikit-image issue 3757, open
    assert score("cldice", two, two) == 1.0
    half = two.copy()
    half[:, :, 10:] = False
    assert score("cldice", half, two) == pytest.approx(2 * 0.5 / 1.5)
    both = two | boxed((8, 8, 20), ((0, 0, 0), (1, 1, 20)))
    assert skeleton(both).sum() == two.sum() + 20


def test_real_vessels_score_1_with_themselves_and_less_when_broken(real_data):
    import nibabel as nib

    image = nib.load(next((real_data / "totalseg_ct" / "labels").glob("ct_abdpelvis*")))
    data = np.asarray(image.dataobj)
    values = json.loads((real_data / "totalseg_ct" / "label_map.json").read_text())
    vessel = data == _value_of(values, "aorta")
    grid = Geometry(data.shape, image.affine)
    broken = vessel.copy()
    middle = int(np.median(np.nonzero(vessel)[2]))
    broken[:, :, middle - 2 : middle + 2] = False
    assert METRICS["cldice"](MaskPair.of(vessel, vessel, grid)) == 1.0
    found = MaskPair.of(broken, vessel, grid)
    assert 0.8 < METRICS["cldice"](found) < 1.0
    assert 0.5 < METRICS["boundary_iou"](found) < METRICS["dice"](found)


# Both


def test_all_storage_orders_give_the_same_figures():
    prediction, reference = blobs(np.random.default_rng(8), (12, 13, 14))
    grid = Geometry(reference.shape, affine_of((0.8, 1.2, 3.0)))
    expected = [METRICS[name](MaskPair.of(prediction, reference, grid)) for name in NAMES]
    assert all(0 < value < 1 for value in expected)
    for order in all_storage_orders():
        stored = [order.array(m.astype(np.uint8)) for m in (prediction, reference)]
        pair = CasePair.of(stored[0], stored[1], order.geometry(grid)).structure(1)
        assert [METRICS[name](pair) for name in NAMES] == expected


@pytest.mark.parametrize("name", NAMES)
def test_missed_and_spurious_are_0_and_both_empty_is_undefined(name):
    mask, empty = np.ones((4, 4, 4), bool), np.zeros((4, 4, 4), bool)
    assert score(name, empty, mask) == score(name, mask, empty) == 0.0
    assert math.isnan(score(name, empty, empty))
