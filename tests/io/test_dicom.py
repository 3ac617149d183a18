"""Reading DICOM series: geometry against SimpleITK and hand-made truth, on real and made scans."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK

from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry, order_between
from medseg.core.volume import Volume
from medseg.io.dicom import read_dicom
from medseg.io.scan import ReadOptions
from tests.io import bad_dicom as make
from tests.io import bad_dicom_series

RESAMPLE = ReadOptions(on_gap="resample")


def by_simpleitk(files: list[Path]) -> Volume:
    """What SimpleITK's series reader makes of ``files``, in order, as RAS+ mm."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    data = SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0)
    return Volume(data[None], Geometry(data.shape, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine))


@pytest.mark.parametrize("seed", range(8))
def test_oblique_series_agree_with_simpleitk(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    angles = rng.uniform(-180, 180, 3)
    cosines = bad_dicom_series.rotated((angles[0], angles[1], angles[2]))
    corner = tuple(rng.uniform(-200, 200, 3))
    files = make.good(tmp_path, cosines=cosines, corner=corner)
    ours, theirs = read_dicom(tmp_path).volume, by_simpleitk(files)
    assert np.abs(ours.geometry.affine - theirs.geometry.affine).max() < 1e-5
    np.testing.assert_array_equal(ours.data, theirs.data)
    marker = ours.geometry.to_world(make.MARKER)
    assert marker == pytest.approx(make.marker_world(cosines, corner), abs=1e-5)


@pytest.mark.parametrize("name", ["ge_sag_PIR", "generic_nonisotropic", "jpeg2000", "philips_LIP", "rle"])
def test_real_series_equal_their_published_nifti(name: str, real_data: Path) -> None:
    folder = real_data / "dicom_qa" / "geometry_ok" / name
    reference = nib.load(folder / "reference.nii.gz")
    volume = read_dicom(folder / "dicom").volume
    order = order_between(volume.geometry, Geometry(reference.shape, reference.affine))
    assert order is not None
    stored = volume.reordered(order)
    assert np.abs(stored.geometry.affine - reference.affine).max() < 1e-3
    np.testing.assert_allclose(stored.data[0], np.asanyarray(reference.dataobj), rtol=1e-6)


def test_a_real_ct_without_series_uid_lies_on_the_grid_of_its_reference(real_data: Path) -> None:
    reference = nib.load(real_data / "totalseg_dicom" / "seg_reference.nii.gz")
    volume = read_dicom(real_data / "totalseg_dicom" / "dicom").volume
    assert order_between(volume.geometry, Geometry(reference.shape, reference.affine), 1e-3) is not None
    assert volume.data.dtype == np.int16
    assert -1100 < volume.data.min() < -900


def test_a_real_mr_agrees_with_simpleitk(real_data: Path) -> None:
    folder = real_data / "hippocampus_dicom" / "Study1"
    files = SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    ours, theirs = read_dicom(folder).volume, by_simpleitk([Path(file) for file in files])
    assert ours.geometry.orientation == "LPS"
    assert np.abs(ours.geometry.affine - theirs.geometry.affine).max() < 1e-6
    np.testing.assert_array_equal(ours.data, theirs.data)


def test_a_real_tilted_series_keeps_its_shear(real_data: Path) -> None:
    folder = real_data / "dicom_qa" / "must_refuse_or_handle" / "gantry_tilt_ct"
    scan = read_dicom(folder)
    headers = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    first, last = (np.array(headers[n].ImagePositionPatient, float) for n in (0, -1))
    row, column = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * headers[0].PixelSpacing[1], column * headers[0].PixelSpacing[0]
    lps[:3, 2], lps[:3, 3] = (last - first) / (len(headers) - 1), first
    np.testing.assert_allclose(scan.volume.geometry.affine, np.diag([-1, -1, 1, 1]) @ lps, atol=1e-6)
    assert scan.volume.geometry.shear_degrees == pytest.approx(14.0, abs=0.05)
    assert any("14.0 degrees (gantry tilt)" in line for line in scan.volume.warnings)
    assert scan.planes == tuple(range(len(headers)))
    for k, header in enumerate(headers):
        np.testing.assert_array_equal(scan.volume.data[0, :, :, k].T, _hounsfield(header))


def _hounsfield(header: pydicom.Dataset) -> np.ndarray:
    return header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)


def test_a_real_uneven_series_is_refused_naming_the_slices(real_data: Path) -> None:
    with pytest.raises(GeometryError, match=r"10 mm between IM-0001-0009-0001\.dcm.*--on-gap resample"):
        read_dicom(real_data / "dicom_qa" / "must_refuse_or_handle" / "slice_increment_ct_1")


def test_a_real_uneven_series_is_filled_in_where_asked(real_data: Path) -> None:
    folder = real_data / "dicom_qa" / "must_refuse_or_handle" / "slice_increment_ct_1"
    scan = read_dicom(folder, RESAMPLE)
    headers = sorted((pydicom.dcmread(file) for file in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    heights = [float(header.ImagePositionPatient[2]) for header in headers]
    assert scan.planes == (0, 1, 2, 4)
    assert scan.volume.geometry.spacing_mm[2] == pytest.approx(5)
    assert "1 of 5 slices were made" in scan.volume.warnings[0]
    for header, height, frame, plane in zip(headers, heights, scan.frames, scan.planes, strict=True):
        assert scan.volume.geometry.to_world((0, 0, plane))[2] == pytest.approx(height)
        assert frame.position[2] == pytest.approx(height)
        np.testing.assert_array_equal(scan.volume.data[0, :, :, plane].T, _hounsfield(header))
    between = (_hounsfield(headers[2]) + _hounsfield(headers[3])) / 2
    np.testing.assert_allclose(scan.volume.data[0, :, :, 3].T, between, atol=0.5)


def test_two_real_slices_make_a_grid_with_a_warning(real_data: Path) -> None:
    volume = read_dicom(real_data / "dicom_qa" / "must_refuse_or_handle" / "two_slices_mr").volume
    assert volume.geometry.spacing_mm == pytest.approx((1, 1, 1))
    assert "only two slices" in volume.warnings[0]


def test_a_slight_lean_and_a_real_tilt_are_both_kept_in_the_affine(tmp_path: Path) -> None:
    for name, lean, notes in (("slight", 0.002, 0), ("tilted", 0.02, 1), ("left", -0.9, 1)):
        step = (lean, 0, make.SLICE_MM)
        make.good(tmp_path / name, step=step)
        volume = read_dicom(tmp_path / name).volume
        assert volume.geometry.to_world(make.MARKER) == pytest.approx(make.marker_world(step=step), abs=1e-6)
        assert len(volume.warnings) == notes


def test_slices_shifted_by_more_than_any_gantry_tilts_are_refused(tmp_path: Path) -> None:
    make.good(tmp_path, step=(2.2, 0, make.SLICE_MM))
    with pytest.raises(GeometryError, match=r"shear of 47\.7 degrees"):
        read_dicom(tmp_path)


def test_rounded_positions_of_few_thin_slices_make_an_orthogonal_grid(tmp_path: Path) -> None:
    datasets = make.series(step=(0, 0, 0.5))[:3]
    make.put(datasets[2], ImagePositionPatient=["-30.01", "-50", "101"])
    make.save(datasets, tmp_path)
    affine = read_dicom(tmp_path).volume.geometry.affine
    np.testing.assert_allclose(affine[:3, 2], (0, 0, 0.5), atol=1e-9)


def test_positions_that_zigzag_are_refused(tmp_path: Path) -> None:
    def zigzag(datasets: list) -> None:
        for k, dataset in enumerate(datasets):
            x, y, z = dataset.ImagePositionPatient
            make.put(dataset, ImagePositionPatient=[str(x + (k in (4, 7)) * 1.5), str(y), str(z)])

    make.changed(zigzag)(tmp_path)
    with pytest.raises(GeometryError, match="do not lie on one line"):
        read_dicom(tmp_path)
