"""Affine arithmetic on any grid: oblique, reflected, anisotropic, sheared; truth comes from nibabel and SimpleITK."""

from itertools import product

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine, from_matvec, voxel_sizes
from nibabel.orientations import aff2axcodes, axcodes2ornt, io_orientation, ornt_transform

from medseg.core.geometry import (
    SAME_GRID_TOLERANCE,
    Geometry,
    StorageOrder,
    all_storage_orders,
    crop,
    order_between,
    order_to,
    resized,
    shape_at_spacing,
    upright,
)
from medseg.core.regrid import label_map_onto, onto_grid, straightened
from medseg.core.volume import LabelMap, Volume

ORDERS = all_storage_orders()
CODES = ["".join(a if s else b for (a, b), s in zip(p, signs, strict=True)) for p in (
    ("RL", "AP", "SI"), ("RL", "SI", "AP"), ("AP", "RL", "SI"), ("AP", "SI", "RL"), ("SI", "RL", "AP"), ("SI", "AP", "RL")
) for signs in product((True, False), repeat=3)]  # fmt: skip
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])

every = settings(
    derandomize=True, deadline=None, database=None, max_examples=150, suppress_health_check=list(HealthCheck)
)


def floats(low, high):
    """Numbers in steps of a millionth: ITK's inverse of a matrix with an entry such as 1e-309 is not a number."""
    return st.floats(low, high).map(lambda x: round(x, 6))


small = st.integers(1, 9)
shapes = st.tuples(small, small, small)
angles = floats(-np.pi, np.pi)
turns = st.tuples(angles, floats(-np.pi / 2, np.pi / 2), angles)
tilts = st.tuples(*[floats(-0.45, 0.45)] * 3)
spacings = st.tuples(*[floats(0.2, 12.0)] * 3)
places = st.tuples(*[floats(-2000, 2000)] * 3)
no_shear = st.just((0.0, 0.0, 0.0))
shears = st.tuples(*[floats(-0.5, 0.5)] * 3)
gantry = st.tuples(st.just(0.0), st.just(0.0), floats(0.02, 0.55) | floats(-0.55, -0.02))
orders = st.sampled_from(ORDERS)


@st.composite
def geometries(draw, turn=turns, shear=no_shear, shape=shapes):
    """A grid turned by three angles, its axes sheared by tangents of i-j, i-k and j-k, stored in any of the 48 orders."""
    size, spacing = draw(shape), np.array(draw(spacings))
    ij, ik, jk = draw(shear)
    lean = np.array([[1, ij, ik], [0, 1, jk], [0, 0, 1.0]])
    matrix = nib.eulerangles.euler2mat(*draw(turn)) @ lean @ np.diag(spacing)
    return draw(orders).geometry(Geometry(size, from_matvec(matrix, draw(places))))


any_grid = geometries() | geometries(shear=shears)
clear_grid = geometries(turn=tilts) | geometries(turn=st.tuples(*[floats(-0.2, 0.2)] * 3), shear=gantry)


def itk_of(geometry, data=None):
    """A SimpleITK image on ``geometry``, float64 ``data`` (I, J, K) or zeros."""
    image = SimpleITK.GetImageFromArray((np.zeros(geometry.shape) if data is None else data).T)
    lps = LPS @ geometry.affine
    image.SetSpacing(list(geometry.spacing_mm))
    image.SetDirection((lps[:3, :3] / geometry.spacing_mm).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def geometry_of(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    i, j, k = image.GetSize()
    return Geometry((i, j, k), LPS @ affine)


def counted(shape):
    return np.arange(np.prod(shape), dtype=np.float64).reshape(shape)


def same(found, expected):
    """Equal shapes, and no corner of the grids further apart than a millionth of a voxel."""
    assert found.shape == expected.shape
    assert found.corner_shift(expected) < 1e-6


@every
@given(any_grid, st.lists(st.tuples(*[floats(-60, 600)] * 3), min_size=1, max_size=5))
def test_world_positions_are_those_of_nibabel_and_simpleitk_and_come_back(geometry, indices):
    points = np.array(indices)
    world = geometry.to_world(points)
    scale = 1e-9 * (1 + np.abs(points).max() * max(geometry.spacing_mm) + 2000)
    np.testing.assert_allclose(world, apply_affine(geometry.affine, points), rtol=0, atol=scale)
    np.testing.assert_allclose(geometry.to_voxel(world), points, rtol=0, atol=1e-6)
    image = itk_of(geometry)
    for index, place in zip(points, world, strict=True):
        theirs = image.TransformContinuousIndexToPhysicalPoint(index.tolist())
        np.testing.assert_allclose(place, theirs @ LPS[:3, :3], rtol=0, atol=scale)
        back = image.TransformPhysicalPointToContinuousIndex((place @ LPS[:3, :3]).tolist())
        np.testing.assert_allclose(geometry.to_voxel(place), back, rtol=0, atol=1e-5)
    corner = np.array(geometry.shape) - 1
    theirs = image.TransformIndexToPhysicalPoint(corner.tolist())
    np.testing.assert_allclose(geometry.to_world(corner), theirs @ LPS[:3, :3], rtol=0, atol=scale)


@every
@given(any_grid)
def test_spacing_and_volume_are_those_of_nibabel_and_each_direction_is_taken_once(geometry):
    np.testing.assert_allclose(geometry.spacing_mm, voxel_sizes(geometry.affine))
    volume = abs(np.linalg.det(geometry.affine[:3, :3])) / 1000
    assert geometry.voxel_volume_ml == pytest.approx(volume)
    assert sorted("LRPAIS".index(letter) // 2 for letter in geometry.orientation) == [0, 1, 2]
    assert geometry.orientation == geometry_of(itk_of(geometry)).orientation


@every
@given(clear_grid)
def test_the_orientation_of_a_grid_that_has_a_clear_one_is_that_of_nibabel_and_simpleitk(geometry):
    assert geometry.orientation == "".join(aff2axcodes(geometry.affine))
    theirs = SimpleITK.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(itk_of(geometry).GetDirection())
    assert geometry.orientation == theirs


@every
@given(clear_grid, st.sampled_from(CODES))
def test_reordering_to_any_orientation_is_that_of_nibabel_and_simpleitk(geometry, codes):
    data = counted(geometry.shape)
    order = order_to(geometry, codes)
    found = order.geometry(geometry)
    assert found.orientation == codes
    turn = ornt_transform(io_orientation(geometry.affine), axcodes2ornt(codes))
    theirs = nib.Nifti1Image(data, geometry.affine).as_reoriented(turn)
    np.testing.assert_array_equal(order.array(data), np.asarray(theirs.dataobj))
    same(found, Geometry(theirs.shape, theirs.affine))
    turned = SimpleITK.DICOMOrient(itk_of(geometry, data), codes)
    np.testing.assert_array_equal(order.array(data), SimpleITK.GetArrayFromImage(turned).T)
    same(found, geometry_of(turned))


@every
@given(any_grid, orders)
def test_reordering_there_and_back_is_lossless_and_moves_no_voxel(geometry, order):
    data = counted(geometry.shape)
    there, moved = order.array(data), order.geometry(geometry)
    np.testing.assert_array_equal(order.inverse.array(there), data)
    same(order.inverse.geometry(moved), geometry)
    assert order.inverse.inverse == order
    at = np.moveaxis(np.indices(there.shape), 0, -1).reshape(-1, 3)
    old = geometry.to_voxel(moved.to_world(at))
    np.testing.assert_allclose(old, np.rint(old), atol=1e-6)
    np.testing.assert_array_equal(there.ravel(), data[tuple(np.rint(old).astype(int).T)])


@settings(every, max_examples=20)
@given(any_grid, st.integers(0, 47))
def test_the_order_between_any_two_of_48_storages_is_found(geometry, first):
    data = counted(geometry.shape)
    source, stored = ORDERS[first].geometry(geometry), ORDERS[first].array(data)
    for order in ORDERS:
        target = order.geometry(geometry)
        found = order_between(source, target)
        assert found is not None
        same(found.geometry(source), target)
        np.testing.assert_array_equal(found.array(stored), order.array(data))


@every
@given(any_grid, floats(-3, 3), st.integers(0, 2), orders)
def test_a_shift_is_measured_in_voxels_and_decides_whether_grids_match(geometry, voxels, axis, order):
    assume(abs(abs(voxels) - SAME_GRID_TOLERANCE) > 1e-6)
    affine = geometry.affine.copy()
    affine[:3, 3] += voxels * affine[:3, axis]
    moved = Geometry(geometry.shape, affine)
    assert geometry.corner_shift(moved) == pytest.approx(abs(voxels), abs=1e-6)
    assert geometry.matches(moved) == moved.matches(geometry) == (abs(voxels) < SAME_GRID_TOLERANCE)
    if abs(voxels) < 0.4:  # beyond, a flip of a tiny grid may come as near
        assert (order_between(order.geometry(geometry), moved) is not None) == (abs(voxels) < SAME_GRID_TOLERANCE)


@every
@given(any_grid, turns, spacings)
def test_the_shift_of_the_corners_is_that_of_simpleitk(geometry, turn, scale):
    affine = geometry.affine.copy()
    affine[:3, :3] = (
        nib.eulerangles.euler2mat(*(0.01 * np.array(turn))) @ affine[:3, :3] * (1 + 0.001 * np.array(scale))
    )
    other = Geometry(geometry.shape, affine)
    ours, theirs = itk_of(geometry), itk_of(other)
    corners = list(product(*((0.0, n - 1.0) for n in geometry.shape)))
    corners += [tuple(row) for row in np.vstack([np.eye(3), -np.eye(3)]).tolist()]
    worst = 0.0
    for corner in corners:
        place = theirs.TransformContinuousIndexToPhysicalPoint(corner)
        worst = max(worst, np.abs(np.array(ours.TransformPhysicalPointToContinuousIndex(place)) - corner).max())
    assert geometry.corner_shift(other) == pytest.approx(worst, abs=1e-5)
    assume(abs(worst - SAME_GRID_TOLERANCE) > 1e-4)
    assert geometry.matches(other) == (worst < SAME_GRID_TOLERANCE)


@every
@given(any_grid)
def test_a_mirror_image_is_never_the_same_grid_in_any_order(geometry):
    affine = geometry.affine.copy()
    affine[0] *= -1  # left and right of the world change sides
    centre = geometry.to_world((np.array(geometry.shape) - 1) / 2)
    assume(abs(centre[0]) > max(geometry.spacing_mm))  # else a grid at right angles may be its own mirror image
    assert order_between(geometry, Geometry(geometry.shape, affine)) is None


@every
@given(any_grid, st.data())
def test_a_crop_lies_where_nibabel_and_simpleitk_put_it(geometry, data):
    bounds = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in geometry.shape]
    assume(all(a < b for a, b in bounds))
    start, end = zip(*bounds, strict=True)
    found = crop(geometry, start, tuple(b - a for a, b in bounds))
    inside = tuple(slice(a, b) for a, b in bounds)
    theirs = nib.Nifti1Image(counted(geometry.shape), geometry.affine).slicer[inside]
    same(found, Geometry(theirs.shape, theirs.affine))
    image = itk_of(geometry, counted(geometry.shape))
    cut = image[start[0] : end[0], start[1] : end[1], start[2] : end[2]]
    same(found, geometry_of(cut))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(cut).T, counted(geometry.shape)[inside])


@every
@given(any_grid, st.tuples(*[st.integers(0, 4)] * 3), st.tuples(*[st.integers(0, 4)] * 3))
def test_padding_lies_where_simpleitk_puts_it_and_a_crop_undoes_it(geometry, before, after):
    n = geometry.shape
    padded = crop(
        geometry,
        (-before[0], -before[1], -before[2]),
        (n[0] + before[0] + after[0], n[1] + before[1] + after[1], n[2] + before[2] + after[2]),
    )
    # SimpleITK keeps the origin and counts indices from below 0: its origin is moved to the first voxel by the copy.
    theirs = SimpleITK.ConstantPad(itk_of(geometry), before, after)
    first = theirs.TransformIndexToPhysicalPoint((0, 0, 0))
    np.testing.assert_allclose(padded.to_world((0, 0, 0)), np.array(first) @ LPS[:3, :3], atol=1e-6)
    same(crop(padded, before, n), geometry)


@every
@given(any_grid, shapes)
def test_a_resized_grid_keeps_the_outer_faces_and_comes_back(geometry, shape):
    other = resized(geometry, shape)
    assert other.shape == shape
    for corner in product((0, 1), repeat=3):
        faces = [np.array(corner) * g.shape - 0.5 for g in (geometry, other)]
        np.testing.assert_allclose(other.to_world(faces[1]), geometry.to_world(faces[0]), atol=1e-8)
    same(resized(other, geometry.shape), geometry)
    assert other.orientation == geometry.orientation or geometry.is_sheared
    np.testing.assert_allclose(np.array(other.spacing_mm) * other.shape, np.array(geometry.spacing_mm) * geometry.shape)


@every
@given(any_grid, spacings)
def test_the_shape_at_a_spacing_misses_the_field_of_view_by_half_a_voxel_at_most(geometry, spacing):
    for n, new, old, step in zip(
        shape_at_spacing(geometry, spacing), spacing, geometry.shape, geometry.spacing_mm, strict=True
    ):
        assert n == 1 or abs(n * new - old * step) <= new / 2 + 1e-9


@every
@given(geometries())
def test_a_grid_at_right_angles_is_its_own_upright_grid(geometry):
    assert not geometry.is_sheared
    assert upright(geometry) is geometry


@every
@given(geometries(shear=shears) | geometries(shear=gantry))
def test_an_upright_grid_is_the_smallest_at_right_angles_that_holds_every_voxel(geometry):
    assume(geometry.is_sheared)
    grid = upright(geometry)
    assert grid.shear_degrees < 1e-4
    corners = geometry.to_world(list(product(*((0, n - 1) for n in geometry.shape))))
    inside = apply_affine(np.linalg.inv(grid.affine), corners)
    low, high = inside.min(axis=0), inside.max(axis=0)
    assert (low > -1e-5).all()
    assert (low < 1 + 1e-5).all()
    assert (high < np.array(grid.shape) - 1 + 1e-5).all()
    assert (high > np.array(grid.shape) - 2 - 1e-5).all()
    assert np.linalg.det(geometry.affine[:3, :3]) * np.linalg.det(grid.affine[:3, :3]) > 0


@every
@given(geometries(shear=gantry, shape=st.tuples(*[st.integers(2, 9)] * 3)))
def test_a_gantry_tilt_is_undone_by_a_shift_within_each_plane(geometry):
    """One pair of axes leans, so the pair at right angles keeps its spacing and planes, whichever axis is which."""
    assume(geometry.is_sheared)
    grid = upright(geometry)
    at = np.moveaxis(np.indices(geometry.shape), 0, -1).reshape(-1, 3)
    moved = grid.to_voxel(geometry.to_world(at)) - at
    still = [axis for axis in range(3) if np.abs(moved[:, axis] - moved[0, axis]).max() < 1e-5]
    assert len(still) == 2
    for axis in range(3):
        kept = grid.spacing_mm[axis] / geometry.spacing_mm[axis]
        assert kept == pytest.approx(1) or kept == pytest.approx(np.cos(np.radians(geometry.shear_degrees)))


def grids_that_meet(source, turn, spacing, shape):
    """A second grid about the centre of ``source``."""
    matrix = nib.eulerangles.euler2mat(*turn) @ np.diag(spacing)
    centre = source.to_world((np.array(source.shape) - 1) / 2)
    return Geometry(shape, from_matvec(matrix, centre - matrix @ ((np.array(shape) - 1) / 2)))


wide = st.tuples(*[st.integers(3, 9)] * 3)


@every
@given(geometries(shape=wide) | geometries(shape=wide, shear=shears), turns, spacings, shapes)
def test_voxels_moved_linearly_are_those_of_nibabel_and_simpleitk(source, turn, spacing, shape):
    target = grids_that_meet(source, turn, spacing, shape)
    data = np.random.default_rng(0).normal(size=source.shape)
    ours = onto_grid(data, source, target, order=1, outside=-7.0)
    where = source.to_voxel(target.to_world(np.moveaxis(np.indices(shape), 0, -1)))
    inside = ((where > 1e-6) & (where < np.array(source.shape) - 1 - 1e-6)).all(axis=-1)
    outside = ((where < -1 - 1e-6) | (where > np.array(source.shape) + 1e-6)).any(axis=-1)
    np.testing.assert_allclose(ours[outside], -7.0)
    nibabels = nib.processing.resample_from_to(nib.Nifti1Image(data, source.affine), (shape, target.affine), order=1)
    np.testing.assert_allclose(ours[inside], nibabels.get_fdata()[inside], atol=1e-6)
    reference = itk_of(target)
    itks = SimpleITK.Resample(itk_of(source, data), reference, SimpleITK.Transform(), SimpleITK.sitkLinear, -7.0)
    np.testing.assert_allclose(ours[inside], SimpleITK.GetArrayFromImage(itks).T[inside], atol=1e-5)


@every
@given(geometries(shape=wide) | geometries(shape=wide, shear=shears), turns, spacings, shapes)
def test_labels_moved_to_another_grid_are_those_of_simpleitk(source, turn, spacing, shape):
    target = grids_that_meet(source, turn, spacing, shape)
    data = np.random.default_rng(1).integers(1, 250, source.shape).astype(np.uint8)
    found = label_map_onto(LabelMap(data, source), target)
    assert found.geometry == target
    where = source.to_voxel(target.to_world(np.moveaxis(np.indices(shape), 0, -1)))
    tie = (np.abs(where - np.floor(where) - 0.5) < 1e-6).any(axis=-1)
    inside = ((where > -0.5) & (where < np.array(source.shape) - 0.5)).all(axis=-1) & ~tie
    itks = SimpleITK.Resample(
        itk_of(source, data), itk_of(target), SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor, 0
    )
    np.testing.assert_array_equal(found.data[inside], SimpleITK.GetArrayFromImage(itks).T[inside])
    beyond = ((where < -0.5 - 1e-6) | (where > np.array(source.shape) - 0.5 + 1e-6)).any(axis=-1)
    assert (found.data[beyond] == 0).all()


@every
@given(geometries(shear=gantry, shape=wide), orders)
def test_straightening_a_tilted_scan_keeps_a_linear_ramp_where_it_was(geometry, order):
    """Linear interpolation of a ramp over the world is exact, so each voxel of the new grid must show its own place."""
    assume(geometry.is_sheared)
    stored = order.geometry(geometry)
    ramp = stored.to_world(np.moveaxis(np.indices(stored.shape), 0, -1)) - stored.to_world((0, 0, 0))
    volume = Volume(np.moveaxis(ramp, -1, 0), stored)
    found = straightened(volume)
    assert found.geometry == upright(stored)
    where = np.moveaxis(np.indices(found.geometry.shape), 0, -1)
    world = found.geometry.to_world(where)
    inside = stored.to_voxel(world)
    covered = ((inside > 1e-6) & (inside < np.array(stored.shape) - 1 - 1e-6)).all(axis=-1)
    expected = world - stored.to_world((0, 0, 0))
    np.testing.assert_allclose(np.moveaxis(found.data, 0, -1)[covered], expected[covered], atol=1e-3)


@every
@given(any_grid, st.lists(orders, min_size=1, max_size=4))
def test_reorderings_in_a_row_equal_the_one_that_order_between_finds(geometry, chain):
    stored, data = geometry, counted(geometry.shape)
    for order in chain:
        stored, data = order.geometry(stored), order.array(data)
    back = order_between(stored, geometry)
    assert isinstance(back, StorageOrder)
    np.testing.assert_array_equal(back.array(data), counted(geometry.shape))
