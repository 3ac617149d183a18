"""NRRD and MetaImage as SimpleITK reads them: every voxel in its type and place, channels apart, in full precision."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from scipy.spatial.transform import Rotation

from medseg.core.errors import DataError, GeometryError
from medseg.core.files import write_together
from medseg.core.geometry import Geometry
from medseg.io.itk_write import itk_files
from medseg.io.reading import read_volume

SHAPE = (6, 5, 4)
SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
TYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def oblique(seed: int = 0) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() * [0.7, -1.3, 4.1]
    affine[:3, 3] = [-33.3, 1 / 3, 700.125]
    return Geometry(SHAPE, affine)


def written(path: Path, data: np.ndarray, geometry: Geometry) -> Any:
    write_together(itk_files(path, data, geometry))
    return SimpleITK.ReadImage(str(path))


def values(dtype: str, channels: int = 1) -> np.ndarray:
    return (np.random.default_rng(0).normal(0, 40, (channels, *SHAPE)) + 60).clip(0, 120).astype(dtype)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", TYPES)
def test_simpleitk_reads_each_type_in_its_place(dtype: str, suffix: str, tmp_path: Path) -> None:
    data, grid = values(dtype), oblique(TYPES.index(dtype))
    peer = written(tmp_path / f"s{suffix}", data, grid)
    found = SimpleITK.GetArrayFromImage(peer)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.T, data[0])
    for corner in ((0, 0, 0), (5, 4, 3), (5, 0, 3)):
        world = np.array(peer.TransformIndexToPhysicalPoint(corner)) * [-1, -1, 1]
        np.testing.assert_allclose(world, grid.to_world(corner), atol=1e-9)
    assert read_volume(tmp_path / f"s{suffix}").geometry.corner_shift(grid) < 1e-9


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_channels_are_components(suffix: str, tmp_path: Path) -> None:
    data = values("i2", 3)
    peer = written(tmp_path / f"s{suffix}", data, oblique())
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(peer).transpose(3, 2, 1, 0), data)
    np.testing.assert_array_equal(read_volume(tmp_path / f"s{suffix}").data, data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_the_formats_do_not_hold_is_refused_with_what_to_do(suffix: str) -> None:
    sheared = oblique().affine.copy()
    sheared[:3, 2] += 0.2 * sheared[:3, 1]
    path = Path(f"s{suffix}")
    for error, words, data, grid in (
        (GeometryError, "sheared by .* NIfTI", values("i2"), Geometry(SHAPE, sheared)),
        (DataError, "type float16.* NIfTI", values("f2"), oblique()),
        (DataError, "colour.* NIfTI", values("u1", 4), oblique()),
    ):
        with pytest.raises(error, match=words) as caught:
            itk_files(path, data, grid)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["two\nlines.mhd", "100%d.nhdr", "LIST.mhd", "caf\udce9.nhdr"])
def test_a_header_never_names_a_data_file_that_would_be_read_otherwise(name: str) -> None:
    with pytest.raises(DataError, match=r"write \.mha or \.nrrd"):
        itk_files(Path(name), values("i2"), oblique())
    assert len(itk_files(Path(name).with_suffix(".mha"), values("i2"), oblique())) == 1
