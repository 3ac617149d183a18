"""DICOM series made from volumes: SimpleITK, pydicom and medseg put every voxel where it was, and no patient is in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, all_storage_orders, order_between
from medseg.core.volume import Volume
from medseg.io.dicom_write import series_of, write_series, zip_of
from medseg.io.nifti import write_volume
from medseg.io.reading import read_volume, read_volumes

SHAPE = (9, 7, 5)
OUT = Path("out")


def values(dtype: Any = np.int16, low: int = -1024, high: int = 3071) -> np.ndarray:
    return np.random.default_rng(0).integers(low, high, (1, *SHAPE)).astype(dtype)


def oblique(seed: int = 1, shear: float = 0.0) -> Geometry:
    affine = np.eye(4)
    leaning = np.array([[1, 0, 0], [0, 1, shear], [0, 0, 1]])
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() @ leaning * [0.7, 1.3, 4.1]
    affine[:3, 3] = [-33.3, 12.25, 700.125]
    return Geometry(SHAPE, affine)


def written(folder: Path, data: np.ndarray, geometry: Geometry, modality: Any = "CT") -> Any:
    series = series_of(OUT, data, geometry, modality)
    folder.mkdir(exist_ok=True)
    write_series(folder, series)
    return series


@pytest.mark.parametrize("order", all_storage_orders()[::5], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_simpleitk_and_medseg_find_every_voxel_where_it_was(seed: int, order: Any, tmp_path: Path) -> None:
    data, grid = order.array(values()), order.geometry(oblique(seed))
    written(tmp_path / "s", data, grid)
    back = read_volume(tmp_path / "s")
    onto = order_between(back.geometry, grid, 1e-6)
    assert onto is not None
    np.testing.assert_array_equal(onto.array(back.data), data)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    peer = reader.Execute()
    for index in ((0, 0, 0), tuple(n - 1 for n in grid.shape), (2, 1, 3)):
        place = [float(x) for x in grid.to_world(index) * [-1, -1, 1]]
        assert peer[peer.TransformPhysicalPointToIndex(place)] == data[(0, *index)]
        there = peer.TransformIndexToPhysicalPoint(peer.TransformPhysicalPointToIndex(place))
        np.testing.assert_allclose(there, place, atol=1e-3)


def test_a_series_and_a_nifti_in_any_storage_order_are_channels_of_one_case(tmp_path: Path) -> None:
    data, other, grid = values(), values(np.float32), oblique()
    written(tmp_path / "s", data, grid)
    for order in all_storage_orders():
        write_volume(tmp_path / "b.nii", Volume(other, grid).reordered(order))
        for paths, expected in ((["s", "b.nii"], (data, other)), (["b.nii", "s"], (other, data))):
            both = read_volumes([tmp_path / name for name in paths], channels=2)
            onto = order_between(both.geometry, grid, 1e-3)
            assert onto is not None
            np.testing.assert_array_equal(onto.array(both.data), np.concatenate(expected))
    moved = grid.affine.copy()
    moved[:3, 3] += 1
    write_volume(tmp_path / "b.nii", Volume(other, Geometry(SHAPE, moved)))
    with pytest.raises(GeometryError, match="differs"):
        read_volumes([tmp_path / "s", tmp_path / "b.nii"])


def test_pydicom_alone_leads_to_the_same_places(tmp_path: Path) -> None:
    data, grid = values(), oblique(shear=0.3)  # a gantry tilt of 17 degrees
    written(tmp_path / "s", data, grid, "MR")
    numbers = []
    for path in sorted((tmp_path / "s").iterdir()):
        one = pydicom.dcmread(path)
        numbers.append(one.InstanceNumber)
        row, column = np.array(one.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = one.PixelSpacing
        for x, y in ((0, 0), (one.Columns - 1, one.Rows - 1), (3, 2)):
            lps = np.array(one.ImagePositionPatient, float) + row * between_columns * x + column * between_rows * y
            index = grid.to_voxel(lps * [-1, -1, 1])
            np.testing.assert_allclose(index, index.round(), atol=1e-6)
            assert one.pixel_array[y, x] == data[(0, *index.round().astype(int))]
    assert numbers == [1, 2, 3, 4, 5]
    assert read_volume(tmp_path / "s").geometry.shear_degrees == pytest.approx(grid.shear_degrees, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shear_between_any_two_axes_is_kept(axis: int, tmp_path: Path) -> None:
    affine = oblique().affine.copy()
    affine[:3, axis] += 0.2 * affine[:3, (axis + 1) % 3]
    data, grid = values(), Geometry(SHAPE, affine)
    written(tmp_path / "s", data, grid)
    back = read_volume(tmp_path / "s")
    onto = order_between(back.geometry, grid, 1e-6)
    assert onto is not None
    np.testing.assert_array_equal(onto.array(back.data), data)


def test_slices_are_shown_upright() -> None:
    for straight, shown in (("RAS", "LPS"), ("LPI", "LPS"), ("ASR", "PIR"), ("RSA", "LIP"), ("SRA", "LIP")):
        target = np.zeros((4, 4))
        for axis, letter in enumerate(straight):
            target["RLAPSI".index(letter) // 2, axis] = 1 if letter in "RAS" else -1
        target[3, 3] = 1
        orientation = series_of(OUT, values(), Geometry(SHAPE, target), "CT").geometry.orientation
        assert orientation[:2] == shown[:2]
        assert set(orientation[2]) <= set("LRAPIS")


@pytest.mark.parametrize(
    ("dtype", "low", "high", "stored"),
    [
        ("i2", -(2**15), 2**15, "int16"),
        ("u1", 0, 256, "int16"),
        ("u2", 0, 2**16, "uint16"),
        ("i4", -5, 65530, "uint16"),
        ("i4", 100_000, 160_000, "uint16"),
        ("i8", -1024, 3000, "int16"),
        ("f4", -1024, 3000, "int16"),
    ],
)
def test_whole_numbers_are_kept(dtype: str, low: int, high: int, stored: str, tmp_path: Path) -> None:
    data = values(dtype, low, high)
    data[0, 0, 0, :2] = low, high - 1
    series = written(tmp_path / "s", data, oblique())
    assert (series.rounding, str(series.stored.dtype)) == (0, stored)
    back = read_volume(tmp_path / "s")
    onto = order_between(back.geometry, oblique())
    assert onto is not None
    np.testing.assert_array_equal(onto.array(back.data), data)


def test_multiples_of_one_slope_are_kept_to_the_last_bit(tmp_path: Path) -> None:
    data = (values() * 0.3).astype(np.float32)
    series = written(tmp_path / "s", data, oblique(), "MR")
    assert (series.rounding, series.intercept) == (0, 0)
    back = read_volume(tmp_path / "s")
    onto = order_between(back.geometry, oblique())
    assert onto is not None
    np.testing.assert_array_equal(onto.array(back.data), data)


def test_fractions_are_rounded_to_65536_levels_and_it_is_said_by_how_much(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(0, 3, (1, *SHAPE)).astype(np.float32)
    series = written(tmp_path / "s", data, oblique(), "MR")
    level = (data.max() - data.min()) / 65535
    assert 0 < series.rounding <= level * 0.5001
    back = read_volume(tmp_path / "s")
    onto = order_between(back.geometry, oblique())
    assert onto is not None
    assert np.abs(onto.array(back.data) - data).max() <= series.rounding + 1e-6


def test_there_is_no_patient_and_every_identifier_is_new(tmp_path: Path) -> None:
    files = []
    for name in "ab":
        written(tmp_path / name, values(), oblique())
        files += [pydicom.dcmread(path) for path in (tmp_path / name).iterdir()]
    for one in files:
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
            assert not one[keyword].value
        assert (one.BurnedInAnnotation, one.PatientIdentityRemoved, one.Modality) == ("NO", "YES", "CT")
        assert one.SOPInstanceUID == one.file_meta.MediaStorageSOPInstanceUID
        assert one.preamble == bytes(128)
    assert len({one.SOPInstanceUID for one in files}) == len(files)
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        uids = {one[keyword].value for one in files}
        assert len(uids) == 2
        assert all(uid.startswith("2.25.") and uid.is_valid for uid in uids)


def test_a_zip_holds_the_same_series(tmp_path: Path) -> None:
    data = values()
    (tmp_path / "s.zip").write_bytes(zip_of(series_of(OUT, data, oblique(), "CT")))
    back = read_volume(tmp_path / "s.zip")
    onto = order_between(back.geometry, oblique(), 1e-6)
    assert onto is not None
    np.testing.assert_array_equal(onto.array(back.data), data)


def test_what_dicom_does_not_hold_is_refused_with_what_to_do() -> None:
    nothing = values(np.float32)
    nothing[0, 1, 1, 1] = np.nan
    far, crooked = oblique().affine.copy(), oblique().affine.copy()
    far[:3, 3] = 2e6
    crooked[:3, 1] += 0.2 * crooked[:3, 0]
    crooked[:3, 2] += 0.2 * crooked[:3, 0] + 0.2 * crooked[:3, 1]
    cases: tuple[tuple[np.ndarray, Geometry, Any, str], ...] = (
        (np.concatenate([values(), values()]), oblique(), DataError, "2 channels"),
        (nothing, oblique(), DataError, "NaN"),
        (values()[..., :1], Geometry((9, 7, 1), oblique().affine), DataError, "one slice"),
        (values(), Geometry(SHAPE, far), GeometryError, "beyond 1 km"),
        (values(), Geometry(SHAPE, crooked), GeometryError, "right angles"),
    )
    for data, grid, error, words in cases:
        with pytest.raises(error, match=words) as caught:
            series_of(OUT, data, grid, "CT")
        assert str(caught.value).startswith("out: ")
        assert "NIfTI" in str(caught.value)
