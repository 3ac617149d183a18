"""Sheared grids: the orthogonal grid that covers them, and voxels moved there and back, against nibabel."""

import nibabel as nib
import nibabel.processing
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from medseg.core.geometry import Geometry, all_storage_orders, upright
from medseg.core.regrid import label_map_onto, onto_grid, straightened, volume_onto
from medseg.core.volume import LabelMap, Volume


def tilted(degrees: float, *, seed: int = 0, shape: tuple[int, int, int] = (24, 30, 12)) -> Geometry:
    """Slices of 0.8 x 0.7 mm, 3 mm apart along the table, leaning by ``degrees``, anywhere in the world."""
    shear = np.diag([0.8, 0.7, 3.0, 1.0])
    shear[1, 2] = 3.0 * np.tan(np.radians(degrees))
    turned = np.eye(4)
    turned[:3, :3] = Rotation.random(rng=seed).as_matrix()
    turned[:3, 3] = [-40, 70, 12]
    return Geometry(shape, turned @ shear)


def test_the_shear_of_a_tilt_is_its_angle() -> None:
    assert tilted(14.0).shear_degrees == pytest.approx(14.0)
    assert tilted(14.0).is_sheared
    assert not tilted(0.0).is_sheared


def test_upright_leaves_an_orthogonal_grid_alone() -> None:
    geometry = tilted(0.0)
    assert upright(geometry) is geometry


@pytest.mark.parametrize("degrees", [-25.0, 2.0, 14.0])
def test_upright_has_right_angles_covers_every_voxel_and_keeps_the_planes(degrees: float) -> None:
    for order in all_storage_orders():
        geometry = order.geometry(tilted(degrees, seed=3))
        grid = upright(geometry)
        assert grid.shear_degrees == pytest.approx(0, abs=1e-6)
        corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(geometry.shape) - 1)
        inside = grid.to_voxel(geometry.to_world(corners))
        assert inside.min() > -1e-6
        assert (inside <= np.array(grid.shape) - 1 + 1e-6).all()
        third = order.permutation.index(2)
        assert grid.shape[third] == geometry.shape[third]
        np.testing.assert_allclose(inside[:, third], corners[:, third], atol=1e-6)


def test_a_mask_comes_back_onto_the_tilted_slices_where_it_was() -> None:
    geometry = tilted(14.0, shape=(40, 44, 16))
    world = geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1))
    centre = geometry.to_world(np.array(geometry.shape) / 2)
    ball = (np.linalg.norm(world - centre, axis=-1) < 10).astype(np.uint8)
    there = label_map_onto(LabelMap(ball, geometry), upright(geometry))
    back = label_map_onto(there, geometry)
    assert (back.data != ball).mean() < 0.002
    for found in (there, back):
        middle = found.geometry.to_world(np.argwhere(found.data)).mean(axis=0)
        assert np.linalg.norm(middle - centre) < 0.1


def test_moving_voxels_between_oblique_grids_equals_nibabel() -> None:
    source, target = tilted(10.0, seed=1), upright(tilted(10.0, seed=1))
    data = np.random.default_rng(0).normal(size=source.shape).astype(np.float32)
    ours = onto_grid(data, source, target, order=1, outside=0.0)
    theirs = nib.processing.resample_from_to(
        nib.Nifti1Image(data, source.affine), (target.shape, target.affine), order=1
    )
    where = source.to_voxel(target.to_world(np.moveaxis(np.indices(target.shape), 0, -1)))
    inside = ((where > 1e-6) & (where < np.array(source.shape) - 1 - 1e-6)).all(axis=-1)  # nibabel drops the faces
    assert inside.mean() > 0.5
    np.testing.assert_allclose(ours[inside], theirs.get_fdata()[inside], atol=1e-4)


def test_straightening_fills_with_the_smallest_intensity_of_each_channel() -> None:
    geometry = tilted(20.0)
    data = np.stack([np.full(geometry.shape, 7, np.int16), np.full(geometry.shape, -1000, np.int16)])
    data[:, 3, 3, 3] = 500
    found = straightened(Volume(data, geometry))
    assert found.data.dtype == np.float32
    assert found.data[0].min() == 7
    assert found.data[1].min() == -1000
    assert found.geometry.shape[1] > geometry.shape[1]


@pytest.mark.parametrize("rounding", [-4e-7, 4e-7])
def test_a_face_that_rounding_puts_beside_the_first_voxels_keeps_its_labels(rounding: float) -> None:
    source = Geometry((3, 4, 5), np.diag([1.0, 2.0, 3.0, 1.0]))
    affine = source.affine.copy()
    affine[:3, 3] = rounding
    data = np.full(source.shape, 7, np.uint8)
    assert (label_map_onto(LabelMap(data, source), Geometry(source.shape, affine)).data == 7).all()
    moved = onto_grid(data.astype(np.float32), source, Geometry(source.shape, affine), order=1, outside=-1000)
    np.testing.assert_allclose(moved, 7, atol=1e-2)


def test_a_volume_on_another_grid_is_what_nibabel_resamples_and_its_minimum_beyond() -> None:
    """An oblique scan of 2 channels on a finer, shifted, reflected grid."""
    source, random = tilted(0.0, seed=4, shape=(20, 22, 10)), np.random.default_rng(0)
    volume = Volume(random.normal(100, 20, (2, 20, 22, 10)).astype(np.float32), source)
    turned = source.affine @ np.diag([-0.5, 0.6, 0.4, 1.0])
    turned[:3, 3] = (source.affine @ [13.83, 3.07, 2.09, 1])[:3]
    grid = Geometry((36, 30, 40), turned)
    moved, covered = volume_onto(volume, grid)
    voxels = np.stack([*np.indices(grid.shape), np.ones(grid.shape)])
    index = np.tensordot(np.linalg.inv(source.affine) @ turned, voxels, 1)[:3]
    last = np.array(source.shape)[:, None, None, None] - 1
    between = ((index > 0.01) & (index < last - 0.01)).all(axis=0)  # between the outermost centres, clear of rounding
    beyond = ((index < -0.51) | (index > last + 0.51)).any(axis=0)
    assert between.any()
    assert beyond.any()
    assert covered == pytest.approx(((index > -0.5) & (index < last + 0.5)).all(axis=0).mean(), abs=1e-3)
    for channel in range(2):
        image = nib.Nifti1Image(volume.data[channel], source.affine)
        theirs = nibabel.processing.resample_from_to(image, (grid.shape, grid.affine), order=1).get_fdata()
        np.testing.assert_allclose(moved.data[channel][between], theirs[between], rtol=1e-4)
        assert (moved.data[channel][beyond] == volume.data[channel].min()).all()
    assert moved.geometry == grid
