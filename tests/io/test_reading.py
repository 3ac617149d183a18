"""The door: labels by value, channels on one grid, every format by its name, and nothing heavy imported on the way."""

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medseg.core import memory
from medseg.core.errors import DataError, GeometryError, ResourceError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import Volume
from medseg.io.nifti import write_volume
from medseg.io.reading import read_label_map, read_volume, read_volumes
from medseg.io.scan import ReadOptions
from tests.io.made_nifti import OBLIQUE, SHAPE, encoded, scan

LABELS = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 2})


def labels_file(path: Path, change: Any = None, dtype: Any = np.uint8, **fields: Any) -> Path:
    data = np.random.default_rng(0).integers(0, 3, SHAPE).astype(dtype)
    if change is not None:
        data[3, 4, 5] = change
    path.write_bytes(encoded(data, **fields))
    return path


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "i4", "u4", "i8", "f4", "f8"])
def test_whole_numbers_of_any_type_are_labels(dtype: str, tmp_path: Path) -> None:
    label_map = read_label_map(labels_file(tmp_path / "l.nii", dtype=dtype), LABELS)
    np.testing.assert_array_equal(label_map.data, np.random.default_rng(0).integers(0, 3, SHAPE))
    assert (label_map.data.dtype, label_map.labels) == (np.uint8, LABELS)


def test_the_type_is_the_smallest_unsigned_one(tmp_path: Path) -> None:
    for largest, dtype in ((255, np.uint8), (256, np.uint16), (65535, np.uint16)):
        label_map = read_label_map(labels_file(tmp_path / "l.nii", largest, np.float64))
        assert (label_map.data.dtype, label_map.data.max()) == (dtype, largest)


@pytest.mark.parametrize(
    ("change", "dtype", "words"),
    [
        (0.5, "f4", r"label map values must be integers; got 0\.5"),
        (1.0001, "f8", "integers"),
        (-1, "i2", "label map.*negative; got -1"),
        (np.nan, "f4", "finite, got 1 NaN"),
        (np.inf, "f4", "finite.*1 inf"),
        (7, "u1", "label value 7 is not in the labels"),
        (255, "u1", "label value 255"),
        (70000, "i4", "label map.*65535; got 70000"),
        (300, "i2", "label value 300"),
    ],
)
def test_values_that_are_no_labels_are_named(change: float, dtype: str, words: str, tmp_path: Path) -> None:
    path = labels_file(tmp_path / "l.nii", change, dtype)
    with pytest.raises(DataError, match=words) as caught:
        read_label_map(path, LABELS)
    assert str(caught.value).startswith(str(path))


def test_probabilities_one_hot_masks_and_colours_are_refused(tmp_path: Path) -> None:
    for words, content in (
        ("integers", encoded(np.random.default_rng(0).random(SHAPE).astype(np.float32))),
        ("label.*4-D with 3 channels", encoded(np.zeros((*SHAPE, 3), np.uint8))),
        ("RGB.*type", encoded(datatype=128, bitpix=24)),
    ):
        (tmp_path / "l.nii").write_bytes(content)
        with pytest.raises(DataError, match=words):
            read_label_map(tmp_path / "l.nii")


def test_a_trailing_axis_of_one_and_an_empty_map_are_labels(tmp_path: Path) -> None:
    (tmp_path / "l.nii").write_bytes(encoded(np.zeros((*SHAPE, 1), np.uint8)))
    label_map = read_label_map(tmp_path / "l.nii", LABELS)
    assert (label_map.data.shape, label_map.data.max(), label_map.warnings) == (SHAPE, 0, ())


def test_a_scale_applies_to_labels_too(tmp_path: Path) -> None:
    path = labels_file(tmp_path / "l.nii", dtype=np.int16, scl_slope=0.1, scl_inter=0)
    with pytest.raises(DataError, match="integers"):
        read_label_map(path)
    data = (np.random.default_rng(0).integers(0, 3, SHAPE) * 10).astype(np.int16)
    path.write_bytes(encoded(data, scl_slope=0.1, scl_inter=0))
    assert np.unique(read_label_map(path, LABELS).data).tolist() == [0, 1, 2]


def test_the_real_float_label_maps_are_read(real_data: Path) -> None:
    floats = 0
    for path in sorted((real_data / "Task04_Hippocampus" / "labelsTr").glob("*.nii.gz")):
        label_map = read_label_map(path, Labels.from_mapping({"background": 0, "anterior": 1, "posterior": 2}))
        peer = nib.load(path)
        floats += peer.get_data_dtype() == np.float32
        np.testing.assert_array_equal(label_map.data, np.asanyarray(peer.dataobj))
    assert floats == 2


def test_files_on_one_grid_become_channels_in_any_storage_order(tmp_path: Path) -> None:
    grid = Geometry(SHAPE, OBLIQUE)
    first = Volume(scan()[None], grid)
    write_volume(tmp_path / "a.nii", first)
    for order in all_storage_orders()[::7]:
        write_volume(tmp_path / "b.nii", Volume(scan(dtype=np.float32)[None] + 1, grid).reordered(order))
        both = read_volumes([tmp_path / "a.nii", tmp_path / "b.nii"], channels=2)
        np.testing.assert_array_equal(both.data, [scan(), scan() + 1])
        assert both.geometry.corner_shift(grid) < 0.01
    assert read_volumes([tmp_path / "a.nii"]).data.dtype == np.int16


def test_channels_on_two_grids_are_refused_with_both_names(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", Volume(scan()[None], Geometry(SHAPE, OBLIQUE)))
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 1
    write_volume(tmp_path / "b.nii", Volume(scan()[None], Geometry(SHAPE, shifted)))
    with pytest.raises(GeometryError, match=r"b\.nii.*a\.nii"):
        read_volumes([tmp_path / "a.nii", tmp_path / "b.nii"])


def test_another_number_of_channels_than_asked_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.nii").write_bytes(encoded(np.zeros((*SHAPE, 5), np.int16)))
    with pytest.raises(DataError, match=r"s\.nii: 5 channels .*expected 1"):
        read_volume(tmp_path / "s.nii", channels=1)
    assert read_volume(tmp_path / "s.nii").channels == 5
    with pytest.raises(DataError, match=r"s\.nii and 1 more: 10 channels .*expected 4"):
        read_volumes([tmp_path / "s.nii"] * 2, channels=4)


def test_a_constant_image_is_read_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "s.nii").write_bytes(encoded(np.full(SHAPE, 3.5, np.float32)))
    assert read_volume(tmp_path / "s.nii").warnings == ("the image is constant",)


def test_a_zip_by_another_name_and_an_unknown_type_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "s.scan").write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match=r"rename it to \.zip"):
        read_volume(tmp_path / "s.scan")
    (tmp_path / "s.xyz").write_bytes(b"anything")
    with pytest.raises(DataError, match="unsupported file type; medseg reads NIfTI"):
        read_volume(tmp_path / "s.xyz")


def test_a_dicom_folder_is_read_by_the_same_door(real_data: Path) -> None:
    folder = real_data / "dicom_qa" / "geometry_ok" / "generic_nonisotropic"
    reference = nib.load(folder / "reference.nii.gz")
    volume = read_volume(folder)
    corner = np.linalg.inv(reference.affine) @ volume.geometry.affine @ [0, 0, 0, 1]
    sizes = np.array(reference.shape) - 1
    assert np.abs(np.minimum(np.abs(corner[:3]), np.abs(corner[:3] - sizes))).max() < 0.01


def test_importing_the_door_loads_no_reader() -> None:
    code = (
        "import sys, medseg.io.reading; print({'nibabel', 'SimpleITK', 'pydicom', 'torch', 'scipy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_a_series_cannot_be_named_in_a_file_that_is_none(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", Volume(scan()[None], Geometry(SHAPE, OBLIQUE)))
    with pytest.raises(DataError, match=r"a\.nii: no DICOM series"):
        read_volume(tmp_path / "a.nii", options=ReadOptions(series="1"))


@pytest.mark.parametrize(
    ("dtype", "name", "fields", "bytes_a_voxel"),
    [
        ("i2", "s.nii", {}, 5),  # 2 as they are, 3 for the label
        ("i2", "s.nii.gz", {}, 5),
        ("f8", "s.nii", {}, 12),  # 8 as they come, 4 as they stay
        ("i2", "s.nii", {"scl_slope": 0.5}, 7),  # 4 as they stay, 3 for the label
        ("i4", "s.nii", {"scl_slope": 0.5}, 8),  # 4 as they come, 4 as they stay
    ],
)
def test_a_scan_that_cannot_fit_is_refused_from_its_header(
    dtype: str, name: str, fields: dict[str, float], bytes_a_voxel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process that holds 100 MiB, and whose libraries may take the slack."""
    path = tmp_path / name
    raw = encoded(np.ones(SHAPE, dtype), **fields)
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    needed = 100 * 2**20 + memory.SLACK + int(np.prod(SHAPE)) * bytes_a_voxel
    monkeypatch.setattr(memory, "resident_bytes", lambda: 100 * 2**20)
    assert read_volume(path, options=ReadOptions(max_memory=needed)).geometry.shape == SHAPE
    monkeypatch.setattr("medseg.io.nifti._read_voxels", lambda *arguments: pytest.fail("the voxels were read"))
    with pytest.raises(ResourceError, match=rf"{name}: max-memory 0\.29 GiB does not suffice: .*crop the scan"):
        read_volume(path, options=ReadOptions(max_memory=needed - 1))
