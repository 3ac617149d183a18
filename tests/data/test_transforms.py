"""Our reading as MONAI transforms: the same volumes as ``read_volume``, the affines nibabel has, beside MONAI's own."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, ScaleIntensityd

from medseg.core.case import Case
from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, order_between
from medseg.core.labels import Labels
from medseg.data.preprocess import preprocess, preprocess_reference
from medseg.data.transforms import LoadLabelMapd, LoadVolumed, Preprocessd, loading, to_volume
from medseg.io.reading import read_label_map, read_volume
from tests.data.tiny_dataset import AFFINE, LABELS, pair, save
from tests.models.tiny_model import tiny_plan

HIPPOCAMPUS = {"background": 0, "anterior": 1, "posterior": 2}


def assert_same_volume(tensor, volume):
    assert isinstance(tensor, MetaTensor)
    np.testing.assert_array_equal(tensor.as_tensor().numpy(), volume.data)
    assert tensor.affine.dtype == torch.float64
    np.testing.assert_array_equal(tensor.affine.numpy(), volume.geometry.affine)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
def test_a_nifti_file_comes_with_nibabels_voxels_and_affine(tmp_path, codes):
    image = nib.Nifti1Image(pair(0)[0], AFFINE)
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(AFFINE), nib.orientations.axcodes2ornt(tuple(codes))
    )
    stored = image.as_reoriented(change)
    path = save(tmp_path / "scan.nii.gz", np.asanyarray(stored.dataobj), stored.affine)
    tensor = Compose([LoadVolumed("image")])({"image": path})["image"]
    theirs = nib.load(path)
    np.testing.assert_array_equal(tensor[0].numpy(), np.asanyarray(theirs.dataobj))
    np.testing.assert_allclose(tensor.affine.numpy(), theirs.affine, atol=1e-4)
    assert_same_volume(tensor, read_volume(path))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.float32])
def test_every_stored_type_keeps_its_values(tmp_path, dtype):
    data = np.arange(24, dtype=dtype).reshape(4, 3, 2) * 10
    tensor = LoadVolumed("image")({"image": str(save(tmp_path / "scan.nii", data))})["image"]
    np.testing.assert_array_equal(tensor[0].numpy(), data)


def test_one_path_per_channel_becomes_channels(tmp_path):
    image, _ = pair(0)
    paths = [save(tmp_path / f"{n}.nii.gz", image + n) for n in range(2)]
    tensor = LoadVolumed("image")({"image": paths})["image"]
    assert tensor.shape == (2, *image.shape)
    np.testing.assert_array_equal((tensor[1] - tensor[0]).numpy(), 1)


@pytest.mark.parametrize("where", ["hippocampus_dicom/Study1", "totalseg_dicom/dicom"])
def test_a_dicom_folder_comes_as_read_volume_reads_it(real_data, where):
    folder = real_data / where
    while not any(p.is_file() for p in folder.iterdir()):
        folder = next(p for p in sorted(folder.iterdir()) if p.is_dir())
    tensor = Compose([LoadVolumed("image")])({"image": folder})["image"]
    assert_same_volume(tensor, read_volume(folder))


def test_a_dicom_series_lies_where_its_reference_segmentation_lies(real_data):
    """The reference was written by TotalSegmentator, by way of dcm2niix and nibabel."""
    tensor = LoadVolumed("image")({"image": real_data / "totalseg_dicom" / "dicom"})["image"]
    reference = nib.load(real_data / "totalseg_dicom" / "seg_reference.nii.gz")
    ours = Geometry(tuple(tensor.shape[1:]), tensor.affine.numpy())
    assert order_between(ours, Geometry(reference.shape, reference.affine)) is not None


def test_nifti_and_dicom_pass_the_same_compose_to_the_plans_grid(real_data):
    plan = tiny_plan(spacing_mm=[1.5, 1.5, 1.5], labels=HIPPOCAMPUS)
    compose = Compose([LoadVolumed("image"), Preprocessd(plan)])
    nifti = next(iter(sorted((real_data / "Task04_Hippocampus" / "imagesTr").glob("hippo*.nii.gz"))))
    for path in (nifti, real_data / "hippocampus_dicom" / "Study1"):
        result = compose({"image": path})["image"]
        wanted = preprocess(read_volume(path), plan)
        assert_same_volume(result, wanted)
        assert nib.aff2axcodes(result.affine.numpy()) == ("R", "A", "S")
        assert abs(float(result.mean())) < 0.1  # z-scored


def test_a_real_training_case_comes_through_the_compose_as_preprocess_makes_it(real_data):
    root = real_data / "Task04_Hippocampus"
    name = sorted(p.name for p in (root / "labelsTr").glob("hippo*.nii.gz"))[3]
    plan = tiny_plan(spacing_mm=[1.0, 1.2, 0.8], labels=HIPPOCAMPUS)
    image, reference = loading(plan)(Case("a", "a", (root / "imagesTr" / name,), root / "labelsTr" / name))
    volume = read_volume(root / "imagesTr" / name)
    stored = read_label_map(root / "labelsTr" / name)
    np.testing.assert_array_equal(image.data, preprocess(volume, plan).data)
    np.testing.assert_array_equal(reference.data, preprocess_reference(stored, volume, plan).data)
    assert image.geometry == reference.geometry
    assert reference.data.dtype == np.uint8
    assert set(np.unique(reference.data)) == {0, 1, 2}


def test_it_stands_beside_monais_own_transforms(tmp_path):
    image, label = pair(0)
    plan = tiny_plan(spacing_mm=[1.5, 1.25, 2.0])
    compose = Compose(
        [
            LoadVolumed("image"),
            LoadLabelMapd("reference", Labels.from_mapping(LABELS)),
            ScaleIntensityd("image", minv=0.0, maxv=1.0),
            Preprocessd(plan),
        ]
    )
    given = {"image": save(tmp_path / "i.nii.gz", image), "reference": save(tmp_path / "l.nii.gz", label), "id": 7}
    result = compose(given)
    assert result["id"] == 7
    plain = preprocess(read_volume(given["image"]), plan)  # a z-score does not see a scale
    np.testing.assert_allclose(result["image"].as_tensor().numpy(), plain.data, atol=1e-4)
    np.testing.assert_allclose(result["image"].affine.numpy(), plain.geometry.affine, atol=1e-9)
    np.testing.assert_array_equal(result["reference"].affine.numpy(), result["image"].affine.numpy())


def test_label_values_become_channels_in_the_compose(tmp_path):
    image, label = pair(0)
    values = np.array([0, 40, 7], np.int16)[label]
    labels = {"background": 0, "liver": 40, "tumour": 7}
    plan = tiny_plan(labels=labels, spacing_mm=[1.5, 1.25, 2.0])
    case = Case("a", "a", (save(tmp_path / "i.nii.gz", image),), save(tmp_path / "l.nii.gz", values))
    _, reference = loading(plan)(case)
    # In the plan's RAS order; the tumour (7) is channel 1 because channels follow the values.
    assert (reference.data == 1).sum() == (label == 2).sum()
    assert (reference.data == 2).sum() == (label == 1).sum()


def test_more_than_256_structures_pass(tmp_path):
    labels = {"background": 0, **{f"s{n}": n for n in range(1, 301)}}
    image, label = pair(0)
    plan = tiny_plan(labels=labels, spacing_mm=[1.5, 1.25, 2.0])
    paths = save(tmp_path / "i.nii.gz", image), save(tmp_path / "l.nii.gz", label.astype(np.uint16) * 150)
    _, reference = loading(plan)(Case("a", "a", paths[:1], paths[1]))
    assert reference.data.dtype == np.uint16
    assert set(np.unique(reference.data)) == {0, 150, 300}


def test_a_value_without_a_name_is_refused_with_the_file(tmp_path):
    path = save(tmp_path / "l.nii.gz", pair(0)[1] + np.uint8(3))
    with pytest.raises(DataError, match=r"l\.nii\.gz.*value"):
        LoadLabelMapd("reference", Labels.from_mapping(LABELS))({"reference": path})


def test_a_missing_key_is_an_error_unless_it_may_be_missing(tmp_path):
    with pytest.raises(KeyError):
        LoadVolumed("image")({"other": 1})
    assert LoadVolumed("image", allow_missing_keys=True)({"other": 1}) == {"other": 1}


def test_a_tensor_without_a_grid_is_refused():
    with pytest.raises(GeometryError, match="MetaTensor"):
        to_volume(torch.zeros(1, 2, 3, 4))
