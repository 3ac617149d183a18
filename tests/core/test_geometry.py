from itertools import product

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import aff2axcodes, axcodes2ornt, io_orientation, ornt_transform

from medseg.core.errors import GeometryError
from medseg.core.geometry import (
    Geometry,
    all_storage_orders,
    crop,
    order_between,
    order_to,
    resized,
    shape_at_spacing,
)

SHAPE = (4, 5, 6)
ORDERS = all_storage_orders()


def random_affine(seed, tilt=0.5):
    """Anisotropic, tilted by up to ``tilt`` radians about each axis, permuted and reflected at random."""
    rng = np.random.default_rng(seed)
    rotation = nib.eulerangles.euler2mat(*rng.uniform(-tilt, tilt, 3))
    stored = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    return nib.affines.from_matvec(rotation @ stored @ np.diag(rng.uniform(0.3, 6, 3)), rng.uniform(-300, 300, 3))


def sheared_affine():
    affine = np.diag([1.0, 1.5, 3.0, 1.0])
    affine[1, 2] = 0.9  # a gantry tilt: the slices slide along j
    return affine


seeds = pytest.mark.parametrize("seed", range(25))


@seeds
def test_orientation_and_spacing_are_those_of_nibabel(seed):
    affine = random_affine(seed)
    geometry = Geometry(SHAPE, affine)
    assert geometry.orientation == "".join(aff2axcodes(affine))
    np.testing.assert_allclose(geometry.spacing_mm, voxel_sizes(affine))
    assert geometry.voxel_volume_ml == pytest.approx(abs(np.linalg.det(affine[:3, :3])) / 1000)


@pytest.mark.parametrize("seed", range(10))
def test_each_world_direction_is_taken_by_one_axis_however_strong_the_tilt(seed):
    geometry = Geometry(SHAPE, random_affine(seed, tilt=3.1))
    assert sorted("LRPAIS".index(letter) // 2 for letter in geometry.orientation) == [0, 1, 2]


@seeds
def test_world_positions_are_those_of_nibabel_and_come_back(seed):
    geometry = Geometry(SHAPE, random_affine(seed))
    points = np.random.default_rng(seed).uniform(-3, 9, (7, 2, 3))
    np.testing.assert_allclose(geometry.to_world(points), apply_affine(geometry.affine, points))
    np.testing.assert_allclose(geometry.to_voxel(geometry.to_world(points)), points, atol=1e-9)


@seeds
def test_canonical_order_is_that_of_nibabel(seed):
    affine, data = random_affine(seed), np.random.default_rng(seed).integers(0, 99, SHAPE, np.int16)
    expected = nib.as_closest_canonical(nib.Nifti1Image(data, affine))
    order = order_to(Geometry(SHAPE, affine))
    np.testing.assert_array_equal(order.array(data), np.asarray(expected.dataobj))
    found = order.geometry(Geometry(SHAPE, affine))
    assert found.shape == expected.shape
    assert found.orientation == "RAS"
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-9)


@pytest.mark.parametrize("target", ["LPS", "PIR", "SAL", "IRA"])
@pytest.mark.parametrize("seed", range(5))
def test_any_order_is_that_of_nibabel(seed, target):
    affine, data = random_affine(seed), np.random.default_rng(seed).integers(0, 99, SHAPE, np.int16)
    turn = ornt_transform(io_orientation(affine), axcodes2ornt(target))
    expected = nib.Nifti1Image(data, affine).as_reoriented(turn)
    order = order_to(Geometry(SHAPE, affine), target)
    np.testing.assert_array_equal(order.array(data), np.asarray(expected.dataobj))
    np.testing.assert_allclose(order.geometry(Geometry(SHAPE, affine)).affine, expected.affine, atol=1e-9)


def test_there_are_48_storage_orders_and_they_differ():
    data = np.arange(27).reshape(3, 3, 3)
    assert len({order.array(data).tobytes() for order in ORDERS}) == 48


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_reordering_there_and_back_is_lossless(order):
    geometry = Geometry(SHAPE, random_affine(7))
    data = np.arange(2 * 4 * 5 * 6).reshape(2, *SHAPE)
    np.testing.assert_array_equal(order.inverse.array(order.array(data)), data)
    back = order.inverse.geometry(order.geometry(geometry))
    assert back.shape == geometry.shape
    np.testing.assert_allclose(back.affine, geometry.affine, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_reordering_leaves_every_voxel_in_its_place(order):
    geometry = Geometry(SHAPE, random_affine(11))
    data = np.arange(4 * 5 * 6).reshape(SHAPE)
    moved, moved_geometry = order.array(data), order.geometry(geometry)
    for index in product(*map(range, moved.shape)):
        old = tuple(np.rint(geometry.to_voxel(moved_geometry.to_world(index))).astype(int))
        assert moved[index] == data[old]


def test_reordering_is_a_view():
    data = np.zeros(SHAPE)
    assert all(np.shares_memory(order.array(data), data) for order in ORDERS)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_the_order_between_two_storages_of_one_grid_is_found(order):
    geometry = Geometry(SHAPE, random_affine(3))
    stored = order.geometry(geometry)
    found = order_between(stored, geometry)
    assert found is not None
    np.testing.assert_allclose(found.geometry(stored).affine, geometry.affine, atol=1e-9)
    data = np.arange(4 * 5 * 6).reshape(SHAPE)
    np.testing.assert_array_equal(found.array(order.array(data)), data)


def _shifted(affine, axis, voxels):
    moved = affine.copy()
    moved[:3, 3] += affine[:3, axis] * voxels
    return moved


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(40, 50, 60), (40, 50, 1), (1, 1, 1)])
def test_a_shift_of_a_twentieth_of_a_voxel_is_the_same_grid_and_more_is_not(shape, axis):
    affine = random_affine(5)
    flipped = ORDERS[-1].geometry(Geometry(shape, affine))
    for voxels, same in ((0.049, True), (-0.049, True), (0.051, False), (1.0, False)):
        moved = Geometry(shape, _shifted(affine, axis, voxels))
        assert (order_between(flipped, moved) is not None) is same
        assert Geometry(shape, affine).matches(moved) is same


def test_a_spacing_that_adds_up_to_more_than_the_tolerance_at_the_far_corner_is_another_grid():
    wide, tall = Geometry((101, 5, 5), np.eye(4)), Geometry((101, 5, 5), np.diag([1.0006, 1.0, 1.0, 1.0]))
    assert wide.corner_shift(tall) == pytest.approx(100 * 0.0006, rel=1e-6)
    assert order_between(wide, tall) is None
    assert order_between(wide, Geometry((101, 5, 5), np.diag([1.0004, 1.0, 1.0, 1.0]))) is not None


@pytest.mark.parametrize("shape", [SHAPE, (4, 5, 1), (5, 5, 5), (1, 1, 1)])
def test_a_mirrored_header_is_another_grid(shape):
    mirrored = np.diag([-1.0, 1.0, 2.0, 1.0])
    mirrored[0, 3] = 17.0
    assert order_between(Geometry(shape, np.diag([1.0, 1.0, 2.0, 1.0])), Geometry(shape, mirrored)) is None


def test_a_grid_of_another_shape_is_another_grid():
    assert order_between(Geometry((4, 5, 6), np.eye(4)), Geometry((4, 5, 7), np.eye(4))) is None


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_a_single_slice_keeps_all_three_directions(order):
    geometry = Geometry((7, 9, 1), random_affine(13))
    stored = order.geometry(geometry)
    assert order_to(stored, geometry.orientation).geometry(stored).matches(geometry)
    tilted = geometry.affine.copy()
    tilted[:3, 2] = geometry.affine[:3, 2] * 0.5  # half the slice thickness: equal centres, other extent
    assert order_between(stored, Geometry(geometry.shape, tilted)) is None


def test_a_shear_counts_in_the_volume_and_does_not_tip_the_axes():
    geometry = Geometry(SHAPE, sheared_affine())
    assert geometry.orientation == "RAS"
    assert geometry.voxel_volume_ml == pytest.approx(1.0 * 1.5 * 3.0 / 1000)
    assert geometry.spacing_mm == pytest.approx((1.0, 1.5, np.hypot(0.9, 3.0)))
    for order in ORDERS:
        found = order_between(order.geometry(geometry), geometry)
        assert found is not None
        assert found.geometry(order.geometry(geometry)).matches(geometry, 1e-9)


@seeds
def test_a_crop_lies_where_nibabel_puts_it(seed):
    affine, data = random_affine(seed), np.arange(4 * 5 * 6, dtype=np.int16).reshape(SHAPE)
    expected = nib.Nifti1Image(data, affine).slicer[1:3, 2:5, 0:4]
    found = crop(Geometry(SHAPE, affine), (1, 2, 0), (2, 3, 4))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.affine, expected.affine)


def test_a_crop_that_starts_outside_pads():
    geometry = Geometry(SHAPE, random_affine(2))
    padded = crop(geometry, (-2, -1, -3), (9, 9, 9))
    np.testing.assert_allclose(padded.to_world((2, 1, 3)), geometry.to_world((0, 0, 0)))


@seeds
def test_a_resized_grid_keeps_the_outer_faces(seed):
    geometry = Geometry(SHAPE, random_affine(seed))
    other = resized(geometry, (9, 2, 1))
    for corner in product((0, 1), repeat=3):
        faces = [np.array(corner) * g.shape - 0.5 for g in (geometry, other)]
        np.testing.assert_allclose(other.to_world(faces[1]), geometry.to_world(faces[0]), atol=1e-9)
    assert other.orientation == geometry.orientation


def test_the_shape_at_a_spacing_covers_the_same_field_of_view():
    geometry = Geometry((100, 50, 3), np.diag([1.0, 2.0, 5.0, 1.0]))
    assert shape_at_spacing(geometry, (2.0, 2.0, 2.0)) == (50, 50, 8)
    assert shape_at_spacing(geometry, (1000.0, 1000.0, 1000.0)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("shape", "change", "word"),
    [
        (SHAPE, lambda a: a.__setitem__((0, 0), np.nan), "finite"),
        (SHAPE, lambda a: a.__setitem__((2, 3), np.inf), "finite"),
        (SHAPE, lambda a: a.__setitem__((slice(None), 1), 0), "singular"),
        (SHAPE, lambda a: a.__setitem__((slice(3), 1), a[:3, 0]), "singular"),
        ((4, 0, 6), lambda a: None, "shape"),
        ((4, 5), lambda a: None, "shape"),
    ],
)
def test_a_grid_that_places_nothing_is_refused(shape, change, word):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    change(affine)
    with pytest.raises(GeometryError, match=word):
        Geometry(shape, affine)


def test_a_geometry_cannot_change_after_it_is_made():
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    geometry = Geometry(SHAPE, affine)
    affine[0, 0] = 99
    assert geometry.spacing_mm == (1.0, 2.0, 3.0)
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 99


def test_equal_grids_are_equal_and_hash_alike():
    one, other = Geometry(SHAPE, random_affine(1)), Geometry(SHAPE, random_affine(1))
    assert one == other
    assert len({one, other, Geometry(SHAPE, random_affine(2))}) == 2


@pytest.mark.parametrize("affine", [random_affine(3), sheared_affine()], ids=["oblique", "sheared"])
def test_diagonal_is_the_longest_way_between_corners_of_the_outer_faces(affine):
    grid = Geometry(SHAPE, affine)
    corners = grid.to_world(list(product(*((-0.5, n - 0.5) for n in SHAPE))))
    assert grid.diagonal_mm == pytest.approx(np.linalg.norm(corners[:, None] - corners[None], axis=2).max())
