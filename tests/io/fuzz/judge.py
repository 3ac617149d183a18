"""What medseg makes of a mutant, and whether a second reader that shares no code with it agrees.

Where both accept, they must agree: on the place of every corner within 0.01 mm, and on every voxel. Where the second reader
refuses what medseg accepts, the mutant counts as "alone". The reasons in 40,000 mutants were looked at. Some were faults of
medseg, which test_found.py holds now; in the others medseg is right to accept, or cannot know better:

- nibabel wants the line ends in the magic of NIfTI-2, which some writers leave 0; the bytes before them say what it is;
- pynrrd wants no blanks in a vector, no capitals in a field's name, an ``endian`` even for bytes, and no zeros as padding;
- ITK refuses a PNG whose optional chunks libpng does not like, and GDCM a file by elements that place and decode nothing;
- pydicom, without medseg's guard, takes as much memory as a damaged length says (up to 4 GiB), or stops at a damaged element;
- a JPEG has no checksum: of damaged codes or tables each decoder makes up other pixels. libjpeg complains at times, which
  Pillow, by which medseg reads, does not pass on. Only size and place are held to agree for damaged ones.
"""

import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pydicom
import SimpleITK
import tifffile

from medseg.core.errors import MedsegError, ResourceError
from medseg.core.geometry import Geometry
from medseg.io.reading import open_scan
from medseg.io.scan import Scan

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TOLERANCE_MM = 0.01
PERSONAL = "Secret", "PID-SECRET"


@dataclass(frozen=True)
class Verdict:
    """``outcome``: refused, agreed, alone (the second reader refuses), or a failure: disagreed, wrong."""

    outcome: str
    words: str


def read(path: Path) -> Scan | Verdict:
    """The scan, or how it was refused; "wrong" where a refusal is not one line that names the file, or not ours at all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with open_scan([path]) as scan:
                return scan
    except ResourceError as error:
        return Verdict("wrong", f"took too much memory: {error}")
    except MedsegError as error:
        return _refusal(str(error), path)
    except Exception as error:
        return Verdict("wrong", f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _refusal(message: str, path: Path) -> Verdict:
    mates = [path, *path.parent.glob(f"{path.stem}.*")]  # of a pair, the file that is broken
    if "\n" in message or not message.startswith(tuple(str(p) for p in mates)):
        return Verdict("wrong", f"a refusal that does not name the file in one line: {message!r}"[:400])
    if not all(c.isprintable() for c in message) or any(word in message for word in PERSONAL):
        return Verdict("wrong", f"a refusal with unprintable or personal words: {message!r}"[:400])
    return Verdict("refused", message)


def check(path: Path, scan: Scan) -> Verdict:
    """``scan`` as medseg read it from ``path`` beside a second reader."""
    second = _dicom if scan.frames else _SECOND.get(path.suffix, _itk)
    if path.suffix == ".zip":
        second = _zip
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            difference = second(path, scan)
        except _Refused as error:
            return Verdict("alone", f"{type(error.__cause__).__name__}: {' '.join(str(error.__cause__).split())}"[:200])
    return Verdict("disagreed", difference[:300]) if difference else Verdict("agreed", "")


class _Refused(Exception):
    """The second reader does not read it."""


def _moved_mm(ours: Geometry, affine: np.ndarray) -> float:
    """How far the corners of the grid lie apart, a voxel beyond each face."""
    corners = np.array(
        [[i, j, k] for i in (-1, ours.shape[0]) for j in (-1, ours.shape[1]) for k in (-1, ours.shape[2])]
    )
    theirs = corners @ affine[:3, :3].T + affine[:3, 3]
    return float(np.linalg.norm(ours.to_world(corners) - theirs, axis=1).max())


def _compared(scan: Scan, affine: np.ndarray, data: np.ndarray) -> str:
    """In what ``affine`` (RAS) and ``data`` (C, I, J, K) differ; empty where they agree."""
    volume = scan.volume
    if data.shape != volume.data.shape:
        return f"shape {volume.data.shape}, theirs {data.shape}"
    moved = _moved_mm(volume.geometry, affine)
    if not moved <= TOLERANCE_MM:
        return f"a corner lies {moved:.4g} mm apart: {volume.geometry.affine.tolist()}, theirs {affine.tolist()}"
    if not np.allclose(volume.data, data, rtol=1e-5, atol=1e-30):
        return f"{np.count_nonzero(volume.data != data)} of {data.size} voxels differ"
    return ""


def _nifti(path: Path, scan: Scan) -> str:
    try:
        image = nib.load(path)
        data, affine = np.asanyarray(image.dataobj), image.affine
    except Exception as error:
        raise _Refused from error
    shape = (*data.shape, 1)
    if any(n != 1 for n in shape[4:]):
        return f"shape {data.shape}"
    return _compared(scan, affine, np.moveaxis(data.reshape(shape[:4]), 3, 0))


def _itk(path: Path, scan: Scan) -> str:
    """SimpleITK for both formats, and then pynrrd or the rules of MetaImage by hand: medseg itself reads by SimpleITK."""
    try:
        image = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        raise _Refused from error
    array = SimpleITK.GetArrayFromImage(image)
    if image.GetDimension() == 4:
        array, image = array[0], image[:, :, :, 0]
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    data = array.T if image.GetNumberOfComponentsPerPixel() > 1 else array.T[None]
    return _compared(scan, LPS @ affine, data) or _by_hand(path, scan)


def _picture(path: Path, scan: Scan) -> str:
    """As ITK takes a picture: an axial slice, x to the left, y to the back, 1 mm; its own spacing is not believed."""
    try:
        array = np.atleast_3d(tifffile.imread(path) if path.suffix == ".tif" else _without_complaint(path))
    except Exception as error:
        raise _Refused from error
    if array.ndim != 3:
        return f"{array.shape} pixels"
    if scan.volume.channels == 3 and array.shape[2] == 4:  # ITK makes a channel of a PNG's transparent colour
        array = array[..., :3]
    theirs = np.moveaxis(array, (2, 1, 0), (0, 1, 2))[..., None]
    difference = _compared(scan, LPS, theirs)
    if path.suffix == ".jpg" and "voxels differ" in difference:
        raise _Refused from ValueError(
            f"damaged codes or tables, which two decoders make different pixels of: {difference}"
        )
    return difference


def _without_complaint(path: Path) -> np.ndarray:
    """A picture by ITK. Raises ValueError where libjpeg prints that the data are corrupt, and makes something up."""
    with tempfile.TemporaryFile() as said:
        kept = os.dup(2)
        os.dup2(said.fileno(), 2)
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(True)
        try:
            array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
        finally:
            SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        words = said.read().decode("utf-8", "replace")
    if "JPEG" in words:
        raise ValueError(words)
    return np.squeeze(array)


def _zip(path: Path, scan: Scan) -> str:
    """What zipfile unpacks, read by the second reader of the format inside."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(name)
        except Exception as error:
            raise _Refused from error
        found = sorted(p for p in Path(name).rglob("*") if p.is_file())
        if not scan.frames:
            return _nifti(next(p for p in found if p.suffix == ".nii"), scan)
        with open_scan([Path(name)]) as plain:
            return _compared(scan, plain.volume.geometry.affine, plain.volume.data) or _dicom(Path(name), plain)


def _by_hand(path: Path, scan: Scan) -> str:
    try:
        affine, data = _pynrrd(path) if path.suffix in (".nrrd", ".nhdr") else _metaimage(path)
    except Exception as error:
        raise _Refused from error
    return _compared(scan, affine, data)


def _pynrrd(path: Path) -> tuple[np.ndarray, np.ndarray]:
    head = path.read_bytes().partition(b"\n\n")[0].splitlines()[1:]
    if any(key != key.lower() for key in (line.partition(b":")[0] for line in head if not line.startswith(b"#"))):
        raise ValueError("pynrrd does not know fields in capitals")
    data, header = nrrd.read(str(path))
    if "space directions" in header:
        rows = np.array(header["space directions"], float)
        spatial = np.isfinite(rows).all(axis=1)
        rows = rows[spatial]
    else:
        spatial = np.ones(data.ndim, bool)
        rows = np.diag(header["spacings"])
    affine = np.eye(4)
    affine[:3, :3] = rows.T
    affine[:3, 3] = header.get("space origin", np.zeros(3))
    side = {"right": -1, "left": 1, "posterior": 1, "anterior": -1, "superior": 1}
    space = str(header.get("space", "left-posterior-superior")).lower()
    space = {"lps": "left-posterior-superior", "ras": "right-anterior-superior", "las": "left-anterior-superior"}.get(
        space, space
    )
    signs = [side[word] for word in space.split("-")]
    channels = np.moveaxis(data, np.flatnonzero(~spatial), range((~spatial).sum()))
    return LPS @ np.diag([*signs, 1.0]) @ affine, channels.reshape(-1, *channels.shape[-3:])


def _metaimage(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """By https://docs.itk.org/en/latest/learn/metaio.html: each triple of TransformMatrix is the direction of one axis."""
    head, _, rest = path.read_bytes().partition(b"ElementDataFile")
    fields = dict(
        re.findall(r"^[ \t]*(\w+)[ \t]*[=:][ \t]*(.*?)[ \t\r]*$", head.decode("latin-1"), re.MULTILINE | re.ASCII)
    )
    where, _, voxels = rest.partition(b"\n")
    name = where.decode("latin-1").strip(" =:\r\t")
    raw = voxels if name.upper() == "LOCAL" else (path.parent / name).read_bytes()
    if fields.get("CompressedData", "False").lower() in ("true", "1"):
        raw = zlib.decompressobj(47).decompress(raw)
    order = (
        ">"
        if fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")).lower() in ("true", "1")
        else "<"
    )
    kinds = {"MET_SHORT": "i2", "MET_USHORT": "u2", "MET_FLOAT": "f4", "MET_CHAR": "i1", "MET_UCHAR": "u1"}
    sizes = [int(n) for n in fields["DimSize"].split()]
    channels = int(fields.get("ElementNumberOfChannels", 1))
    dtype = np.dtype(order + kinds[fields["ElementType"]])
    data = np.frombuffer(raw, dtype, int(np.prod(sizes)) * channels).reshape(*sizes[::-1], channels)
    matrix = next(
        (fields[k] for k in ("TransformMatrix", "Rotation", "Orientation") if k in fields), "1 0 0 0 1 0 0 0 1"
    )
    origin = next((fields[k] for k in ("Offset", "Position", "Origin") if k in fields), "0 0 0")
    spacing = fields.get("ElementSpacing", fields.get("ElementSize", "1 1 1"))
    affine = np.eye(4)
    affine[:3, :3] = np.array(matrix.split()[:9], float).reshape(3, 3).T * np.array(spacing.split()[:3], float)
    affine[:3, 3] = np.array(origin.split()[:3], float)
    return LPS @ affine, data.T


def _dicom(path: Path, scan: Scan) -> str:
    """Each frame as pydicom tells it, put in its place by hand; compressed ones as GDCM decodes them."""
    if scan.volume.data.shape[0] != 1 or len(scan.frames) != len(scan.planes):
        return "frames and planes do not go together"
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    silent = [p for p in files if p not in {f.path for f in scan.frames}]
    if silent and not any(w.startswith("set aside") for w in scan.volume.warnings):
        return f"{silent[0].name} was set aside without a word"
    gap = np.linalg.norm(scan.volume.geometry.affine[:3, 2])
    for frame, plane in zip(scan.frames, scan.planes, strict=True):
        try:
            dataset = pydicom.dcmread(frame.path, force=True)
            corner, row, column, spacing, scale = _described(dataset, frame.index)
            pixels = _pixels(dataset, frame.path, frame.index)
        except Exception as error:
            raise _Refused from error
        rows, columns = pixels.shape
        # Positions may be rounded: medseg allows for a hundredth of the spacing, or 0.05 mm, and puts slices on one line.
        for i, j, allowed in ((0, 0, 0.0), (columns - 1, 0, 0.0), (0, rows - 1, 0.0)):
            lps = corner + i * spacing[1] * row + j * spacing[0] * column
            apart = np.linalg.norm(scan.volume.geometry.to_world((i, j, plane)) - lps * [-1, -1, 1])
            if not apart <= TOLERANCE_MM + max(0.05, 0.01 * gap) + allowed:
                return f"{frame.path.name}: pixel {i},{j} lies {apart:.4g} mm apart"
        theirs = pixels.T * scale[0] + scale[1]
        ours = scan.volume.data[0, :, :, plane]
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-5, atol=1e-3 + 1e-5 * abs(scale[0])):
            return f"{frame.path.name}: pixels {ours.shape} differ from {theirs.shape}, by up to {np.abs(ours - theirs).max():.4g}"
    return ""


def _described(dataset: Any, index: int) -> tuple[Any, ...]:
    """Position, directions of columns and rows, PixelSpacing, and (slope, intercept) of one frame."""
    places = [dataset]
    for keyword, at in (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", index)):
        if dataset.get(keyword):
            group = dataset[keyword].value[at]
            places = [element.value[0] for element in group if element.VR == "SQ" and len(element.value)] + places

    def told(keyword: str, absent: Any = None) -> Any:
        found = [place.get(keyword) for place in places if place.get(keyword) not in (None, "")]
        return found[0] if found else absent

    directions = np.array(told("ImageOrientationPatient"), float)
    row, column = directions[:3], directions[3:]
    scale = float(told("RescaleSlope", 1.0)), float(told("RescaleIntercept", 0.0))
    return np.array(told("ImagePositionPatient"), float), row, column, np.array(told("PixelSpacing"), float), scale


def _pixels(dataset: Any, path: Path, index: int) -> np.ndarray:
    """The stored values (rows, columns) of one frame as float64."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax and syntax.is_encapsulated:
        image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))).astype(float)
        _, _, _, _, (slope, intercept) = _described(dataset, index)
        return (image[0] - intercept) / slope
    allocated, stored, high = (
        dataset.BitsAllocated,
        dataset.get("BitsStored") or dataset.BitsAllocated,
        dataset.get("HighBit"),
    )
    high = stored - 1 if high is None else high
    order = ">" if not dataset.original_encoding[1] else "<"
    size = dataset.Rows * dataset.Columns
    raw = np.frombuffer(dataset.PixelData, f"{order}u{allocated // 8}", size, index * size * allocated // 8)
    values = (raw.astype(np.int64) >> (high + 1 - stored)) & ((1 << stored) - 1)
    if dataset.get("PixelRepresentation") == 1:
        values = values - ((values >> (stored - 1)) << stored)
    return values.reshape(dataset.Rows, dataset.Columns).astype(float)


_SECOND: dict[str, Callable[[Path, Scan], str]] = {
    **dict.fromkeys((".nii", ".gz", ".hdr"), _nifti),
    **dict.fromkeys((".png", ".tif", ".jpg"), _picture),
}
