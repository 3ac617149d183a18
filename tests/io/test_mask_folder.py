"""A folder of one mask per structure as one label map."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import DataError, GeometryError
from medseg.io.reading import read_label_map
from medseg.io.separate import masks
from tests.io.segmented import LABELS, OBLIQUE, SHAPE, segmentation, written


def test_what_separate_writes_is_the_label_map_again(tmp_path):
    made = segmentation(tmp_path / "ct_seg")
    written(masks(made))
    (tmp_path / "ct_seg" / "statistics.json").write_text("{}")
    found = read_label_map(tmp_path / "ct_seg", LABELS)
    np.testing.assert_array_equal(found.data, made.label_map.data)
    assert found.labels == LABELS
    np.testing.assert_allclose(found.geometry.affine, OBLIQUE, atol=1e-4)
    assert found.warnings == ()


def save(path: Path, mask: np.ndarray, affine: np.ndarray = OBLIQUE) -> None:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n, name in enumerate(("Liver", "kidney-left", "tumour", "Spleen")):
        mask = np.zeros(SHAPE, np.uint8)
        mask[n * 2 : n * 2 + 3, 2:5, 2] = 255 if n else 1
        save(tmp_path / "case" / f"{name}.nii.gz", mask)
    return tmp_path / "case"


def test_voxels_in_two_masks_go_to_the_larger_value_with_a_warning_that_counts_them(folder):
    found = read_label_map(folder, LABELS)
    values = [1, 1, 2, 2, 5, 5, 300, 300, 300]
    assert found.data[:9, 3, 2].tolist() == values
    (warning,) = found.warnings
    assert "'liver' and 'kidney_left' in 3 voxel(s)" in warning
    with pytest.raises(DataError, match="overlap"):
        read_label_map(folder)


def test_masks_in_another_storage_order_are_put_right(folder):
    mask = np.zeros(SHAPE, np.uint8)
    mask[0:3, 2:5, 2] = 1
    flip = np.diag([-1.0, 1, 1, 1])
    flip[0, 3] = SHAPE[0] - 1
    save(folder / "Spleen.nii.gz", mask[::-1], OBLIQUE @ flip)
    found = read_label_map(folder, LABELS)
    assert found.data[:5, 3, 2].tolist() == [300, 300, 300, 2, 5] or found.data[0, 3, 2] == 300


def test_masks_on_two_grids_label_maps_and_unknown_names_are_refused(folder):
    save(folder / "tumour.nii.gz", np.ones(SHAPE), OBLIQUE @ np.diag([1, 1, 1.1, 1]))
    with pytest.raises(GeometryError, match=r"tumour\.nii\.gz: grid .* differs"):
        read_label_map(folder, LABELS)
    save(folder / "tumour.nii.gz", np.arange(np.prod(SHAPE)).reshape(SHAPE) % 3)
    with pytest.raises(DataError, match=r"tumour\.nii\.gz: holds the values 1, 2, a mask holds one"):
        read_label_map(folder, LABELS)
    (folder / "tumour.nii.gz").rename(folder / "tumor.nii.gz")
    with pytest.raises(DataError, match="'tumor' are not in the labels, which name 'tumour'"):
        read_label_map(folder, LABELS)
