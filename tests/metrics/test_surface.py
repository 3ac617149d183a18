import itertools
import math

import numpy as np
import pytest
from scipy import ndimage

from medseg.core.geometry import Geometry, all_storage_orders
from medseg.metrics import METRICS, CasePair, MaskPair, Rules
from medseg.metrics.distances import corner_areas
from tests.metrics.peers import by_monai, by_surface_distance

VOXEL = ("hd", "hd95", "assd", "masd", "nsd")
AREA = tuple(f"{name}_area" for name in VOXEL)
ROTATION = np.linalg.qr(np.array([[0.8, -0.5, 0.1], [0.6, 1.1, -0.3], [0.1, 0.4, 3.0]]))[0]


def affine_of(spacing, rotation=ROTATION):
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing
    affine[:3, 3] = (-120.0, 33.0, 900.0)
    return affine


def pair_of(prediction, reference, spacing, tolerance=2.0):
    grid = Geometry(reference.shape, affine_of(spacing))
    return MaskPair.of(prediction, reference, grid, Rules(tolerance_mm=tolerance))


def figures(pair, names):
    return {name: METRICS[name](pair) for name in names}


def blobs(rng, shape):
    """A smooth random mask and another one near it, neither empty."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(0.5, 2.0))
    other = noise + rng.uniform(0.1, 1.0) * noise.std() * rng.normal(size=shape)
    part = rng.uniform(0.02, 0.6)
    return other >= np.quantile(other, 1 - part), noise >= np.quantile(noise, 1 - part)


@pytest.mark.parametrize("seed", range(100))
def test_random_anisotropic_masks_give_the_figures_of_monai_and_surface_distance(seed):
    rng = np.random.default_rng(seed)
    for shape in (rng.integers(2, 25, 3), rng.integers(5, 25, 3)):
        spacing, tolerance = rng.uniform(0.3, 6.0, 3), rng.uniform(0.1, 6.0)
        prediction, reference = blobs(rng, tuple(shape))
        pair = pair_of(prediction, reference, spacing, tolerance)
        expected = by_monai(prediction, reference, spacing, tolerance)
        assert figures(pair, expected) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        expected = by_surface_distance(prediction, reference, spacing, tolerance)
        assert figures(pair, expected) == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("seed", range(10))
def test_pictures_have_contours_with_the_figures_of_monai_and_surface_distance(seed, axis):
    rng = np.random.default_rng(seed)
    spacing, tolerance = rng.uniform(0.3, 6.0, 2), rng.uniform(0.1, 6.0)
    prediction, reference = blobs(rng, tuple(rng.integers(5, 40, 2)))
    one_slice = [np.expand_dims(m, axis) for m in (prediction, reference)]
    pair = pair_of(*one_slice, np.insert(spacing, axis, 1.7), tolerance)
    expected = by_monai(prediction, reference, spacing, tolerance)
    assert figures(pair, expected) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    expected = by_surface_distance(prediction, reference, spacing, tolerance)
    assert figures(pair, expected) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_one_pixel_of_a_picture_has_a_contour():
    a, b = boxed((9, 9, 1), ((1, 1, 0), (2, 2, 1))), boxed((9, 9, 1), ((4, 5, 0), (5, 6, 1)))
    assert METRICS["hd"](pair_of(a, b, (1.0, 1.0, 7.0))) == pytest.approx(5.0)
    assert METRICS["assd"](pair_of(np.ones((3, 3, 1), bool), boxed((3, 3, 1), ((1, 1, 0), (2, 2, 1))), (1, 1, 1))) == (
        pytest.approx((4 + 4 * math.sqrt(2) + 1) / 9)
    )


@pytest.mark.parametrize("structure", ["spleen", "kidney_left", "aorta"])
def test_real_organs_give_the_figures_of_monai_and_surface_distance(real_data, structure):
    import json

    import nibabel as nib

    folder = real_data / "totalseg_ct"
    values = json.loads((folder / "label_map.json").read_text())
    value = _value_of(values, structure)
    image = nib.load(next((folder / "labels").glob("ct_abdpelvis*")))
    reference = np.asarray(image.dataobj) == value
    assert reference.any()
    spacing = [float(s) for s in image.header.get_zooms()[:3]]
    grid = Geometry(reference.shape, image.affine)
    for prediction in (
        np.roll(reference, (1, -2, 1), axis=(0, 1, 2)),
        ndimage.binary_erosion(reference) | ndimage.binary_dilation(np.roll(reference, 4, 2) & reference),
    ):
        pair = MaskPair.of(prediction, reference, grid)
        expected = by_monai(prediction, reference, spacing) | by_surface_distance(prediction, reference, spacing)
        assert figures(pair, expected) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def _value_of(values, structure):
    """The label map's value of a structure, whatever way round the file holds names and values, and however deep."""
    if isinstance(values, dict):
        for key, found in values.items():
            if key == structure:
                return int(found)
            if found == structure:
                return int(key)
            deeper = _value_of(found, structure)
            if deeper is not None:
                return deeper
    return None


# By hand.


def boxed(shape, *boxes):
    mask = np.zeros(shape, bool)
    for start, stop in boxes:
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def test_one_voxel_and_another_are_as_far_apart_as_their_centres():
    a, b = boxed((9, 9, 9), ((1, 1, 1), (2, 2, 2))), boxed((9, 9, 9), ((4, 5, 2), (5, 6, 3)))
    distance = math.hypot(3 * 0.5, 4 * 1.5, 1 * 4.0)
    found = figures(pair_of(a, b, (0.5, 1.5, 4.0)), (*VOXEL, *AREA, "centroid_distance_mm"))
    for name in ("hd", "hd95", "assd", "masd", "centroid_distance_mm"):
        assert found[name] == pytest.approx(distance)
    assert found["nsd"] == found["nsd_area"] == 0.0
    # From each corner of the one to the nearest of the other's: 2 or 3, 3 or 4, 0 or 1 voxels away.
    steps = [math.hypot(i * 0.5, j * 1.5, k * 4.0) for i, j, k in itertools.product((2, 3), (3, 4), (0, 1))]
    assert found["assd_area"] == pytest.approx(np.mean(steps))
    assert found["hd_area"] == pytest.approx(max(steps))


def test_touching_boxes_are_one_step_apart_where_they_meet():
    a, b = boxed((8, 5, 5), ((0, 0, 0), (4, 5, 5))), boxed((8, 5, 5), ((4, 0, 0), (8, 5, 5)))
    found = figures(pair_of(a, b, (2.0, 1.0, 1.0), tolerance=2.0), VOXEL)
    # Each surface: layers of 25, 16, 16 and 25 voxels, 2, 4, 6 and 8 mm from the other box.
    assert found["hd"] == pytest.approx(8.0)
    assert found["assd"] == pytest.approx((25 * 2 + 16 * 4 + 16 * 6 + 25 * 8) / 82)
    assert found["nsd"] == pytest.approx(25 / 82)


def test_a_box_inside_another_is_away_by_the_margin():
    outer, inner = boxed((9, 9, 9), ((0, 0, 0), (9, 9, 9))), boxed((9, 9, 9), ((2, 2, 2), (7, 7, 7)))
    found = figures(pair_of(inner, outer, (1.0, 1.0, 1.0)), ("hd", "nsd", "hd_area", "centroid_distance_mm"))
    assert found["hd"] == pytest.approx(math.sqrt(12))
    assert found["hd_area"] == pytest.approx(math.sqrt(12))
    # Of the outer surface's 386 voxels those above the inner box's faces, 6 x 25, lie 2 mm away; so do all of the inner's 98.
    assert found["nsd"] == pytest.approx((150 + 98) / (386 + 98))
    assert found["centroid_distance_mm"] == pytest.approx(0.0)


def test_a_mask_at_the_border_of_the_image_has_a_surface_there():
    full = np.ones((4, 5, 6), bool)
    inner = boxed((4, 5, 6), ((1, 1, 1), (3, 4, 5)))
    assert METRICS["hd"](pair_of(full, inner, (1.0, 2.0, 3.0))) == pytest.approx(math.sqrt(1 + 4 + 9))


def test_a_flat_mask_has_the_area_of_its_two_sides():
    sides = corner_areas(np.diag([2.0, 3.0, 5.0]))
    below_i = sum(1 << bit for bit in range(8) if not bit & 4)
    assert sides[below_i] == pytest.approx(15.0)
    assert sides[0] == sides[255] == 0.0


def test_a_distance_equal_to_the_tolerance_is_within_it_for_any_spacing():
    for spacing in (0.1, 0.3, 0.7, 1.1):
        for steps in range(1, 8):
            a, b = boxed((9, 1, 1), ((0, 0, 0), (1, 1, 1))), boxed((9, 1, 1), ((steps, 0, 0), (steps + 1, 1, 1)))
            pair = pair_of(a, b, (spacing, 1.0, 1.0), tolerance=steps * spacing)
            assert METRICS["nsd"](pair) == 1.0


def test_distances_on_a_sheared_grid_are_true():
    rng = np.random.default_rng(3)
    prediction, reference = blobs(rng, (9, 8, 7))
    affine = affine_of((0.8, 1.2, 3.0)) @ np.array([[1, 0, 0.6, 0], [0, 1, -0.4, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    grid = Geometry(reference.shape, affine)
    assert grid.is_sheared
    found = figures(MaskPair.of(prediction, reference, grid), ("hd", "assd"))
    surfaces = [m & ~ndimage.binary_erosion(m) for m in (prediction, reference)]
    a, b = (grid.to_world(np.argwhere(s)) for s in surfaces)
    between = np.linalg.norm(a[:, None] - b[None], axis=2)
    nearest = np.concatenate([between.min(axis=1), between.min(axis=0)])
    assert found == pytest.approx({"hd": nearest.max(), "assd": nearest.mean()})


def test_area_of_a_sheared_face_is_that_of_its_parallelogram():
    columns = np.array([[2.0, 0.0, 0.0], [0.0, 3.0, 1.0], [0.0, 0.0, 5.0]])
    below = {axis: sum(1 << bit for bit in range(8) if not bit & (4 >> axis)) for axis in range(3)}
    areas = corner_areas(columns)
    assert areas[below[0]] == pytest.approx(15.0)  # (0, 3, 0) x (0, 1, 5)
    assert areas[below[1]] == pytest.approx(2 * math.hypot(1, 5))
    assert areas[below[2]] == pytest.approx(6.0)


def test_all_storage_orders_give_the_same_figures():
    rng = np.random.default_rng(8)
    prediction, reference = blobs(rng, (7, 8, 9))
    grid = Geometry(reference.shape, affine_of((0.8, 1.2, 3.0)))
    names = (*VOXEL, *AREA, "centroid_distance_mm")
    expected = figures(MaskPair.of(prediction, reference, grid), names)
    for order in all_storage_orders():
        stored = [order.array(m.astype(np.uint8)) for m in (prediction, reference)]
        pair = CasePair.of(stored[0], stored[1], order.geometry(grid)).structure(1)
        assert figures(pair, names) == pytest.approx(expected)


# Where a mask is empty.


@pytest.mark.parametrize("which", ["missed", "spurious"])
def test_distances_where_one_mask_is_empty_are_the_diagonal_of_the_image(which):
    mask = boxed((10, 20, 30), ((2, 2, 2), (5, 5, 5)))
    empty = np.zeros_like(mask)
    masks = (empty, mask) if which == "missed" else (mask, empty)
    found = figures(pair_of(*masks, (1.0, 2.0, 3.0)), (*VOXEL, *AREA, "centroid_distance_mm"))
    assert found.pop("nsd") == found.pop("nsd_area") == 0.0
    assert found == pytest.approx(dict.fromkeys(found, math.sqrt(10**2 + 40**2 + 90**2)))


@pytest.mark.parametrize("which", ["missed", "spurious", "both_empty"])
def test_distances_are_undefined_by_choice_and_where_both_masks_are_empty(which):
    mask = boxed((10, 20, 30), ((2, 2, 2), (5, 5, 5)))
    empty = np.zeros_like(mask)
    masks = {"missed": (empty, mask), "spurious": (mask, empty), "both_empty": (empty, empty)}[which]
    rules = Rules(missed="diagonal" if which == "both_empty" else "undefined")
    pair = MaskPair.of(*masks, Geometry(mask.shape, np.eye(4)), rules)
    for name in (
        "hd",
        "hd95",
        "assd",
        "masd",
        "hd_area",
        "hd95_area",
        "assd_area",
        "masd_area",
        "centroid_distance_mm",
    ):
        assert math.isnan(METRICS[name](pair))
    assert math.isnan(METRICS["nsd"](pair)) == (which == "both_empty")
