"""The plan's grid against SimpleITK, world positions by hand, and all 48 ways to store one scan."""

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.data.preprocess import preprocess, preprocess_reference
from tests.models.tiny_model import tiny_plan

UNCHANGED = {"intensity": [{"scheme": {"name": "ct_window", "lower": -1e9, "upper": 1e9, "mean": 0.0, "sd": 1.0}}]}


def affine(seed: int, spacing: tuple[float, float, float]) -> np.ndarray:
    """Turned by up to 25 degrees about each axis, then stored in any order and direction."""
    random = np.random.default_rng(seed)
    turn = nib.eulerangles.euler2mat(*np.radians(random.uniform(-25, 25, 3)))
    order = np.eye(3)[random.permutation(3)] * random.choice([-1, 1], 3)
    return nib.affines.from_matvec(turn @ order @ np.diag(spacing), random.uniform(-200, 200, 3))


def blob(shape: tuple[int, int, int], matrix: np.ndarray, centre: np.ndarray, sd_mm: float) -> np.ndarray:
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.exp(-0.5 * ((nib.affines.apply_affine(matrix, index) - centre) ** 2).sum(-1) / sd_mm**2)


def centroid(data: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    weights = np.where(data > 0.02, data, 0).astype(float)
    index = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"), -1)
    return (nib.affines.apply_affine(matrix, index) * weights[..., None]).sum((0, 1, 2)) / weights.sum()


GRIDS = [
    ((1.0, 1.0, 1.0), (1.5, 1.5, 1.5)),
    ((0.8, 1.3, 2.5), (1.0, 1.0, 1.0)),
    ((2.5, 0.9, 1.1), (1.7, 1.2, 2.2)),
    ((0.7, 0.7, 4.0), (0.9, 0.9, 4.0)),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("spacing", "wanted"), GRIDS, ids=str)
def test_a_blob_stays_where_it_is_in_the_world(seed, spacing, wanted):
    shape = tuple(int(60 / s) for s in spacing)
    matrix = affine(seed, spacing)
    middle = nib.affines.apply_affine(matrix, (np.array(shape) - 1) / 2)
    centre = middle + np.random.default_rng(seed).uniform(-3, 3, 3)
    image = blob(shape, matrix, centre, 6.0)
    volume = Volume(image[None].astype(np.float32), Geometry(shape, matrix))
    mask = (image > 0.3).astype(np.uint8)
    plan = tiny_plan(spacing_mm=wanted, labels={"background": 0, "blob": 1}, **UNCHANGED)
    prepared = preprocess(volume, plan)
    assert prepared.geometry.orientation == "RAS"
    assert np.linalg.norm(centroid(prepared.data[0], prepared.geometry.affine) - centre) < 0.1
    reference = preprocess_reference(LabelMap(mask, volume.geometry), volume, plan)
    assert reference.geometry == prepared.geometry
    there = centroid(reference.data, reference.geometry.affine)
    assert np.linalg.norm(there - centroid(mask, matrix)) < 0.1 * max(spacing)
    ml = [
        data.sum() * abs(np.linalg.det(m[:3, :3]))
        for data, m in ((mask, matrix), (reference.data, reference.geometry.affine))
    ]
    assert ml[1] == pytest.approx(ml[0], rel=0.08)  # steps of thick slices are cut off


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("spacing", "wanted"), [*GRIDS[:1], *GRIDS[2:3], ((1.0, 1.3, 2.5), (1.0, 1.0, 1.0))], ids=str)
def test_voxels_equal_simpleitks_bspline_on_the_same_grid(tmp_path, seed, spacing, wanted):
    """Away from the border, where ITK's spline mirrors and ours repeats the edge. (Spacings within a factor of three.)"""
    random = np.random.default_rng(seed)
    shape = (34, 30, 26)
    matrix = affine(seed, spacing)
    smooth = sum(blob(shape, matrix, nib.affines.apply_affine(matrix, random.uniform(5, 25, 3)), 4.0) for _ in range(8))
    nib.save(nib.Nifti1Image(smooth.astype(np.float32), matrix), tmp_path / "scan.nii")
    volume = Volume(smooth.astype(np.float32)[None], Geometry(shape, matrix))
    prepared = preprocess(volume, tiny_plan(spacing_mm=wanted, **UNCHANGED))
    nib.save(nib.Nifti1Image(prepared.data[0], prepared.geometry.affine), tmp_path / "prepared.nii")
    scan, grid = SimpleITK.ReadImage(tmp_path / "scan.nii"), SimpleITK.ReadImage(tmp_path / "prepared.nii")
    theirs = SimpleITK.GetArrayFromImage(
        SimpleITK.Resample(scan, grid, SimpleITK.Transform(), SimpleITK.sitkBSpline, -1.0)
    ).T
    margin = tuple(slice(int(np.ceil(8 * max(1, n / 30))), -int(np.ceil(8 * max(1, n / 30)))) for n in theirs.shape)
    np.testing.assert_allclose(
        prepared.data[0][margin], np.clip(theirs, smooth.min(), smooth.max())[margin], atol=2e-3 * smooth.max()
    )


def scan_and_mask(shape=(12, 9, 7)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    data = random.normal(1000, 400, shape).astype(np.float32)
    mask = (random.random(shape) > 0.7).astype(np.uint8) + (data > 1700)
    return data, mask, affine(3, (1.0, 1.5, 2.0))


ALL_48 = [np.column_stack([p, s]) for p in permutations(range(3)) for s in product((1, -1), repeat=3)]


@pytest.mark.parametrize("intensity", ["z_score", UNCHANGED["intensity"][0]["scheme"]], ids=["z_score", "ct_window"])
@pytest.mark.parametrize("wanted", [(1.0, 1.5, 2.0), (1.3, 1.1, 0.9)], ids=str)
def test_all_48_storage_orders_give_the_same_bits(intensity, wanted):
    data, mask, matrix = scan_and_mask((32, 29, 27))
    plan = tiny_plan(spacing_mm=wanted, intensity=[{"scheme": intensity}])
    results = []
    for n, ornt in enumerate(ALL_48):
        image = nib.Nifti1Image(data, matrix).as_reoriented(ornt)
        label = nib.Nifti1Image(mask, matrix).as_reoriented(ornt)
        voxels = np.array(image.dataobj, order="CF"[n % 2])  # MONAI hands over C order, a NIfTI file Fortran order
        volume = Volume(voxels[None], Geometry(image.shape, image.affine))
        reference = LabelMap(np.asanyarray(label.dataobj), Geometry(label.shape, label.affine))
        results.append((preprocess(volume, plan), preprocess_reference(reference, volume, plan)))
    first, first_reference = results[0]
    for prepared, reference in results[1:]:
        np.testing.assert_array_equal(prepared.data, first.data)
        np.testing.assert_array_equal(reference.data, first_reference.data)
        np.testing.assert_allclose(prepared.geometry.affine, first.geometry.affine, atol=1e-9)


def test_a_reference_may_be_stored_in_another_order_than_its_image():
    data, mask, matrix = scan_and_mask()
    volume = Volume(data[None], Geometry(data.shape, matrix))
    plan = tiny_plan(spacing_mm=(1.3, 1.1, 0.9))
    wanted = preprocess_reference(LabelMap(mask, volume.geometry), volume, plan)
    for ornt in ALL_48:
        label = nib.Nifti1Image(mask, matrix).as_reoriented(ornt)
        reference = LabelMap(np.asanyarray(label.dataobj), Geometry(label.shape, label.affine))
        np.testing.assert_array_equal(preprocess_reference(reference, volume, plan).data, wanted.data)


def test_label_values_become_contiguous_channels():
    volume = Volume(np.zeros((1, 4, 4, 4), np.float32), Geometry((4, 4, 4), np.eye(4)))
    values = np.zeros((4, 4, 4), np.uint16)
    values[1], values[2], values[3] = 500, 7, 9
    labels = {"background": 0, "c": 500, "a": 7, "b": 9}
    plan = tiny_plan(spacing_mm=(1, 1, 1), labels=labels)
    channels = preprocess_reference(LabelMap(values, volume.geometry), volume, plan).data
    assert Labels.from_mapping(labels).names == ("a", "b", "c")
    assert channels[:, 0, 0].tolist() == [0, 3, 1, 2]


def test_a_voxel_stays_a_voxel_however_coarse_the_plan():
    volume = Volume(np.ones((1, 3, 1, 2), np.float32), Geometry((3, 1, 2), np.diag([0.5, 0.5, 0.5, 1])))
    prepared = preprocess(volume, tiny_plan(spacing_mm=(5, 5, 5), **UNCHANGED))
    assert prepared.geometry.shape == (1, 1, 1)
    np.testing.assert_allclose(prepared.geometry.to_world((0, 0, 0)), volume.geometry.to_world((1, 0, 0.5)))


def test_another_number_of_channels_is_refused():
    volume = Volume(np.zeros((2, 4, 4, 4), np.float32), Geometry((4, 4, 4), np.eye(4)))
    with pytest.raises(DataError, match=r"2 channel.*expects 1"):
        preprocess(volume, tiny_plan())


def test_a_reference_on_another_grid_is_refused():
    volume = Volume(np.zeros((1, 4, 4, 4), np.float32), Geometry((4, 4, 4), np.eye(4)))
    shifted = Geometry((4, 4, 4), nib.affines.from_matvec(np.eye(3), [0.2, 0, 0]))
    with pytest.raises(DataError, match="differs"):
        preprocess_reference(LabelMap(np.zeros((4, 4, 4), np.uint8), shifted), volume, tiny_plan())


@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.5), (1.7, 1.7, 1.7), (1.0, 1.0, 1.0)], ids=str)
def test_every_voxel_that_an_ignored_one_touches_is_ignored(spacing):
    """Ignored from i = 6 mm on, tumour up to 3 mm: linear interpolation reaches one source voxel's centre further."""
    data = np.zeros((12, 8, 8), np.uint8)
    data[6:], data[:3] = 255, 2
    image = Volume(np.zeros((1, 12, 8, 8), np.float32), Geometry((12, 8, 8), np.eye(4)))
    plan = tiny_plan(spacing_mm=spacing, ignore=255)
    found = preprocess_reference(LabelMap(data, image.geometry), image, plan)
    along = found.data[:, 0, 0]
    assert (found.data == along[:, None, None]).all()
    centre = (np.arange(len(along)) + 0.5) * 12 / len(
        along
    ) - 0.5  # in voxels of the source, whose faces are at -0.5 and 11.5
    assert (along[centre > 5.01] == 3).all()
    assert not (along[centre < 4.99] == 3).any()
    assert (along[centre < 2.4] == 2).all()
    assert set(np.unique(along)) == {0, 2, 3}
