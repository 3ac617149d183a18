"""The frames of DICOM files: each with its place, its spacing and its rescale, from classic and enhanced objects."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from medseg.core.errors import DataError, GeometryError
from medseg.io.dicom_header import Header, items, numbers, text
from medseg.io.source import shown

Numbers = npt.NDArray[np.float64]
SPACING_RANGE_MM = (1e-3, 100.0)
FARTHEST_MM = 1e6
COSINE_TOLERANCE = 2e-3  # direction cosines are often written with three digits
_CONTEXT = (  # what may tell two frames at one place from each other
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "EchoTime",
    "EchoNumbers",
    "TriggerTime",
    "DiffusionBValue",
    "ImageType",
    "AcquisitionTime",
    "ContentTime",
)
_RESCALE = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}  # and what absence means
_FRAME_CONTEXT = ("StackID", "TemporalPositionIndex", "FrameAcquisitionNumber")


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice: frame ``index`` of the file behind ``header``.

    ``position`` (3,) is the centre of its first pixel and ``cosines`` (2, 3) the directions of growing column and row
    index, both LPS (mm and unit vectors); ``spacing_mm`` is (between columns, between rows).
    Stored values become intensities by ``value * slope + intercept``; ``rescaled`` is False where the file says neither.
    """

    header: Header
    index: int
    position: Numbers
    cosines: Numbers
    spacing_mm: tuple[float, float]
    slope: float
    intercept: float
    rescaled: bool
    context: tuple[tuple[str, str], ...]

    @property
    def path(self) -> Path:
        return self.header.path

    @cached_property
    def normal(self) -> Numbers:
        """The unit vector (3,) across the slice, LPS."""
        across = np.cross(self.cosines[0], self.cosines[1])
        return np.asarray(across / np.linalg.norm(across))

    def name(self, place: Path) -> str:
        """How a message about ``place`` calls it: by its path in there."""
        inside = (
            self.path.relative_to(place) if self.path != place and self.path.is_relative_to(place) else self.path.name
        )
        name = shown(Path(inside))
        return name if self.header.frame_count == 1 else f"{name} frame {self.index + 1}"


def frames_of(header: Header) -> list[Frame]:
    """The frames of one file in stored order.

    Raises GeometryError where a frame has no usable place in the world, DataError where its rescale is not usable or
    the frames it announces are not described.
    """
    if items(header.dataset, "ModalityLUTSequence"):
        raise DataError(
            f"{shown(header.path)}: has a Modality LUT instead of a rescale slope, which medseg does not read"
        )
    if "Enhanced" in header.sop_class.name or "PerFrameFunctionalGroupsSequence" in header.dataset:
        return _enhanced_frames(header)
    if header.frame_count != 1:
        raise DataError(
            f"{shown(header.path)}: announces {header.frame_count} frames, but a {header.sop_class.name} file holds one; "
            "the header is wrong, export the series again"
        )
    dataset = header.dataset
    return [_frame(header, 0, (dataset, dataset, dataset, dataset), _context(dataset, _CONTEXT))]


def _enhanced_frames(header: Header) -> list[Frame]:
    per_frame = items(header.dataset, "PerFrameFunctionalGroupsSequence")
    shared = items(header.dataset, "SharedFunctionalGroupsSequence")
    if not per_frame:
        raise GeometryError(
            f"{shown(header.path)}: a multi-frame file without per-frame functional groups; its slices have no position"
        )
    if len(per_frame) != header.frame_count:
        raise DataError(
            f"{shown(header.path)}: announces {header.frame_count} frames, but its functional groups describe {len(per_frame)}"
        )
    frames = []
    for index, groups in enumerate(per_frame):

        def group(name: str, groups: Dataset = groups) -> Dataset:
            found = items(groups, name) or (items(shared[0], name) if shared else [])
            return found[0] if found else Dataset()

        context = _context(group("FrameContentSequence"), _FRAME_CONTEXT)
        places = (
            group("PlanePositionSequence"),
            group("PlaneOrientationSequence"),
            group("PixelMeasuresSequence"),
            group("PixelValueTransformationSequence"),
        )
        frames.append(_frame(header, index, places, context))
    return frames


def _frame(
    header: Header, index: int, places: tuple[Dataset, Dataset, Dataset, Dataset], context: tuple[tuple[str, str], ...]
) -> Frame:
    """The frame described by the data sets that hold its position, orientation, spacing and rescale."""
    where = shown(header.path) if header.frame_count == 1 else f"{shown(header.path)}: frame {index + 1}"
    position, orientation, measures, values = places
    row_mm, column_mm = _spacing(measures, where)
    slope, intercept = _rescale(values, where)
    cosines = _cosines(orientation, where)
    rescaled = bool(text(values, "RescaleSlope") or text(values, "RescaleIntercept"))
    place = _position(position, where)
    return Frame(header, index, place, cosines, (column_mm, row_mm), slope, intercept, rescaled, context)


def _position(dataset: Dataset, where: str) -> Numbers:
    position = numbers(dataset, "ImagePositionPatient")
    if position is None or position.shape != (3,):
        raise GeometryError(f"{where}: ImagePositionPatient is missing or not three numbers, so the slice has no place")
    if not np.isfinite(position).all() or np.abs(position).max() > FARTHEST_MM:
        raise GeometryError(
            f"{where}: ImagePositionPatient must be finite and within 1 km, got {_shown(position)} mm; export it again"
        )
    return position


def _cosines(dataset: Dataset, where: str) -> Numbers:
    cosines = numbers(dataset, "ImageOrientationPatient")
    if cosines is None or cosines.shape != (6,):
        raise GeometryError(
            f"{where}: ImageOrientationPatient is missing or not six numbers; the orientation is unknown"
        )
    pair: Numbers = cosines.reshape(2, 3)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(pair, axis=1)
        valid = np.abs(lengths - 1).max() <= COSINE_TOLERANCE and abs(float(pair[0] @ pair[1])) <= COSINE_TOLERANCE
    if not valid:  # also where a number is not finite
        raise GeometryError(
            f"{where}: ImageOrientationPatient must be two perpendicular unit vectors, got {_shown(cosines)}"
        )
    return np.asarray(pair / lengths[:, None])


def _spacing(dataset: Dataset, where: str) -> tuple[float, float]:
    """Between rows and between columns, in mm: the order of the standard (PS3.3, 10.7.1.3)."""
    spacing = numbers(dataset, "PixelSpacing")
    if spacing is None or spacing.shape != (2,):
        raise GeometryError(f"{where}: PixelSpacing is missing or not two numbers, so the size of a pixel is unknown")
    low, high = SPACING_RANGE_MM
    if not (np.isfinite(spacing).all() and spacing.min() >= low and spacing.max() <= high):
        raise GeometryError(
            f"{where}: PixelSpacing must be finite and from {low:g} to {high:g} mm, got {_shown(spacing)}; export it again"
        )
    return float(spacing[0]), float(spacing[1])


def _rescale(dataset: Dataset, where: str) -> tuple[float, float]:
    found = []
    for keyword, absent in _RESCALE.items():
        value = numbers(dataset, keyword)
        blank = keyword in dataset and any(
            text(dataset, other) for other in _RESCALE
        )  # which GDCM takes as 0, others as 1
        if value is None and not blank and not text(dataset, keyword):
            value = np.array([absent])
        if value is None or value.shape != (1,) or not np.isfinite(value[0]):
            raise DataError(f"{where}: {keyword} must be one finite number; intensities cannot be computed")
        found.append(float(value[0]))
    if found[0] == 0:
        raise DataError(f"{where}: RescaleSlope is 0, which would make every intensity equal; export the series again")
    return found[0], found[1]


def check_rescale(frames: Sequence[Frame], place: Path) -> list[str]:
    """A note if a CT says nowhere what its stored values mean. Raises DataError if some slices say so and others not."""
    bare = [frame for frame in frames if not frame.rescaled]
    if bare and len(bare) < len(frames):
        raise DataError(
            f"{shown(place)}: RescaleSlope and RescaleIntercept are missing in {bare[0].name(place)} "
            f"({len(bare)} of {len(frames)} slices of the series), but not in the others; intensities would jump: export the "
            "series again"
        )
    if bare and text(bare[0].header.dataset, "Modality") == "CT":
        return ["CT without RescaleSlope and RescaleIntercept: its stored values are taken as Hounsfield units"]
    return []


def _context(dataset: Dataset, keywords: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    return tuple((keyword, text(dataset, keyword)) for keyword in keywords)


def _shown(values: Numbers) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
