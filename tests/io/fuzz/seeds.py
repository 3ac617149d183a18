"""Small valid scans of every format: what is mutated."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gdcm
import nibabel as nib
import numpy as np
import SimpleITK
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tests.io import bad_dicom, bad_dicom_file
from tests.io.bad_nifti import big_endian, gz, shear
from tests.io.bad_raster import itk_image
from tests.io.bad_zip import packed
from tests.io.made_nifti import OBLIQUE, encoded, scan

SMALL = (7, 6, 5)


@dataclass(frozen=True)
class Seed:
    """``build`` writes the scan into a folder and returns what medseg is given; ``family`` says how it may be mutated.

    ``share``: of so many mutants of all kinds, how many are of this kind; what starts a decoder costs half a second.
    """

    family: str
    build: Callable[[Path], Path]
    share: int


def _small(dtype: str = "int16") -> np.ndarray:
    return scan(SMALL, (3, 2, 4), dtype)


def _file(name: str, content: Callable[[], bytes]) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        (folder / name).write_bytes(content())
        return folder / name

    return build


def _pair(folder: Path) -> Path:
    image = nib.Nifti1Pair(_small(), OBLIQUE)
    image.set_qform(OBLIQUE, 1)
    image.to_filename(folder / "scan.img")
    return folder / "scan.hdr"


def _itk(name: str, *, compressed: bool = False, dtype: str = "int16") -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        SimpleITK.WriteImage(itk_image(_small(dtype)), str(folder / name), compressed)
        return folder / name

    return build


def _slices(change: Callable[[bad_dicom.Dataset], object] = lambda d: None, **how: bool) -> Callable[[Path], Path]:
    """Four slices of the good series of the policy's tests."""

    def build(folder: Path) -> Path:
        datasets = bad_dicom.series()[6:10]
        for dataset in datasets:
            change(dataset)
        bad_dicom.save(datasets, folder / "series", **how)
        return folder / "series"

    return build


def _syntax(uid: str) -> Callable[[bad_dicom.Dataset], object]:
    return lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", uid)


def _swapped(dataset: bad_dicom.Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()


def _run_length(dataset: bad_dicom.Dataset) -> None:
    dataset.compress(RLELossless, generate_instance_uid=False)


def _bits12(dataset: bad_dicom.Dataset) -> None:
    bad_dicom.put(dataset, BitsStored=12, HighBit=11)


def _compressed(syntax: int, change: Callable[[bad_dicom.Dataset], object] = _bits12) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        make = _slices(change)
        bad_dicom_file.gdcm_compressed(syntax, lambda series: make(series.parent))(folder / "series")
        return folder / "series"

    return build


def _picture(name: str, mode: str) -> Callable[[Path], Path]:
    """A grey or coloured picture with soft edges, so that JPEG holds it."""

    def build(folder: Path) -> Path:
        rows, columns = np.mgrid[:13, :19]
        grey = 110 + 90 * np.sin(rows / 3) * np.cos(columns / 4)
        pixels = {"L": grey.astype(np.uint8), "I;16": (250 * grey).astype(np.uint16)}
        colours = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2).astype(np.uint8)
        Image.fromarray(pixels.get(mode, colours)).save(folder / name)
        return folder / name

    return build


def _zipped(folder: Path) -> Path:
    with tempfile.TemporaryDirectory() as inner:
        members = {f"study/{p.name}": p.read_bytes() for p in sorted(_slices()(Path(inner)).iterdir())}
    (folder / "scan.zip").write_bytes(packed(members))
    return folder / "scan.zip"


def _enhanced(folder: Path) -> Path:
    bad_dicom.save([bad_dicom_file.enhanced([2, 0, 1, 3])], folder, names=lambda n: "multi.dcm")
    return folder / "multi.dcm"


SEEDS: dict[str, Seed] = {
    "NIfTI-1 .nii": Seed("nifti", _file("scan.nii", lambda: encoded(_small())), 8),
    "NIfTI-1 .nii, sheared": Seed("nifti", _file("scan.nii", shear), 3),
    "NIfTI-1 .nii, big-endian": Seed("nifti", _file("scan.nii", big_endian), 4),
    "NIfTI-1 .nii.gz, scaled": Seed(
        "nifti", _file("scan.nii.gz", lambda: gz(encoded(_small(), scl_slope=2.5, scl_inter=-1024))), 8
    ),
    "NIfTI-1 .nii.gz, float32": Seed("nifti", _file("scan.nii.gz", lambda: gz(encoded(_small("float32")))), 6),
    "NIfTI-2 .nii.gz": Seed("nifti", _file("scan.nii.gz", lambda: gz(encoded(_small(), kind=nib.Nifti2Image))), 6),
    "NIfTI-1 .hdr/.img": Seed("nifti", _pair, 5),
    "MetaImage .mha": Seed("text", _itk("scan.mha"), 7),
    "MetaImage .mha, compressed": Seed("text", _itk("scan.mha", compressed=True, dtype="float32"), 6),
    "MetaImage .mhd/.raw": Seed("text", _itk("scan.mhd"), 5),
    "NRRD .nrrd": Seed("text", _itk("scan.nrrd"), 7),
    "NRRD .nrrd, gzip": Seed("text", _itk("scan.nrrd", compressed=True, dtype="uint8"), 6),
    "NRRD .nhdr/.raw": Seed("text", _itk("scan.nhdr"), 4),
    "PNG": Seed("picture", _picture("scan.png", "L"), 4),
    "PNG, RGB": Seed("picture", _picture("scan.png", "RGB"), 3),
    "TIFF, 16 bits": Seed("picture", _picture("scan.tif", "I;16"), 3),
    "JPEG": Seed("picture", _picture("scan.jpg", "L"), 3),
    "zip of NIfTI": Seed("zip", _file("scan.zip", lambda: packed({"scan.nii": encoded(_small())})), 4),
    "zip of DICOM": Seed("zip", _zipped, 4),
    "DICOM explicit": Seed("dicom", _slices(), 10),
    "DICOM implicit": Seed("dicom", _slices(_syntax(ImplicitVRLittleEndian), implicit_vr=True, little_endian=True), 5),
    "DICOM big-endian": Seed("dicom", _slices(_swapped, implicit_vr=False, little_endian=False), 4),
    "DICOM deflated": Seed(
        "dicom", _slices(_syntax(DeflatedExplicitVRLittleEndian), implicit_vr=False, little_endian=True), 4
    ),
    "DICOM enhanced CT": Seed("dicom", _enhanced, 6),
    "DICOM RLE": Seed("dicom", _slices(_run_length), 2),
    "DICOM JPEG lossless": Seed("dicom", _compressed(gdcm.TransferSyntax.JPEGLosslessProcess14_1), 2),
    "DICOM JPEG-LS": Seed("dicom", _compressed(gdcm.TransferSyntax.JPEGLSLossless), 2),
    "DICOM JPEG 2000": Seed("dicom", _compressed(gdcm.TransferSyntax.JPEG2000Lossless), 2),
}
