"""Writing NIfTI: nibabel and SimpleITK read back the voxels, the place and the structure names."""

import gzip
import hashlib
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from medseg.core.errors import ConfigError, DataError, OutputError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.io.nifti import label_names_from_nifti, write_label_map, write_volume
from medseg.io.reading import read_label_map, read_volume
from tests.io.made_nifti import OBLIQUE, SHAPE

LABELS = Labels.from_mapping({"background": 0, "liver": 1, 'tumour & <cyst> ]]> "x"': 2, "Niere links": 300})
SMALL = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 2})


def label_map(affine: np.ndarray = OBLIQUE, labels: Labels | None = SMALL, largest: int = 2) -> LabelMap:
    data = np.random.default_rng(1).integers(0, largest + 1, SHAPE).astype(np.uint16)
    return LabelMap(data, Geometry(SHAPE, affine), labels)


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz", "M.NII.GZ"])
@pytest.mark.parametrize("seed", range(6))
def test_two_readers_put_the_mask_where_it_was(seed: int, name: str, tmp_path: Path) -> None:
    rotation = Rotation.random(random_state=seed).as_matrix() * [0.7, 1.3 * (-1) ** seed, 4.0]
    mask = label_map(nib.affines.from_matvec(rotation, [-100.0, 33.0, 912.5]))
    write_label_map(tmp_path / name, mask)
    image = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), mask.data)
    for affine in (image.affine, image.get_qform(), image.get_sform()):
        assert Geometry(SHAPE, affine).corner_shift(mask.geometry) < 0.01
    peer = SimpleITK.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(peer).T, mask.data)
    world = np.array(peer.TransformIndexToPhysicalPoint((23, 19, 15))) * [-1, -1, 1]
    np.testing.assert_allclose(world, mask.geometry.to_world((23, 19, 15)), atol=1e-2)


def test_the_header_says_label_millimetres_scanner_and_nothing_else(tmp_path: Path) -> None:
    write_label_map(tmp_path / "m.nii.gz", label_map())
    header = nib.load(tmp_path / "m.nii.gz").header
    assert header.get_data_dtype() == np.uint8
    assert int(header["intent_code"]) == 1002
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    raw = np.frombuffer(gzip.decompress((tmp_path / "m.nii.gz").read_bytes())[:348], nib.Nifti1Header.template_dtype)[0]
    assert [raw[field].item() for field in ("descrip", "db_name", "aux_file", "intent_name")] == [b""] * 4
    assert (raw["scl_slope"], raw["scl_inter"], raw["magic"].item()) == (1, 0, b"n+1")


def test_the_type_follows_the_values_and_the_names(tmp_path: Path) -> None:
    cases = (
        (label_map(), np.uint8),
        (label_map(labels=LABELS), np.uint16),
        (label_map(labels=None, largest=256), np.uint16),
    )
    for mask, dtype in cases:
        write_label_map(tmp_path / "m.nii", mask)
        assert nib.load(tmp_path / "m.nii").get_data_dtype() == dtype


def test_names_and_colours_are_read_as_totalsegmentator_reads_them(tmp_path: Path) -> None:
    write_label_map(tmp_path / "m.nii.gz", label_map(labels=LABELS))
    extension = nib.load(tmp_path / "m.nii.gz").header.extensions[0]
    assert extension.get_code() == 0
    root = ElementTree.fromstring(extension.get_content())
    assert root.tag == "CaretExtension"
    rows = root.find("VolumeInformation/LabelTable").findall("Label")
    assert {row.text: int(row.get("Key")) for row in rows} == dict(zip(LABELS.names, LABELS.values, strict=True))
    assert [float(rows[0].get(c)) for c in ("Red", "Green", "Blue")] == pytest.approx(
        [0xD5 / 255, 0x5E / 255, 0], abs=1e-5
    )
    assert label_names_from_nifti(tmp_path / "m.nii.gz") == {s.name: s.value for s in LABELS.structures}


def test_names_that_totalsegmentator_wrote_are_read(real_data: Path) -> None:
    names = label_names_from_nifti(real_data / "totalseg_dicom" / "seg_reference.nii.gz")
    assert names is not None
    assert (names["spleen"], names["liver"]) == (1, 5)
    assert label_names_from_nifti(next((real_data / "sct_testing" / "labels").glob("*.nii.gz"))) is None


def test_an_xml_bomb_in_the_header_is_no_label_table(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa">]><CaretExtension><Label Key="1">&a;</Label></CaretExtension>'
    image.header.extensions.append(nib.nifti1.Nifti1Extension(0, bomb))
    nib.save(image, tmp_path / "m.nii")
    assert label_names_from_nifti(tmp_path / "m.nii") is None


def test_equal_masks_are_equal_bytes_and_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    first = write_label_map(tmp_path / "a.nii.gz", label_map())
    assert write_label_map(tmp_path / "other name.nii.gz", label_map()) == first
    assert hashlib.sha256((tmp_path / "a.nii.gz").read_bytes()).hexdigest() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "other name.nii.gz"]


def test_reading_back_gives_the_same_label_map_in_every_storage_order(tmp_path: Path) -> None:
    for order in all_storage_orders():
        mask = label_map().reordered(order)
        write_label_map(tmp_path / "m.nii", mask)
        back = read_label_map(tmp_path / "m.nii", SMALL)
        np.testing.assert_array_equal(back.data, mask.data)
        assert mask.geometry.corner_shift(back.geometry) < 0.01


def test_a_sheared_grid_has_no_qform(tmp_path: Path) -> None:
    affine = OBLIQUE.copy()
    affine[0, 1] += 0.2
    write_label_map(tmp_path / "m.nii", label_map(affine))
    image = nib.load(tmp_path / "m.nii")
    assert int(image.header["qform_code"]) == 0
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)


def test_what_nifti_1_cannot_hold_becomes_nifti_2(tmp_path: Path) -> None:
    far = Geometry((3, 3, 3), nib.affines.from_matvec(np.eye(3) * 0.01, [9e5 + 0.013] * 3))
    long = Geometry((40000, 1, 1), np.eye(4))
    for geometry in (far, long):
        write_label_map(tmp_path / "m.nii.gz", LabelMap(np.ones(geometry.shape, np.uint8), geometry, SMALL))
        image = nib.load(tmp_path / "m.nii.gz")
        assert isinstance(image, nib.Nifti2Image)
        assert Geometry(geometry.shape, image.affine).corner_shift(geometry) < 0.01
        assert read_label_map(tmp_path / "m.nii.gz").geometry.corner_shift(geometry) < 0.01


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8, np.float64])
def test_a_volume_keeps_its_type_and_channels(dtype: type, tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(0, 60, (2, *SHAPE)).astype(dtype)
    write_volume(tmp_path / "v.nii.gz", Volume(data, Geometry(SHAPE, OBLIQUE)))
    image = nib.load(tmp_path / "v.nii.gz")
    assert image.get_data_dtype() == dtype
    assert int(image.header["intent_code"]) == 0
    np.testing.assert_array_equal(np.asanyarray(image.dataobj), np.moveaxis(data, 0, 3))
    write_volume(tmp_path / "one.nii.gz", Volume(data[:1], Geometry(SHAPE, OBLIQUE)))
    assert nib.load(tmp_path / "one.nii.gz").shape == SHAPE
    np.testing.assert_allclose(read_volume(tmp_path / "v.nii.gz").data, data, rtol=1e-6)


def test_what_is_no_label_map_or_no_nifti_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="suffix"):
        write_label_map(tmp_path / "m.mha", label_map())
    with pytest.raises(DataError, match="integers"):
        write_label_map(tmp_path / "m.nii", LabelMap(np.full(SHAPE, -1), Geometry(SHAPE, OBLIQUE)))
    with pytest.raises(DataError, match="integers"):
        write_label_map(tmp_path / "m.nii", LabelMap(np.full(SHAPE, 0.5), Geometry(SHAPE, OBLIQUE)))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_label_map(tmp_path / "file" / "m.nii.gz", label_map())
