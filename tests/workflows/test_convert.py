"""Convert: through every format and back a scan equals itself, and what a format cannot hold is said instead of lost."""

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from PIL import Image

import medseg
from medseg.core.errors import ConfigError, DataError, GeometryError, OutputError
from medseg.core.files import write_together
from medseg.core.geometry import Geometry, order_between
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.io.nifti import label_names_from_nifti, volume_files, write_label_map, write_volume
from medseg.io.reading import read_label_map, read_stored, read_volume
from medseg.io.scan import ReadOptions
from medseg.io.seg_nrrd import label_names_from_nrrd
from medseg.workflows.convert import convert
from tests.models.tiny_model import OBLIQUE, texture, write_scan

VOLUMES = ("b.nii", "b.nii.gz", "b.hdr", "b.img", "b.nrrd", "b.nhdr", "b.mha", "b.mhd")
SERIES = ("series/", "series", "series.zip")
LABELS = Labels.from_mapping({"background": 0, "liver": 1, "left kidney": 7})


def same(a: Path, b: Path, tolerance: float = 1e-5) -> bool:
    """Every voxel of ``a`` has the value of ``b`` in the same place, whatever the storage order."""
    first, second = read_volume(a), read_volume(b)
    order = order_between(first.geometry, second.geometry, tolerance)
    return order is not None and np.array_equal(order.array(first.data), second.data)


@pytest.mark.parametrize("there", [*VOLUMES, *SERIES])
def test_a_scan_through_every_format_and_back_equals_itself(there, tmp_path):
    scan = write_scan(tmp_path / "a.nii.gz")
    convert([scan], f"{tmp_path}/{there}", modality="MR")
    convert([tmp_path / there], tmp_path / "back.nii.gz")
    assert same(tmp_path / "back.nii.gz", scan)
    assert read_stored([tmp_path / "back.nii.gz"]).data.dtype == np.int16
    assert read_volume(tmp_path / "back.nii.gz").geometry.orientation or there


@pytest.mark.parametrize("there", VOLUMES)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f4", "f8"])
def test_the_type_and_the_last_bit_of_each_value_are_kept(dtype, there, tmp_path):
    data = (np.random.default_rng(0).normal(60, 20, (2, 4, 5, 6)).clip(0, 200) * 1.000000123).astype(dtype)
    grid = Geometry((4, 5, 6), OBLIQUE)
    write_together(volume_files(tmp_path / "a.nii", data, grid))
    convert([tmp_path / "a.nii"], tmp_path / there)
    back = read_stored([tmp_path / there])
    assert back.data.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(back.data, data)
    assert back.geometry.corner_shift(grid) < 1e-5


@pytest.mark.parametrize("suffix", ["hdr", "nii", "nii.gz"])
def test_nibabel_reads_what_is_written(suffix, tmp_path):
    scan = write_scan(tmp_path / "a.mha.nii")
    convert([scan], tmp_path / f"b.{suffix}")
    image, truth = nib.load(tmp_path / f"b.{suffix}"), nib.load(scan)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), np.asanyarray(truth.dataobj))
    for affine in (image.affine, image.get_qform(), image.get_sform()):
        np.testing.assert_allclose(affine, truth.affine, atol=1e-4)


def test_a_sheared_grid_goes_through_dicom_and_is_refused_where_it_has_no_room(tmp_path):
    affine = OBLIQUE.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    write_volume(tmp_path / "a.nii.gz", Volume(texture()[None], Geometry((14, 12, 10), affine)))
    convert([tmp_path / "a.nii.gz"], f"{tmp_path}/tilted/", modality="CT")
    convert([tmp_path / "tilted"], tmp_path / "b.nii.gz")
    assert same(tmp_path / "b.nii.gz", tmp_path / "a.nii.gz")
    for name in ("b.nrrd", "b.mha"):
        with pytest.raises(GeometryError, match=rf"{name}: .*sheared.*NIfTI"):
            convert([tmp_path / "a.nii.gz"], tmp_path / name)


def test_scaled_values_are_written_as_they_are_meant(tmp_path):
    stored = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    for slope, inter, dtype in ((2.0, -1024.0, np.int16), (0.1, 0.5, np.float64), (0.5, 0.0, np.float32)):
        header = nib.Nifti1Image(stored, OBLIQUE).header
        header.set_slope_inter(slope, inter)
        header.set_xyzt_units("mm")
        header.set_data_dtype(np.int16)
        raw = bytearray(nib.Nifti1Image(stored, OBLIQUE, header).to_bytes())
        raw[112:120] = np.array([slope, inter], "<f4").tobytes()
        (tmp_path / "a.nii").write_bytes(raw)
        done = convert([tmp_path / "a.nii"], tmp_path / "b.nrrd", force=True)
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "b.nrrd"))).T
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, stored * np.float64(np.float32(slope)) + np.float64(np.float32(inter)))
        assert "scaled on disk" in done.notes[-1]


def test_fractions_in_dicom_are_told(tmp_path):
    noise = np.random.default_rng(0).normal(size=(1, 14, 12, 10)).astype(np.float32)
    write_volume(tmp_path / "a.nii", Volume(noise, Geometry((14, 12, 10), OBLIQUE)))
    done = convert([tmp_path / "a.nii"], tmp_path / "series", modality="MR")
    assert "off by at most" in done.notes[-1]


def test_several_files_become_channels_that_dicom_and_pictures_refuse(tmp_path):
    scans = [write_scan(tmp_path / "a.nii"), write_scan(tmp_path / "b.nii", texture(seed=1).astype(np.float32))]
    convert([scans[1]], tmp_path / "b.mha")
    done = convert([scans[0], tmp_path / "b.mha"], tmp_path / "both.nrrd")
    assert (done.channels, done.dtype) == (2, "float32")
    np.testing.assert_array_equal(read_volume(tmp_path / "both.nrrd").data, [texture(), texture(seed=1)])
    with pytest.raises(DataError, match=r"2 channels.*one by one"):
        convert(scans, tmp_path / "series", modality="MR")


def test_the_kind_of_dicom_image_is_the_sources_or_is_asked_for(tmp_path):
    scan = write_scan(tmp_path / "a.nii.gz")
    with pytest.raises(ConfigError, match="--modality CT or --modality MR"):
        convert([scan], tmp_path / "series")
    convert([scan], tmp_path / "series", modality="CT")
    convert([tmp_path / "series"], tmp_path / "again.zip")
    with zipfile.ZipFile(tmp_path / "again.zip") as archive, archive.open(archive.namelist()[0]) as one:
        assert pydicom.dcmread(one).Modality == "CT"


def test_one_axial_slice_becomes_a_picture_and_what_it_loses_is_told(tmp_path):
    data = (texture((14, 12, 2))[:, :, :1] // 8 + 100).clip(0, 255).astype(np.uint8)
    write_scan(tmp_path / "a.nii", data, np.diag([0.5, 0.5, 4.0, 1.0]))
    for name in ("a.png", "a.tif"):
        done = convert([tmp_path / "a.nii"], tmp_path / name)
        assert "0.5 x 0.5 mm are read back as 1 x 1 mm" in done.notes[-1]
        np.testing.assert_array_equal(np.array(Image.open(tmp_path / name)), data[::-1, ::-1, 0].T)
    for name in ("b.nii.gz", "b.mha", "b.tif"):
        convert([tmp_path / "a.png"], tmp_path / name)
        assert same(tmp_path / name, tmp_path / "a.png")


def test_what_a_picture_does_not_hold_is_refused(tmp_path):
    write_scan(tmp_path / "a.nii", texture((14, 12, 2))[:, :, :1], np.diag([-1.0, -1, 1, 1]))
    with pytest.raises(DataError, match=r"a\.png: .*int16 from -\d+.*NIfTI.*or \.tif"):
        convert([tmp_path / "a.nii"], tmp_path / "a.png")
    assert convert([tmp_path / "a.nii"], tmp_path / "a.tif").dtype == "int16"
    assert same(tmp_path / "a.tif", tmp_path / "a.nii")
    write_scan(tmp_path / "v.nii")
    with pytest.raises(GeometryError, match="10 slices"):
        convert([tmp_path / "v.nii"], tmp_path / "v.png")
    with pytest.raises(ConfigError, match="unknown suffix"):
        convert([tmp_path / "v.nii"], tmp_path / "v.jpg")


def label_map(shape=(14, 12, 10), affine=OBLIQUE) -> LabelMap:
    data = np.random.default_rng(0).choice([0, 1, 7], shape).astype(np.uint8)
    return LabelMap(data, Geometry(shape, affine), LABELS)


def test_a_label_map_keeps_its_values_and_names(tmp_path):
    write_label_map(tmp_path / "a.nii.gz", label_map())
    convert([tmp_path / "a.nii.gz"], tmp_path / "b.seg.nrrd")  # the header says that it is one
    assert label_names_from_nrrd(tmp_path / "b.seg.nrrd") == {"liver": 1, "left kidney": 7}
    convert([tmp_path / "b.seg.nrrd"], tmp_path / "c.nii.gz")
    assert label_names_from_nifti(tmp_path / "c.nii.gz") == {"liver": 1, "left kidney": 7}
    assert int(nib.load(tmp_path / "c.nii.gz").header["intent_code"]) == 1002
    np.testing.assert_array_equal(read_label_map(tmp_path / "c.nii.gz").data, label_map().data)
    done = convert([tmp_path / "c.nii.gz"], tmp_path / "d.mha")
    assert "no room" in done.notes[-1]
    np.testing.assert_array_equal(read_label_map(tmp_path / "d.mha").data, label_map().data)


def test_a_seg_nrrd_of_a_scan_without_names_names_the_values_and_of_an_intensity_scan_is_refused(tmp_path):
    write_scan(tmp_path / "a.nii", label_map().data)
    convert([tmp_path / "a.nii"], tmp_path / "b.seg.nrrd")
    assert label_names_from_nrrd(tmp_path / "b.seg.nrrd") == {"label 1": 1, "label 7": 7}
    with pytest.raises(DataError, match="label map values must not be negative"):
        convert([write_scan(tmp_path / "ct.nii")], tmp_path / "c.seg.nrrd")


def test_names_are_given_by_a_file_and_unknown_values_refused(tmp_path):
    write_scan(tmp_path / "a.nii", label_map().data.astype(np.float32))
    (tmp_path / "l.json").write_text('{"labels": {"liver": 1, "spleen": 7}}')
    convert([tmp_path / "a.nii"], tmp_path / "b.nii.gz", labels=tmp_path / "l.json")
    assert label_names_from_nifti(tmp_path / "b.nii.gz") == {"liver": 1, "spleen": 7}
    (tmp_path / "l.json").write_text('{"labels": {"liver": 1}}')
    with pytest.raises(DataError, match="label value 7"):
        convert([tmp_path / "a.nii"], tmp_path / "c.nii.gz", labels=tmp_path / "l.json")
    assert convert([tmp_path / "a.nii"], tmp_path / "d.nii.gz", label=True).dtype == "uint8"
    assert not (tmp_path / "c.nii.gz").exists()


def test_a_flat_label_map_becomes_a_palette_picture_and_back(tmp_path):
    flat = label_map((14, 12, 1), np.diag([-1.0, -1, 1, 1]))
    write_label_map(tmp_path / "a.nii.gz", flat)
    convert([tmp_path / "a.nii.gz"], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    convert([tmp_path / "a.png"], tmp_path / "b.nii.gz", label=True)
    np.testing.assert_array_equal(read_label_map(tmp_path / "b.nii.gz").data, flat.data)
    with pytest.raises(ConfigError, match="no DICOM image"):
        convert([tmp_path / "a.nii.gz"], tmp_path / "series")


@pytest.mark.parametrize("name", ["b.nii.gz", "b.hdr", "b.img", "b.mhd", "b.zip", "series"])
def test_what_exists_is_replaced_by_force_only(name, tmp_path):
    scan = write_scan(tmp_path / "a.nii")
    convert([scan], tmp_path / name, modality="CT")
    before = sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file())
    with pytest.raises(OutputError, match="exists already"):
        convert([scan], tmp_path / name, modality="CT")
    assert sorted((p, p.read_bytes()) for p in tmp_path.rglob("*") if p.is_file()) == before
    write_scan(scan, texture(seed=5))
    convert([scan], tmp_path / name, modality="CT", force=True)
    assert same(tmp_path / name, scan)


def test_a_folder_with_anything_else_in_it_is_never_replaced(tmp_path):
    scan = write_scan(tmp_path / "a.nii")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match="holds other files"):
        convert([scan], tmp_path / "home", modality="CT", force=True)
    (tmp_path / "empty").mkdir()
    convert([scan], tmp_path / "empty", modality="CT")
    assert (tmp_path / "home" / "thesis.txt").read_text() == "precious"


def test_the_scan_itself_is_never_overwritten(tmp_path):
    scan = write_scan(tmp_path / "a.nii")
    convert([scan], tmp_path / "p.hdr")
    convert([scan], tmp_path / "series", modality="CT")
    (tmp_path / "link.nii").symlink_to(scan)
    for source, output in ((scan, "a.nii"), (scan, "link.nii"), (tmp_path / "p.hdr", "p.img")):
        with pytest.raises(OutputError, match="is the scan itself"):
            convert([source], tmp_path / output, force=True)
    for output in ("series", "series/deeper"):
        with pytest.raises(OutputError, match="scan"):
            convert([tmp_path / "series"], tmp_path / output, force=True)


def test_a_refused_or_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    scan = write_scan(tmp_path / "a.nii")
    monkeypatch.setattr("medseg.io.dicom_write._decimals", lambda values: ["0.1"] * len(values))
    with pytest.raises(DataError):
        convert([scan], tmp_path / "deep" / "series", modality="CT")
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["a.nii"]
    with pytest.raises(DataError, match="not found"):
        convert([tmp_path / "none.nii"], tmp_path / "b.nii")
    with pytest.raises(ConfigError, match="no scan"):
        convert([], tmp_path / "b.nii")


def test_what_a_killed_conversion_left_is_cleared_away_and_the_old_series_brought_back(tmp_path):
    scan = write_scan(tmp_path / "a.nii")
    convert([scan], tmp_path / "series", modality="CT")
    dead = 2**22 + 1  # beyond the process numbers of Linux
    (tmp_path / "series").rename(tmp_path / f".series.{dead}.old.tmp")
    (tmp_path / f".series.{dead}.tmp").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        convert([scan], tmp_path / "series", modality="CT")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii", "series"]
    assert same(tmp_path / "series", scan)


def test_of_several_series_the_asked_one_is_converted(tmp_path):
    for n, name in enumerate("ab"):
        convert([write_scan(tmp_path / f"{name}.nii", texture(seed=n))], tmp_path / "study" / name, modality="MR")
    with pytest.raises(DataError, match="--series"):
        convert([tmp_path / "study"], tmp_path / "c.nii.gz")
    uid = pydicom.dcmread(tmp_path / "study" / "b" / "slice_0001.dcm").SeriesInstanceUID
    convert([tmp_path / "study"], tmp_path / "c.nii.gz", options=ReadOptions(series=uid))
    assert same(tmp_path / "c.nii.gz", tmp_path / "b.nii")


@pytest.mark.parametrize("name", ["two\nlines", "caf\udce9", "-x", "100%", "a b [1]"])
def test_odd_names_are_only_names(name, tmp_path):
    scan = write_scan(tmp_path / f"{name}.nii")
    for there in (f"{name}.nrrd", f"{name}.hdr", name, f"{name}.zip"):
        convert([scan], tmp_path / there, modality="CT")
        convert([tmp_path / there], tmp_path / "back.nii.gz", force=True) if ".nrrd" not in there else None
        assert ".nrrd" in there or same(tmp_path / "back.nii.gz", scan)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    scan = write_scan(tmp_path / "a.nii")
    for name in ("x" * 300, "x" * 300 + ".nii", "x" * 300 + "/"):
        with pytest.raises(OutputError):
            convert([scan], f"{tmp_path}/{name}", modality="CT")
    with pytest.raises(DataError):
        convert([tmp_path / ("x" * 300 + ".nii")], tmp_path / "b.nii")


def test_convert_is_public():
    assert medseg.convert is convert


REAL = (
    ("totalseg_ct/images/ct_sm.nii.gz", "series", "CT"),
    ("totalseg_ct/images/mr_sm.nii.gz", "b.mha", None),
    ("sct_testing/images", "series.zip", "MR"),
    ("pyradiomics/images", "b.nii.gz", None),
    ("hippocampus_dicom/Study1", "again", None),
    ("dicom_qa/geometry_ok/generic_nonisotropic", "b.mhd", None),
    ("membrane2d/images", "b.tif", None),
)


@pytest.mark.parametrize(("source", "there", "modality"), REAL, ids=[row[0] for row in REAL])
def test_real_scans_come_back_as_they_were(source, there, modality, tmp_path, real_data):
    place = real_data / source
    scan = (
        sorted(p for p in place.iterdir() if p.suffix in (".gz", ".nrrd", ".png"))[0]
        if place.name == "images"
        else place
    )
    convert([scan], tmp_path / there, modality=modality)
    convert([tmp_path / there], tmp_path / "back.nii.gz")
    assert same(tmp_path / "back.nii.gz", scan, 1e-3)
