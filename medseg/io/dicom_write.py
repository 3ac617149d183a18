"""A volume as a DICOM series: CT or MR images, fresh identifiers, no patient. Any obliquity, and tilted (sheared) stacks."""

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from medseg.core.errors import DataError, GeometryError
from medseg.core.files import write_durable
from medseg.core.geometry import Affine, Geometry, StorageOrder
from medseg.io.dicom_frames import COSINE_TOLERANCE
from medseg.io.multiples import as_multiples
from medseg.io.source import shown
from medseg.io.stored import in_one_of

Modality = Literal["CT", "MR"]
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_LEVELS = 2**16 - 1
_PLANES = (0, 1), (1, 2), (0, 2)  # the axes that may span a slice, as stored first
_LAST_CHANCE = "write NIfTI (.nii.gz)"


@dataclass(frozen=True, eq=False)
class Series:
    """What will be written: ``stored`` (I, J, K) integers on ``geometry``, k ascending along the slice normal.

    Intensity = stored * ``slope`` + ``intercept``, off by at most ``rounding``: 0 where every value is kept.
    """

    stored: npt.NDArray[Any]
    geometry: Geometry
    modality: Modality
    slope: float
    intercept: float
    rounding: float

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Name and content of each slice, in the order of their places."""
        common = _common(self)
        for k in range(self.geometry.shape[2]):
            yield f"slice_{k + 1:04d}.dcm", _slice(self, common, k)


def series_of(path: Path, data: npt.NDArray[Any], geometry: Geometry, modality: Modality) -> Series:
    """The series that holds ``data`` (1, I, J, K); ``path`` is for messages.

    Integers within 16 bits are kept as they are, larger ones by an intercept where they span 65536 values, float32 that are
    multiples of one slope (as they come from DICOM) by that slope; what is left is rounded to 65536 levels, and ``rounding``
    says by how much. Raises DataError for several channels, one slice, or values that
    are not finite, GeometryError where no two voxel axes stand at right angles.
    """
    name = shown(path)
    if len(data) != 1:
        raise DataError(
            f"{name}: a DICOM series has one value a pixel, this scan has {len(data)} channels; give them one by one, or "
            f"{_LAST_CHANCE}"
        )
    order = _slice_order(name, geometry)
    grid = order.geometry(geometry)
    if grid.shape[2] < 2:
        raise DataError(f"{name}: one slice as DICOM says nothing of the distance between slices; {_LAST_CHANCE}")
    if np.abs(grid.to_world([[0, 0, 0], [0, 0, grid.shape[2] - 1]])).max() >= 1e6:
        raise GeometryError(f"{name}: positions beyond 1 km are not read back from DICOM; {_LAST_CHANCE}")
    stored, slope, intercept = _as_stored(name, data[0])
    rounding = _rounding(stored, slope, intercept, data[0])
    return Series(order.array(stored), grid, modality, slope, intercept, rounding)


def write_series(folder: Path, series: Series) -> None:
    """Write each slice into ``folder`` (a staged one). Raises OutputError or ResourceError as ``write_durable`` does."""
    for name, content in series.files():
        write_durable(folder / name, content)


def zip_of(series: Series) -> bytes:
    """The slices as a zip archive without folders."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, one in series.files():
            archive.writestr(zipfile.ZipInfo(name), one, zipfile.ZIP_DEFLATED)
    return content.getvalue()


def _slice_order(name: str, geometry: Geometry) -> StorageOrder:
    """The storage whose slices have right angles, turned as they are usually shown, k ascending along their normal.

    Slices stay slices where they can. Shown usually means: columns to the patient's left (sagittal: to the back), rows to the
    back (coronal and sagittal: to the feet).
    """
    axes = geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    for plane in _PLANES:
        a, b = plane
        if abs(axes[:, a] @ axes[:, b]) <= 0.9 * COSINE_TOLERANCE:
            return _as_shown(geometry, plane)
    raise GeometryError(
        f"{name}: no two voxel axes stand at right angles (sheared by {geometry.shear_degrees:.1f} degrees), and the pixels of a "
        f"DICOM slice must; {_LAST_CHANCE}"
    )


def _as_shown(geometry: Geometry, plane: tuple[int, int]) -> StorageOrder:
    letters = geometry.orientation
    world = [("LR", "PA", "IS").index(pair) for axis in plane for pair in ("LR", "PA", "IS") if letters[axis] in pair]
    i, j = plane if world[0] < world[1] else plane[::-1]
    flips = (letters[i] not in "LP", letters[j] not in "PI")
    order = StorageOrder((i, j, 3 - i - j), (*flips, False))
    # Right-handed in LPS: k then ascends along the normal, as readers put the slices.
    handed = np.linalg.det((_LPS_TO_RAS @ order.geometry(geometry).affine)[:3, :3]) > 0
    return StorageOrder(order.permutation, (*flips, not handed))


def _as_stored(name: str, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], float, float]:
    """Integers of 16 bits, slope and intercept (as a file will hold them) for ``values``."""
    if not np.isfinite(values).all():
        raise DataError(f"{name}: NaN and infinite intensities have no place in DICOM; replace them, or {_LAST_CHANCE}")
    kept = in_one_of(values, (np.int16, np.uint16))
    if kept is not None:
        return kept, 1.0, 0.0
    multiples = as_multiples(values, format_number_as_ds)
    if multiples is not None:
        return (*multiples, 0.0)
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind in "iu" and high - low <= _LEVELS and abs(low) < 2**52
    slope = 1.0 if whole else _decimal((high - low) / _LEVELS)
    intercept = _decimal(low)
    levels = np.rint((values.astype(np.float64) - intercept) / slope)
    return np.clip(levels, 0, _LEVELS).astype(np.uint16), slope, intercept


def _rounding(stored: npt.NDArray[Any], slope: float, intercept: float, values: npt.NDArray[Any]) -> float:
    """The largest difference between ``values`` and what is read back, which is float32 where the slope is no whole number."""
    worst = 0.0
    for one, true in zip(np.moveaxis(stored, 2, 0), np.moveaxis(values, 2, 0), strict=True):  # slice by slice: memory
        read = one * np.float64(slope) + intercept
        read = read.astype(np.float32) if not float(slope).is_integer() and values.dtype == np.float32 else read
        worst = max(worst, float(np.abs(read.astype(np.float64) - true).max()))
    return worst


def _decimal(value: float) -> float:
    """``value`` as 16 characters hold it."""
    return float(format_number_as_ds(value))


def _decimals(values: Sequence[float] | npt.NDArray[np.float64]) -> list[str]:
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def _common(series: Series) -> Dataset:
    """What all slices share: the modules that PS3.3 asks of a CT or MR image, patient and study left empty."""
    lps: Affine = _LPS_TO_RAS @ series.geometry.affine
    axes = lps[:3, :3] / np.linalg.norm(lps[:3, :3], axis=0)
    normal = np.cross(axes[:, 0], axes[:, 1])
    i_mm, j_mm, _ = series.geometry.spacing_mm
    between = _decimals([abs(float(normal @ lps[:3, 2]))])[0]
    common = Dataset()
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
        *("AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator", "PatientPosition"),
        *("AcquisitionNumber", "Laterality"),
    ):
        setattr(common, keyword, None if keyword == "AcquisitionNumber" else "")
    common.PatientIdentityRemoved = "YES"
    common.DeidentificationMethod = "made from voxels and geometry alone"
    common.BurnedInAnnotation = "NO"
    common.SOPClassUID = CTImageStorage if series.modality == "CT" else MRImageStorage
    common.Modality = series.modality
    common.Manufacturer = "medseg"
    common.SeriesNumber = 1
    common.StudyInstanceUID, common.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    common.FrameOfReferenceUID = generate_uid(None)
    common.ImageOrientationPatient = _decimals(axes[:, :2].T.ravel())
    common.PixelSpacing = _decimals([j_mm, i_mm])  # between rows first (PS3.3, 10.7.1.3)
    common.SliceThickness = common.SpacingBetweenSlices = between
    common.SamplesPerPixel, common.PhotometricInterpretation = 1, "MONOCHROME2"
    common.Columns, common.Rows = series.geometry.shape[:2]
    common.BitsAllocated = common.BitsStored = 16
    common.HighBit = 15
    common.PixelRepresentation = int(series.stored.dtype.kind == "i")
    _add_modality(common, series)
    return common


def _add_modality(common: Dataset, series: Series) -> None:
    rescaled = (series.slope, series.intercept) != (1.0, 0.0)
    if series.modality == "CT":
        common.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
        common.KVP = None
    else:
        common.ImageType = ["DERIVED", "SECONDARY", "OTHER"]
        common.ScanningSequence, common.SequenceVariant, common.MRAcquisitionType = "RM", "NONE", ""
        common.ScanOptions = ""
        common.RepetitionTime = common.EchoTime = common.EchoTrainLength = None
    if rescaled or series.modality == "CT":
        common.RescaleIntercept, common.RescaleSlope = _decimals([series.intercept, series.slope])
        common.RescaleType = "HU" if series.modality == "CT" else "US"


def _slice(series: Series, common: Dataset, k: int) -> bytes:
    position = series.geometry.to_world([0, 0, k]) * [-1, -1, 1]
    one = Dataset(common)
    one.SOPInstanceUID = generate_uid(None)
    one.InstanceNumber = k + 1
    one.ImagePositionPatient = _decimals(position)
    one.PixelData = np.ascontiguousarray(series.stored[:, :, k].T, series.stored.dtype.newbyteorder("<")).tobytes()
    one["PixelData"].VR = "OW"
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content = BytesIO()
    dcmwrite(content, one, enforce_file_format=True)
    return content.getvalue()
