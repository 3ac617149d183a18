"""The DICOM images that a result was drawn on, reduced to what an object made from them may repeat: never more than that."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pydicom.valuerep import format_number_as_ds

from medseg.core.errors import DataError
from medseg.core.quiet import quiet
from medseg.io.dicom_frames import Frame, Numbers, frames_of
from medseg.io.dicom_header import text
from medseg.io.source import shown

# The attributes of the modules Patient, General Study and Clinical Trial that every object of a study must hold (type 1
# and 2 of PS3.3, C.7.1.1 and C.7.2.1), and what they must look like to be repeated; anything else is left blank.
PATIENT_AND_STUDY = {
    **dict.fromkeys(("PatientName", "PatientID", "ReferringPhysicianName", "StudyID", "AccessionNumber"), r".*"),
    **{
        "PatientBirthDate": r"\d{8}",
        "PatientSex": r"[MFO]",
        "StudyDate": r"\d{8}",
        "StudyTime": r"\d{2,6}(\.\d{1,6})?",
    },
}
_LOSSY = "LossyImageCompression"
_LOSSY_HOW = {  # which an object from such images must repeat (type 1C of PS3.3, C.8.20.2), one value for each compression
    "LossyImageCompressionRatio": r"\d{1,8}(\.\d{1,7})?",
    "LossyImageCompressionMethod": r"ISO_\d{1,6}(_\d{1,4})?",
}


@dataclass(frozen=True)
class Sources:
    """``frames`` lie on the planes ``planes`` of a grid whose directions and spacing are those of the first one."""

    frames: tuple[Frame, ...]
    planes: tuple[int, ...]

    @cached_property
    def study_uid(self) -> str:
        return self._uid("StudyInstanceUID", *sorted(self._found("SOPInstanceUID")))

    @cached_property
    def series_uid(self) -> str:
        return self._uid("SeriesInstanceUID", self.study_uid, *sorted(self._found("SOPInstanceUID")))

    @cached_property
    def frame_of_reference_uid(self) -> str:
        return self._uid("FrameOfReferenceUID", self.series_uid)

    def instance_uid(self, frame: Frame) -> str:
        """The image's own UID; a stand-in where it has none, or shares it with an image at another place."""
        found = text(frame.header.dataset, "SOPInstanceUID")
        if _valid(found) and found not in self._shared_uids:
            return found
        return stand_in("SOPInstanceUID", self.series_uid, "" if self.is_enhanced else _list(frame.position))

    @cached_property
    def _shared_uids(self) -> set[str]:
        files = {(text(frame.header.dataset, "SOPInstanceUID"), frame.path) for frame in self.frames}
        counts = Counter(uid for uid, _ in files)
        return {uid for uid, count in counts.items() if count > 1}

    @property
    def is_enhanced(self) -> bool:
        return "PerFrameFunctionalGroupsSequence" in self.frames[0].header.dataset

    def missing_uids(self) -> list[str]:
        """Which kinds of UID the images lack, or share where each needs its own, so that stand-ins took their place."""
        kinds = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID")
        return [
            kind
            for kind in kinds
            if not all(_valid(uid) for uid in self._found(kind)) or (kind == "SOPInstanceUID" and self._shared_uids)
        ]

    def _uid(self, keyword: str, *parts: str) -> str:
        found = next((uid for uid in self._found(keyword) if _valid(uid)), None)
        return found or stand_in(keyword, *parts)

    def _found(self, keyword: str) -> list[str]:
        return [text(frame.header.dataset, keyword) for frame in self.frames]


def stand_in(*parts: str) -> str:
    """A UID (2.25, PS3.5, B.2) that depends on ``parts`` alone, so that two results from one scan refer to the same."""
    return f"2.25.{int.from_bytes(hashlib.sha256(chr(0).join(parts).encode()).digest()[:16], 'big')}"


def sources_of(frames: Sequence[Frame], planes: Sequence[int]) -> Sources:
    """Raises DataError where ``frames`` come from several multi-frame files, which no object of ours refers to yet."""
    sources = Sources(tuple(frames), tuple(planes))
    if sources.is_enhanced and len({frame.path for frame in frames}) > 1:
        raise DataError(
            "its series is spread over several multi-frame files, which a DICOM SEG of medseg cannot refer to; leave out "
            "--dicom-seg, or join them into one file"
        )
    return sources


def images_of(sources: Sources, spacing_mm: float) -> list[Dataset]:
    """What the library that writes DICOM may know of the source images: one data set per file, in the order of the frames.

    Each holds identity, place and size, with patient and study of the first one; nothing private, no pixels, no free text.
    ``spacing_mm`` is the distance between planes along their normal.
    """
    common = _patient_and_study(sources.frames[0].path)
    common.StudyInstanceUID = sources.study_uid
    common.SeriesInstanceUID = sources.series_uid
    common.FrameOfReferenceUID = sources.frame_of_reference_uid
    common.PositionReferenceIndicator = ""
    first = sources.frames[0]
    common.Modality = text(first.header.dataset, "Modality") or "OT"
    common.Rows, common.Columns = (int(text(first.header.dataset, key)) for key in ("Rows", "Columns"))
    measures = Dataset()
    measures.PixelSpacing = decimal(first.spacing_mm[::-1])
    measures.SliceThickness = measures.SpacingBetweenSlices = decimal([spacing_mm])[0]
    if sources.is_enhanced:
        return [_enhanced(common, measures, sources)]
    return [_classic(common, measures, frame, sources) for frame in sources.frames]


def _patient_and_study(path: Path) -> Dataset:
    wanted: list[str | int] = [*PATIENT_AND_STUDY, _LOSSY, *_LOSSY_HOW, "SpecificCharacterSet"]
    with quiet():
        try:
            found = dcmread(path, stop_before_pixels=True, force=True, specific_tags=wanted)
        except OSError as error:
            raise DataError(f"{shown(path)}: could not be read again ({error.strerror or error})") from error
        values = {keyword: _plain(found, keyword) for keyword in PATIENT_AND_STUDY}
        how = {keyword: text(found, keyword).split("\\") for keyword in _LOSSY_HOW}
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"  # decoded above, whatever the source's was, and written as UTF-8
    for keyword, pattern in PATIENT_AND_STUDY.items():
        setattr(made, keyword, values[keyword] if re.fullmatch(pattern, values[keyword]) else "")
    made.LossyImageCompression = "01" if _plain(found, _LOSSY) == "01" else "00"  # once lossy, all that follows is
    for keyword, pattern in _LOSSY_HOW.items() if made.LossyImageCompression == "01" else ():
        if all(re.fullmatch(pattern, value) for value in how[keyword]):
            setattr(made, keyword, how[keyword])
    return made


def _plain(dataset: Dataset, keyword: str) -> str:
    """The element as text; empty where it is absent, not readable, or holds several values."""
    try:
        value = dataset.get(keyword)
    except Exception:  # pydicom raises nearly every kind on a corrupt value
        return ""
    words = "" if value is None else str(value).strip(" \0")
    return "" if "\\" in words or words.startswith("[") else words


def _copy(common: Dataset, frame: Frame, sources: Sources) -> Dataset:
    made = Dataset()
    made.update(common)
    made.SOPClassUID = frame.header.sop_class
    made.SOPInstanceUID = sources.instance_uid(frame)
    return made


def _classic(common: Dataset, measures: Dataset, frame: Frame, sources: Sources) -> Dataset:
    made = _copy(common, frame, sources)
    made.ImageOrientationPatient = decimal(sources.frames[0].cosines.ravel())
    made.ImagePositionPatient = decimal(frame.position)
    made.update(measures)
    return made


def _enhanced(common: Dataset, measures: Dataset, sources: Sources) -> Dataset:
    first = sources.frames[0]
    made = _copy(common, first, sources)
    made.NumberOfFrames = first.header.frame_count
    orientation, shared = Dataset(), Dataset()
    orientation.ImageOrientationPatient = decimal(sources.frames[0].cosines.ravel())
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for frame in frames_of(first.header):
        position, group = Dataset(), Dataset()
        position.ImagePositionPatient = decimal(frame.position)
        group.PlanePositionSequence = [position]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    return made


def decimal(values: Numbers | Sequence[float]) -> list[str]:
    """``values`` as Decimal Strings of at most 16 characters."""
    return [format_number_as_ds(float(value)) for value in values]


def _list(values: Numbers) -> str:
    return "\\".join(decimal(values))


def _valid(uid: str) -> bool:
    return bool(uid) and UID(uid).is_valid
