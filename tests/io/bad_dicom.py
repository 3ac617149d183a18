"""Small DICOM series, good and bad, one builder for each row of the policy on bad input; written with pydicom.

The scan is 32 x 24 x 12 voxels of 0.7 x 0.9 x 2.0 mm with one bright voxel (``MARKER``, above 700) on a slanted ramp, so
that any flip, swap or shift shows. ``Kind.marker`` is where that voxel lies in the world, RAS+ mm, computed by hand.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

COLUMNS, ROWS, SLICES = 32, 24, 12
COLUMN_MM, ROW_MM, SLICE_MM = 0.7, 0.9, 2.0  # between columns, between rows, between slices
MARKER = (21, 6, 8)  # column, row, slice
INTERCEPT = -1024
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORNER = (-30.0, -50.0, 100.0)  # LPS position of the first pixel of the first slice
_BASE_UID = "1.2.826.0.1.3680043.10.1447"


@dataclass(frozen=True)
class Kind:
    """A builder, and either the hints a refusal must hold (one word of each group) or the marker's place (3,) in RAS mm."""

    build: Callable[[Path], Any]
    hints: tuple[tuple[str, ...], ...] = ()
    marker: tuple[float, float, float] | None = None


def intensities() -> npt.NDArray[np.int16]:
    """The true scan (slice, row, column) in Hounsfield-like units: a ramp from -200 to 0 and the marker at 1000."""
    k, j, i = np.mgrid[:SLICES, :ROWS, :COLUMNS]
    scan = (-200 + 2 * i + 3 * j + 5 * k).astype(np.int16)
    scan[MARKER[2], MARKER[1], MARKER[0]] = 1000
    return scan


def marker_world(
    cosines: tuple[float, ...] = AXIAL, corner: tuple[float, ...] = CORNER, step: npt.ArrayLike | None = None
) -> tuple[float, float, float]:
    """Where the marker of a series lies, RAS+ mm; ``step`` (3,) LPS from slice to slice, else along the normal."""
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    across = np.cross(row, column) * SLICE_MM if step is None else np.asarray(step, float)
    lps = np.array(corner) + MARKER[0] * COLUMN_MM * row + MARKER[1] * ROW_MM * column + MARKER[2] * across
    return -float(lps[0]), -float(lps[1]), float(lps[2])


def put(dataset: Dataset, **elements: Any) -> Dataset:
    """Set ``elements`` by keyword without any check, as a careless program would; returns ``dataset``."""
    for keyword, value in elements.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        dataset[tag] = DataElement(tag, dictionary_VR(tag), value, validation_mode=config.IGNORE)
    return dataset


def uid(*numbers: int) -> str:
    return ".".join([_BASE_UID, *map(str, numbers)])


def meta(sop_class: str, instance: str, syntax: str = ExplicitVRLittleEndian) -> FileMetaDataset:
    found = FileMetaDataset()
    found.MediaStorageSOPClassUID = sop_class
    found.MediaStorageSOPInstanceUID = instance
    found.TransferSyntaxUID = syntax
    return found


def identity(sop_class: str, modality: str, series: int, instance: int) -> Dataset:
    """The elements that every object has."""
    dataset = Dataset()
    put(
        dataset,
        SOPClassUID=sop_class,
        SOPInstanceUID=uid(series, instance),
        StudyInstanceUID=uid(1),
        SeriesInstanceUID=uid(series),
        FrameOfReferenceUID=uid(7),
        PatientID="PID-SECRET",
        PatientName="Secret^Name",
        Modality=modality,
        SeriesNumber=series,
        InstanceNumber=instance,
    )
    dataset.file_meta = meta(sop_class, uid(series, instance))
    return dataset


def set_pixels(dataset: Dataset, stored: npt.NDArray[Any], **elements: Any) -> Dataset:
    """Write ``stored`` (rows, columns) or (frames, rows, columns) as 16-bit unsigned pixels, BitsStored 16."""
    put(
        dataset,
        Rows=stored.shape[-2],
        Columns=stored.shape[-1],
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=int(np.issubdtype(stored.dtype, np.signedinteger)),
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        **elements,
    )
    tag = 0x7FE00010
    dataset[tag] = DataElement(tag, "OW", stored.tobytes())
    return dataset


def series(
    number: int = 100,
    *,
    cosines: tuple[float, ...] = AXIAL,
    corner: tuple[float, ...] = CORNER,
    step: npt.ArrayLike | None = None,
    sop_class: str = CTImageStorage,
    modality: str = "CT",
) -> list[Dataset]:
    """The good scan as classic single-slice objects, ascending along the normal."""
    across = np.cross(cosines[:3], cosines[3:]) * SLICE_MM if step is None else np.asarray(step, float)
    scan = intensities()
    found = []
    for k in range(SLICES):
        dataset = identity(sop_class, modality, number, k + 1)
        put(
            dataset,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            ImagePositionPatient=[f"{x:.9g}" for x in np.array(corner) + k * across],
            ImageOrientationPatient=[f"{x:.9g}" for x in cosines],
            PixelSpacing=[str(ROW_MM), str(COLUMN_MM)],
            SliceThickness=str(SLICE_MM),
            RescaleSlope="1",
            RescaleIntercept=str(INTERCEPT),
        )
        found.append(set_pixels(dataset, (scan[k].astype(np.int32) - INTERCEPT).astype("<u2")))
    return found


def file_name(n: int) -> str:
    return f"IM{n + 1:04d}.dcm"


def save(datasets: list[Dataset], folder: Path, names: Callable[[int], str] = file_name, **how: Any) -> list[Path]:
    """Write each dataset to its own file in ``folder``; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, dataset in enumerate(datasets):
            paths.append(folder / names(n))
            how_written = how or {"implicit_vr": False, "little_endian": True}
            dataset.save_as(paths[-1], enforce_file_format=True, **how_written)
    return paths


def good(folder: Path, **how: Any) -> list[Path]:
    """A good CT series of 12 files."""
    return save(series(**how), folder)


def changed(change: Callable[[list[Dataset]], Any], **how: Any) -> Callable[[Path], Any]:
    """A builder that writes the good series after ``change`` to its datasets."""

    def build(folder: Path) -> list[Path]:
        datasets = series(**how)
        return save(change(datasets) or datasets, folder)

    return build


def one(n: int, **elements: Any) -> Callable[[Path], Any]:
    """A builder that sets ``elements`` in slice ``n`` only."""
    return changed(lambda datasets: [put(d, **elements) if k == n else d for k, d in enumerate(datasets)])


def every(**elements: Any) -> Callable[[Path], Any]:
    """A builder that sets ``elements`` in every slice."""
    return changed(lambda datasets: [put(d, **elements) for d in datasets])


def without(keyword: str, *slices: int) -> Callable[[Path], Any]:
    """A builder that deletes an element from ``slices`` (all, if none is given)."""

    def delete(datasets: list[Dataset]) -> None:
        for k in slices or range(len(datasets)):
            delattr(datasets[k], keyword)

    return changed(delete)


def patched(n: int | None, patch: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    """A builder that changes the bytes of file ``n`` of the good series (of all files, if None)."""

    def build(folder: Path) -> None:
        for k, path in enumerate(good(folder)):
            if n is None or k == n:
                path.write_bytes(patch(path.read_bytes()))

    return build


def shifted(shifts: dict[int, float]) -> Callable[[Path], Any]:
    """A builder that moves some slices along z by so many mm."""

    def move(datasets: list[Dataset]) -> None:
        for k, shift in shifts.items():
            x, y, z = map(float, datasets[k].ImagePositionPatient)
            put(datasets[k], ImagePositionPatient=[f"{x:.9g}", f"{y:.9g}", f"{z + shift:.9g}"])

    return changed(move)
