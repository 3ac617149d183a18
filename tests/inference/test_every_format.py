"""One scan as NIfTI, NRRD, MetaImage, DICOM and zip, in every storage order that each can hold: one mask in the world."""

import zipfile
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseg.core.geometry import Geometry, StorageOrder, all_storage_orders, order_between
from medseg.core.volume import LabelMap, Volume
from medseg.data.phantom import make_phantom
from medseg.inference.backends.torch_backend import torch_predict
from medseg.inference.segment import segment
from medseg.inference.settings import InferenceSettings
from medseg.io.reading import read_volume
from medseg.models.bundle import network_for, weights_of
from tests.io import bad_dicom
from tests.io.bad_raster import itk_image
from tests.models.tiny_model import tiny_plan, tiny_states

PLAN = tiny_plan(spacing_mm=[14.0, 18.0, 25.0], patch_size=[16, 16, 16], modality="CT")
ORDERS = all_storage_orders()
STEP = 6  # every sixth voxel of the phantom: a small scan, oblique and anisotropic


@cache
def scan() -> Volume:
    """The phantom's scan, int16 HU, 11 to 17 voxels a side, stored nearest to RAS."""
    whole = make_phantom(3).volume.canonical()
    data = np.ascontiguousarray(whole.data[:, ::STEP, ::STEP, ::STEP])
    affine = whole.geometry.affine @ np.diag([STEP, STEP, STEP, 1.0])
    i, j, k = data.shape[1:]
    return Volume(data, Geometry((i, j, k), affine))


@cache
def predict():  # type: ignore[no-untyped-def]
    network = network_for(PLAN)
    weights_of(network).load_state_dict(tiny_states(PLAN)["fold_0"])
    return torch_predict([network], torch.device("cpu"))


@cache
def reference() -> LabelMap:
    return segment(scan(), PLAN, predict(), settings=InferenceSettings(batch=8)).label_map


def check_same_mask(path: Path) -> Volume:
    """The mask of the scan at ``path``, wherever its voxels are stored, is that of the scan in memory."""
    volume = read_volume(path)
    found = segment(volume, PLAN, predict(), settings=InferenceSettings(batch=8)).label_map
    assert found.geometry == volume.geometry
    back = order_between(found.geometry, reference().geometry, tolerance=1e-3)
    assert back is not None, f"{volume.geometry} is not the grid of {scan().geometry}"
    np.testing.assert_array_equal(back.array(volume.data), scan().data)
    np.testing.assert_array_equal(back.array(found.data), reference().data)
    return volume


def stored(order: StorageOrder) -> tuple[np.ndarray, Geometry]:
    return np.ascontiguousarray(order.array(scan().data[0])), order.geometry(scan().geometry)


def write_nifti(path: Path, order: StorageOrder) -> Path:
    data, geometry = stored(order)
    image = nib.Nifti1Image(data, geometry.affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def write_series(folder: Path, order: StorageOrder, *, seed: int = 0) -> Path:
    """A CT series whose columns, rows and slices run along the axes of ``order``, in files named and numbered at random."""
    data, geometry = stored(order)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ geometry.affine
    cosines = lps[:3, :2] / geometry.spacing_mm[:2]
    datasets = []
    for k, number in enumerate(np.random.default_rng(seed).permutation(data.shape[2])):
        dataset = bad_dicom.identity(bad_dicom.CTImageStorage, "CT", 100, int(number) + 1)
        bad_dicom.put(
            dataset,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            ImagePositionPatient=[f"{x:.12g}" for x in lps[:3] @ [0, 0, k, 1]],
            ImageOrientationPatient=[f"{x:.12g}" for x in cosines.T.ravel()],
            PixelSpacing=[f"{s:.12g}" for s in geometry.spacing_mm[1::-1]],
            RescaleSlope="1",
            RescaleIntercept="-1024",
        )
        datasets.append(bad_dicom.set_pixels(dataset, (data[:, :, k].T.astype(np.int32) + 1024).astype("<u2")))
    datasets.sort(key=lambda d: d.InstanceNumber)
    bad_dicom.save(datasets, folder)
    return folder


def test_the_mask_to_be_found_again_holds_every_structure_and_no_symmetry() -> None:
    mask = reference().data
    assert set(np.unique(mask)) == {0, 1, 2}
    assert min(np.count_nonzero(mask == value) for value in (1, 2)) > 100
    assert reference().geometry.shear_degrees < 1e-6
    assert len(set(scan().geometry.shape)) == 3
    for order in ORDERS[1:]:
        moved = order.array(mask)
        assert moved.shape != mask.shape or (moved != mask).any()


def test_nifti_in_all_48_orders_gives_one_mask(tmp_path: Path) -> None:
    read = {check_same_mask(write_nifti(tmp_path / "scan.nii", order)).geometry.orientation for order in ORDERS}
    assert len(read) == 48


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
def test_nrrd_and_metaimage_in_all_48_orders_give_one_mask(name: str, tmp_path: Path) -> None:
    import SimpleITK

    read = set()
    for order in ORDERS:
        data, geometry = stored(order)
        SimpleITK.WriteImage(itk_image(data, geometry.affine), str(tmp_path / name))
        read.add(check_same_mask(tmp_path / name).geometry.orientation)
    assert len(read) == 48


def test_a_dicom_series_along_any_axes_gives_one_mask(tmp_path: Path) -> None:
    """24 of the orders are right-handed; in the others only the slices are counted from the other end, which no file tells."""
    read = set()
    for n, order in enumerate(ORDERS):
        if np.linalg.det(order.geometry(scan().geometry).affine[:3, :3]) > 0:
            read.add(check_same_mask(write_series(tmp_path / f"{n}", order, seed=n)).geometry.orientation)
    assert len(read) == 24


def test_slices_counted_from_the_other_end_give_one_mask(tmp_path: Path) -> None:
    order = next(o for o in ORDERS if np.linalg.det(o.geometry(scan().geometry).affine[:3, :3]) < 0)
    check_same_mask(write_series(tmp_path / "series", order))


@pytest.mark.parametrize("kind", ["NIfTI", "DICOM"])
def test_a_zip_archive_gives_one_mask(kind: str, tmp_path: Path) -> None:
    order = ORDERS[29]
    if kind == "NIfTI":
        files = [write_nifti(tmp_path / "scan.nii.gz", order)]
    else:
        files = sorted(write_series(tmp_path / "series", order).iterdir())
    with zipfile.ZipFile(tmp_path / "scan.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"study/{file.name}")
    check_same_mask(tmp_path / "scan.zip")
