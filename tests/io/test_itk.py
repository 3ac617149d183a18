"""MetaImage and NRRD: the same place as the same scan in NIfTI, and as SimpleITK says."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from medseg.core.errors import DataError
from medseg.io.reading import read_label_map, read_volume
from tests.io.bad_raster import itk_image
from tests.io.made_nifti import MARKER, SHAPE, scan


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_a_random_grid_is_the_one_that_nifti_has(seed: int, compressed: bool, suffix: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    rotation = Rotation.random(random_state=seed).as_matrix() * rng.uniform(0.4, 5, 3) * [1, (-1) ** seed, 1]
    affine = nib.affines.from_matvec(rotation, rng.uniform(-300, 300, 3))
    path = tmp_path / f"scan{suffix}"
    SimpleITK.WriteImage(itk_image(affine=affine), str(path), compressed)
    volume = read_volume(path)
    assert volume.data.shape == (1, *SHAPE)
    np.testing.assert_array_equal(volume.data[0], scan())
    np.testing.assert_allclose(volume.geometry.to_world(MARKER), affine[:3] @ [*MARKER, 1], atol=1e-3)
    nifti = tmp_path / "scan.nii.gz"
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(nifti))
    assert volume.geometry.corner_shift(read_volume(nifti).geometry) < 1e-3


def test_real_nrrds_read_as_simpleitk_reads_them(real_data: Path, tmp_path: Path) -> None:
    paths = sorted((real_data / "pyradiomics").rglob("*.nrrd"))
    assert len(paths) == 10
    for path in paths:
        peer = SimpleITK.ReadImage(str(path))
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.data[0], SimpleITK.GetArrayFromImage(peer).T)
        for corner in ((0, 0, 0), tuple(n - 1 for n in peer.GetSize())):
            world = np.array(peer.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
            np.testing.assert_allclose(volume.geometry.to_world(corner), world, atol=1e-6)
        SimpleITK.WriteImage(peer, str(tmp_path / "same.nii"))
        assert read_volume(tmp_path / "same.nii").geometry.corner_shift(volume.geometry) < 1e-3


def test_a_real_nrrd_label_map_keeps_its_values(real_data: Path) -> None:
    labels = read_label_map(real_data / "pyradiomics" / "labels" / "prostate_phantom.nrrd")
    assert labels.data.dtype == np.uint8
    assert np.unique(labels.data).tolist() == [0, 1, 7, 8, 9]


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_components_become_channels(suffix: str, tmp_path: Path) -> None:
    data = np.stack([scan(), scan() + 1])  # (C, I, J, K)
    image = SimpleITK.GetImageFromArray(data.transpose(3, 2, 1, 0), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"))
    np.testing.assert_array_equal(read_volume(tmp_path / f"scan{suffix}").data, data)


def test_metadata_of_any_name_does_not_disturb_the_header(tmp_path: Path) -> None:
    image = itk_image()
    image.SetMetaData("0008|0060", "CT")
    image.SetMetaData("Segment0_Name", "liver: = left")
    for suffix in (".mha", ".nrrd"):
        SimpleITK.WriteImage(image, str(tmp_path / f"scan{suffix}"))
        assert read_volume(tmp_path / f"scan{suffix}").data[(0, *MARKER)] == 120


def test_a_grid_without_directions_gets_a_warning(tmp_path: Path) -> None:
    header = "NDims = 3\nDimSize = 24 20 16\nElementSpacing = 1 1 2\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    (tmp_path / "scan.mha").write_bytes(header.encode() + scan().T.tobytes())
    volume = read_volume(tmp_path / "scan.mha")
    assert "directions" in volume.warnings[0]
    np.testing.assert_array_equal(volume.data[0], scan())
    header = "NRRD0004\ntype: short\ndimension: 3\nsizes: 24 20 16\nspacings: 1 1 2\nendian: little\nencoding: raw\n\n"
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + scan().T.tobytes())
    assert "space" in read_volume(tmp_path / "scan.nrrd").warnings[0]


def test_a_small_file_that_opens_to_a_gigabyte_is_refused(tmp_path: Path) -> None:
    SimpleITK.WriteImage(SimpleITK.Image(1024, 1024, 300, SimpleITK.sitkUInt8), str(tmp_path / "scan.nrrd"), True)
    with pytest.raises(DataError, match="too large"):
        read_volume(tmp_path / "scan.nrrd")
    assert read_label_map(tmp_path / "scan.nrrd").data.max() == 0  # an almost empty label map is honestly so small


def test_a_name_that_is_not_utf8_is_refused_in_words(tmp_path: Path) -> None:
    SimpleITK.WriteImage(itk_image(), str(tmp_path / "scan.mha"))
    (tmp_path / "scan.mha").rename(tmp_path / "scan\udcff.mha")
    with pytest.raises(DataError, match="not UTF-8"):
        read_volume(tmp_path / "scan\udcff.mha")
