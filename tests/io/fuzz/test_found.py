"""What fuzzing found, each kind once."""

import re
from collections.abc import Callable
from pathlib import Path

import gdcm
import pytest

from medseg.core.errors import DataError
from medseg.io.reading import read_volume
from tests.io.bad_dicom import INTERCEPT, every, put, save, series
from tests.io.bad_dicom_file import gdcm_compressed
from tests.io.bad_raster import edited, saved
from tests.io.made_nifti import Made

MHA, NRRD = "scan.mha", "scan.nrrd"


def _pushed(name: str) -> Callable[[Path], Made]:
    """Two bytes put into the voxels: all behind them lie a voxel further on."""

    def make(folder: Path) -> Made:
        path = saved(name)(folder).path
        raw = path.with_suffix(".raw") if path.with_suffix(".raw").exists() else path
        content = raw.read_bytes()
        raw.write_bytes(content[:-500] + b"\1\2" + content[-500:])
        return Made(path)

    return make


def _packed_size(line: bytes) -> Callable[[Path], Made]:
    """ITK goes by this size alone: of a wrong one, or none, it makes voxels of whatever lies in its memory."""

    def make(folder: Path) -> Made:
        path = saved(MHA, compressed=True)(folder).path
        path.write_bytes(re.sub(rb"CompressedDataSize = \d+", line, path.read_bytes()))
        return Made(path)

    return make


KINDS: dict[str, tuple[Callable[[Path], Made], str]] = {
    "two names of the origin": (edited(MHA, "Offset", "Offset = 1 2 3\nOrigin = 4 5 6"), "names of one field"),
    "two names of the matrix": (edited(MHA, "Offset", "Rotation = 0 1 0 1 0 0 0 0 1"), "names of one field"),
    "a byte order that is no flag": (
        edited(MHA, "BinaryDataByteOrder", "BinaryDataByteOrderMSB = 1e9"),
        "expected True",
    ),
    "a compression that is no flag": (edited(MHA, "CompressedData", "CompressedData = Tnot"), "expected True"),
    "a no-break space, which is part of the word to ITK": (
        edited(MHA, "ElementSpacing", "ElementSpacing\u00a0= 9 9 9"),
        "not understood",
    ),
    "a no-break space in a number": (
        edited(MHA, "ElementSpacing", "ElementSpacing = 9\u00a09 9 9"),
        "must hold numbers",
    ),
    "an origin of two numbers": (edited(MHA, "Offset", "Offset = 31 -17.5"), "Offset hold 3 numbers"),
    "a matrix of eight numbers": (
        edited(MHA, "TransformMatrix", "TransformMatrix = 1 0 0 0 1 0 0 0"),
        "hold 9 numbers",
    ),
    "a comma for a point": (edited(MHA, "Offset", "Offset = 1,5 2 3"), "must hold numbers"),
    "an NRRD origin of four parts": (
        edited(NRRD, "space origin", "space origin: (31,-17.5 1.5,240)"),
        "must hold numbers",
    ),
    "an NRRD origin of two numbers": (edited(NRRD, "space origin", "space origin: (31,-17.5)"), "hold 3 numbers"),
    "two NRRD origins": (edited(NRRD, "space origin", "space origin: (1,2,3) (1,2,4)"), "one vector"),
    "an NRRD origin without brackets": (edited(NRRD, "space origin", "space origin: 1,2,3"), "must hold vectors"),
    "an NRRD direction of two numbers": (
        edited(NRRD, "space directions", "space directions: (1,0,0) (0,1) (0,0,1)"),
        "hold 3 numbers",
    ),
    "a packed size that is not there": (_packed_size(b"Comment = none"), "CompressedDataSize"),
    "a packed size that is wrong": (_packed_size(b"CompressedDataSize = 300"), "CompressedDataSize is 300"),
    "a data file that is not there": (edited(MHA, "ElementDataFile", "ElementDataFile = nanLOCAL"), "not found beside"),
    "bytes put into an mha": (_pushed("scan.mha"), "trailing"),
    "bytes put into a raw": (_pushed("scan.mhd"), "trailing"),
    "bytes put into an nrrd": (_pushed("scan.nrrd"), "trailing"),
}


@pytest.mark.parametrize(("make", "words"), KINDS.values(), ids=KINDS)
def test_what_readers_take_in_two_ways_is_refused(make: Callable[[Path], Made], words: str, tmp_path: Path) -> None:
    path = make(tmp_path).path
    with pytest.raises(DataError, match=words) as refused:
        read_volume(path)
    assert str(refused.value).startswith(str(path.parent))


def test_a_high_bit_that_compressed_codes_do_not_have_is_refused(tmp_path: Path) -> None:
    def twelve_bits(folder: Path) -> None:
        save([put(d, BitsStored=12, HighBit=11) for d in series()[:3]], folder)

    gdcm_compressed(gdcm.TransferSyntax.JPEGLSLossless, twelve_bits)(tmp_path / "series")
    assert read_volume(tmp_path / "series").data.max() < 3072
    for path in (tmp_path / "series").iterdir():
        content = path.read_bytes()
        element = b"\x28\0\2\1US\2\0"
        assert content.count(element + b"\x0b\0") == 1
        path.write_bytes(content.replace(element + b"\x0b\0", element + b"\x0d\0"))
    with pytest.raises(DataError, match="HighBit 13"):
        read_volume(tmp_path / "series")


def test_a_high_bit_that_native_pixels_do_have_is_obeyed(tmp_path: Path) -> None:
    every(BitsStored=12, HighBit=13)(tmp_path)
    assert read_volume(tmp_path).data.max() == ((1000 - INTERCEPT) >> 2) + INTERCEPT


def test_a_blank_slope_beside_an_intercept_is_refused_and_two_blank_ones_are_none(tmp_path: Path) -> None:
    """GDCM takes a blank slope as 0, pydicom's users as 1."""
    every(RescaleSlope="")(tmp_path / "one")
    with pytest.raises(DataError, match="RescaleSlope must be one finite number"):
        read_volume(tmp_path / "one")
    every(RescaleSlope="", RescaleIntercept="")(tmp_path / "both")
    volume = read_volume(tmp_path / "both")
    assert volume.data.max() == 1000 - INTERCEPT
    assert "Hounsfield" in volume.warnings[0]
