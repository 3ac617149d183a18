"""Every kind of file in the groups `raster` and `path` of the policy on bad input."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

from tests.io.bad_nifti import gz
from tests.io.made_nifti import OBLIQUE, Kind, Made, at, encoded, scan

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_image(data: np.ndarray | None = None, affine: np.ndarray = OBLIQUE) -> Any:
    """A SimpleITK image of ``data`` (I, J, K) with a RAS ``affine``."""
    image = SimpleITK.GetImageFromArray((scan() if data is None else data).T)
    lps = LPS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def saved(name: str, *, compressed: bool = False, data: np.ndarray | None = None) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        SimpleITK.WriteImage(itk_image(data), str(folder / name), compressed)
        return Made(folder / name, at(OBLIQUE))

    return make


def edited(name: str, old: str, new: str) -> Callable[[Path], Made]:
    """``name`` as SimpleITK writes it, with the line that starts with ``old`` replaced; a secret lies one folder up."""

    def make(folder: Path) -> Made:
        inside = folder / "inside"
        inside.mkdir()
        (folder / "secret.raw").write_bytes(scan().T.tobytes())
        path = saved(name)(inside).path
        head, start, rest = path.read_bytes().partition(old.encode())
        assert start
        path.write_bytes(head + new.format(folder=folder).encode() + b"\n" + rest.split(b"\n", 1)[1])
        return Made(path)

    return make


def nrrd_escape(folder: Path) -> Made:
    return edited("scan.nrrd", "encoding:", "encoding: raw\ndata file: ../secret.raw")(folder)


def picture(suffix: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        SimpleITK.WriteImage(
            SimpleITK.GetImageFromArray(np.eye(64, dtype=np.uint8) * 200), str(folder / f"scan{suffix}")
        )
        return Made(folder / f"scan{suffix}")

    return make


def named(name: str) -> Kind:
    def make(folder: Path) -> Made:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gz(encoded()))
        return Made(path, at(OBLIQUE))

    return Kind("ok", "", make)


def linked(folder: Path) -> Made:
    (folder / "real.nii.gz").write_bytes(gz(encoded()))
    (folder / "scan.nii.gz").symlink_to("real.nii.gz")
    return Made(folder / "scan.nii.gz", at(OBLIQUE))


def link(target: str, name: str = "scan.nii.gz") -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        (folder / name).symlink_to(target)
        return Made(folder / name)

    return make


def fifo(folder: Path) -> Made:
    os.mkfifo(folder / "scan.nii.gz")
    return Made(folder / "scan.nii.gz")


def folder_named(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        (folder / name).mkdir()
        return Made(folder / name)

    return make


def folder_loop(folder: Path) -> Made:
    (folder / "series").mkdir()
    (folder / "series" / "again").symlink_to(folder / "series")
    return Made(folder / "series")


def mhd_beside_link(folder: Path) -> Made:
    """The named data file lies beside the header, but is a link out of the folder."""
    made = edited("scan.mhd", "ElementDataFile", "ElementDataFile = beside.raw")(folder)
    (made.path.parent / "beside.raw").symlink_to(folder / "secret.raw")
    return made


def truncated(name: str, *, compressed: bool) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        path = saved(name, compressed=compressed)(folder).path
        path.write_bytes(path.read_bytes()[:-900])
        return Made(path)

    return make


def flipped(name: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        path = saved(name, compressed=True)(folder).path
        content = bytearray(path.read_bytes())
        content[-3000] ^= 4
        path.write_bytes(content)
        return Made(path)

    return make


def colour(folder: Path) -> Made:
    array = np.zeros((4, 5, 6, 3), np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), str(folder / "scan.nrrd"))
    return Made(folder / "scan.nrrd")


FLAT_MHA = "NDims = 2\nElementSpacing = 1 1\nDimSize = 24 20\nElementType = MET_SHORT\nElementDataFile = LOCAL"
TRUNCATED, OUTSIDE = "truncat/corrupt", "outside/path/elementdatafile"
RASTER: dict[str, Kind] = {
    "r-good-mha": Kind("ok", "", saved("scan.mha")),
    "r-good-mha-compressed": Kind("ok", "", saved("scan.mha", compressed=True)),
    "r-good-mhd": Kind("ok", "", saved("scan.mhd")),
    "r-good-mhd-compressed": Kind("ok", "", saved("scan.mhd", compressed=True)),
    "r-good-nrrd": Kind("ok", "", saved("scan.nrrd")),
    "r-good-nrrd-compressed": Kind("ok", "", saved("scan.nrrd", compressed=True)),
    "r-good-nhdr": Kind("ok", "", saved("scan.nhdr")),
    "r-good-nhdr-compressed": Kind("ok", "", saved("scan.nhdr", compressed=True)),
    "r-mhd-escape": Kind("error", OUTSIDE, edited("scan.mhd", "ElementDataFile", "ElementDataFile = ../secret.raw")),
    "r-mhd-absolute": Kind("error", OUTSIDE, edited("scan.mhd", "ElementDataFile", "ElementDataFile = {folder}/secret.raw")),
    "r-mhd-colon": Kind("error", OUTSIDE, edited("scan.mhd", "ElementDataFile", "ElementDataFile x : ../secret.raw")),
    "r-mhd-link": Kind("error", OUTSIDE, mhd_beside_link),
    "r-mhd-list": Kind("error", "elementdatafile", edited("scan.mhd", "ElementDataFile", "ElementDataFile = LIST")),
    "r-mhd-twice": Kind(
        "error", "dimsize", edited("scan.mhd", "NDims", "ElementDataFile = a.raw\nElementDataFile = ../secret.raw")
    ),
    "r-nrrd-escape": Kind("error", "outside/path/data file", nrrd_escape),
    "r-mha-zero": Kind("error", "spacing", edited("scan.mha", "ElementSpacing", "ElementSpacing = 1 0 1")),
    "r-mha-negative": Kind("error", "spacing", edited("scan.mha", "ElementSpacing", "ElementSpacing = 1 -1 1")),
    "r-mha-nan": Kind("error", "spacing", edited("scan.mha", "ElementSpacing", "ElementSpacing = 1 nan 1")),
    "r-mha-word": Kind("error", "spacing", edited("scan.mha", "ElementSpacing", "ElementSpacing = 1 one 1")),
    "r-mha-no-spacing": Kind("error", "spacing", edited("scan.mha", "ElementSpacing", "Comment = none")),
    "r-mha-zero-direction": Kind("error", "direction", edited("scan.mha", "TransformMatrix", "TransformMatrix =" + " 0" * 9)),
    "r-mha-nan-origin": Kind("error", "finite/affine", edited("scan.mha", "Offset", "Offset = 0 nan 0")),
    "r-mha-shear": Kind("error", "shear", edited("scan.mha", "TransformMatrix", "TransformMatrix = 1 0 0 0.3 1 0 0 0 1")),
    "r-mha-metres": Kind("error", "unit", edited("scan.mha", "NDims", "DistanceUnits = m\nNDims = 3")),
    "r-mha-too-few": Kind("error", "trailing/size", edited("scan.mha", "DimSize", "DimSize = 24 20 8")),
    "r-mha-too-many": Kind("error", TRUNCATED, edited("scan.mha", "DimSize", "DimSize = 24 20 32")),
    "r-mha-huge": Kind("error", "too large", edited("scan.mha", "DimSize", "DimSize = 99999 99999 99999")),
    "r-mha-2d": Kind("error", "2d", edited("scan.mha", "NDims", FLAT_MHA)),
    "r-mha-type": Kind("error", "type", edited("scan.mha", "ElementType", "ElementType = MET_ASCII_CHAR")),
    "r-nrrd-type": Kind("error", "type", edited("scan.nrrd", "type:", "type: block")),
    "r-nrrd-nan": Kind("error", "spacing", edited("scan.nrrd", "space directions", "space directions: (1,0,0) (0,nan,0) (0,0,1)")),
    "r-nrrd-zero": Kind("error", "spacing", edited("scan.nrrd", "space directions", "space directions: (1,0,0) (0,0,0) (0,0,1)")),
    "r-nrrd-encoding": Kind("error", "encoding", edited("scan.nrrd", "encoding:", "encoding: ascii")),
    "r-nrrd-units": Kind("error", "unit", edited("scan.nrrd", "encoding:", 'space units: "m" "m" "m"\nencoding: raw')),
    "r-nrrd-junk": Kind("error", "header", edited("scan.nrrd", "kinds:", "what is this")),
    "r-mha-truncated": Kind("error", TRUNCATED, truncated("scan.mha", compressed=False)),
    "r-mha-truncated-packed": Kind("error", TRUNCATED, truncated("scan.mha", compressed=True)),
    "r-nrrd-truncated": Kind("error", TRUNCATED, truncated("scan.nrrd", compressed=False)),
    "r-nrrd-truncated-packed": Kind("error", TRUNCATED, truncated("scan.nrrd", compressed=True)),
    "r-mha-flipped": Kind("error", "corrupt", flipped("scan.mha")),
    "r-nrrd-flipped": Kind("error", "corrupt", flipped("scan.nrrd")),
    "r-rgb": Kind("error", "rgb/colour", colour),
    "r-png": Kind("error", "2d/2-d/dimension/format/unsupported/type", picture(".png")),
    "r-jpg": Kind("error", "2d/2-d/dimension/format/unsupported/type", picture(".jpg")),
}  # fmt: skip

PATHS: dict[str, Kind] = {
    "p-unicode": named("Läber_肝臓_🫁.nii.gz"),
    "p-spaces": named(" a scan  of the liver .nii.gz"),
    "p-newline": named("two\nlines.nii.gz"),
    "p-dash": named("--output.nii.gz"),
    "p-shell": named("$(touch x);`id`&|'\".nii.gz"),
    "p-percent": named("100%s%n%d.nii.gz"),
    "p-long": named("x" * 248 + ".nii.gz"),
    "p-dots": named("..scan.v1.2..nii.gz"),
    "p-glob": named("[a-z]*?.nii.gz"),
    "p-deep": named("/".join(["deep"] * 60) + "/scan.nii.gz"),
    "p-notutf8": named(os.fsdecode(b"scan_\xff\xfe.nii.gz")),
    "p-symlink": Kind("ok", "", linked),
    "p-symlink-loop": Kind("error", "link/loop/exist/found", link("scan.nii.gz")),
    "p-folder-loop": Kind("error", "no .*(image/dicom/scan)/found/empty", folder_loop),
    "p-symlink-dangling": Kind("error", "exist/found/link", link("nowhere.nii.gz")),
    "p-device": Kind("error", "regular file/device/nifti/not a/header", link("/dev/zero")),
    "p-device-bare": Kind("error", "regular file/device/nifti/not a/header", lambda _: Made(Path("/dev/zero"))),
    "p-fifo": Kind("error", "regular file/pipe/fifo/not a", fifo),
    "p-dir-as-file": Kind("error", "folder/directory/empty/no ", folder_named("scan.nii.gz")),
    "p-missing": Kind("error", "exist/found/no such", lambda folder: Made(folder / "scan.nii.gz")),
    "p-missing-bare": Kind("error", "exist/found/no such", lambda folder: Made(folder / "scan")),
    "p-nul": Kind("error", "read", lambda folder: Made(folder / "a\0b.nii.gz")),
    "p-empty-dir": Kind("error", "empty/no .*(dicom/image/file)/found", folder_named("empty")),
}
