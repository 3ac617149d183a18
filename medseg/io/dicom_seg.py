"""A DICOM Segmentation of the label map, written by highdicom and read back by our own code before it gets its name."""

import datetime
import hashlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels, Structure
from medseg.core.provenance import versions
from medseg.core.quiet import quiet
from medseg.core.terminology import SIDES, Code, Concept, concept_of
from medseg.io.colour_tables import rgb
from medseg.io.scan import Scan
from medseg.io.segmentation import Segmentation
from medseg.io.source import shown

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from medseg.io.dicom_source import Sources

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SERIES_NUMBER = 1000
_LONGEST = 64  # characters of a Long String
_SAME_PLACE_MM = 1e-3
_SOURCE = Code("121322", "Source image for image processing operation", "DCM")
_SEGMENTATION = Code("113076", "Segmentation", "DCM")


def dicom_seg_paths(place: Path, labels: Labels) -> tuple[Path]:
    """``<place>.dcm``."""
    return (Path(f"{place}.dcm"),)


def check_dicom(scan: Scan) -> None:
    """Raise DataError for a scan that was not read from DICOM images to which a DICOM object can refer."""
    from medseg.io.dicom_source import sources_of

    if not scan.frames:
        raise DataError("a DICOM SEG refers to DICOM images, and this scan was read from none; leave out --dicom-seg")
    sources_of(scan.frames, scan.planes)


def dicom_seg(segmentation: Segmentation) -> dict[Path, bytes]:
    """The object: a BINARY segment for each structure that has voxels. No file where none has; ``dicom_seg_remarks`` says so.

    Raises DataError where it does not read back equal to the label map, voxel for voxel and in millimetres.
    """
    from medseg.io.dicom_seg_check import check_equal
    from medseg.io.dicom_source import sources_of

    check_dicom(segmentation.scan)
    present = _present(segmentation)
    if not present:
        return {}
    (path,) = dicom_seg_paths(segmentation.place, segmentation.labels)
    sources = sources_of(segmentation.scan.frames, segmentation.scan.planes)
    content = _written(path, segmentation, present, sources)
    try:
        check_equal(content, segmentation.label_map, present, sources)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}; the DICOM SEG is not written, please report this") from None
    return {path: content}


def dicom_seg_remarks(segmentation: Segmentation) -> list[str]:
    """Structures left out for want of voxels, or without a SNOMED CT code; UIDs that the images lack."""
    from medseg.io.dicom_source import sources_of

    present = _present(segmentation)
    empty = [s.name for s in segmentation.labels.structures if s not in present]
    uncoded = [s.name for s in present if concept_of(s).is_private]
    missing = sources_of(segmentation.scan.frames, segmentation.scan.planes).missing_uids()
    found = []
    if not present:
        found.append("no structure was found, so there is no DICOM SEG")
    elif empty:
        found.append(f"DICOM SEG: {', '.join(empty)} left out, no voxel found")
    if uncoded:
        found.append(
            f"DICOM SEG: {', '.join(uncoded)} without a SNOMED CT code, a private one is written; "
            'give it in the config\'s labels, such as `liver: {value: 1, snomed: "10200004"}`'
        )
    if missing and present:
        found.append(
            f"DICOM SEG: the images have no {', '.join(missing)} of their own; stand-ins derived from the rest are written"
        )
    return found


def _present(segmentation: Segmentation) -> list[Structure]:
    counts = np.zeros(max(segmentation.labels.values) + 1, np.int64)
    for part in segmentation.label_map.data.T:  # slice by slice: bincount takes 8 bytes a voxel
        counts += np.bincount(part.ravel(), minlength=len(counts))[: len(counts)]
    return [s for s in segmentation.labels.structures if counts[s.value]]


def _written(path: Path, segmentation: Segmentation, present: Sequence[Structure], sources: "Sources") -> bytes:
    from highdicom.seg import Segmentation as DicomSegmentation
    from pydicom import dcmwrite

    attributes = _attributes(segmentation, present, sources)
    buffer = BytesIO()
    with quiet():  # both libraries warn about odd but harmless values of the source
        try:
            made = DicomSegmentation(**attributes)
            _add_references(made, sources)
            made.preamble = bytes(128)
            dcmwrite(buffer, made, enforce_file_format=True)
        except (
            ValueError,
            TypeError,
            AttributeError,
            KeyError,
        ) as error:  # their text may hold what a patient is called
            raise DataError(
                f"{shown(path)}: no DICOM SEG can be made of this series ({type(error).__name__} in highdicom); "
                "leave out --dicom-seg, NIfTI holds the same mask"
            ) from error
    return buffer.getvalue()


def _attributes(segmentation: Segmentation, present: Sequence[Structure], sources: "Sources") -> dict[str, Any]:
    """All that highdicom is told."""
    from pydicom.uid import ExplicitVRLittleEndian

    from medseg.io.dicom_source import images_of

    now = datetime.datetime.now()
    series, instance = _new_uids(segmentation, sources, now)
    version = versions()["medseg"]
    geometry = segmentation.label_map.geometry
    return {
        "source_images": images_of(sources, _spacing_mm(geometry)),
        "pixel_array": _segment_numbers(segmentation.label_map.data, present),
        "segmentation_type": "BINARY",
        "segment_descriptions": [_described(n + 1, s, segmentation, version) for n, s in enumerate(present)],
        "series_instance_uid": series,
        "series_number": _SERIES_NUMBER,
        "sop_instance_uid": instance,
        "instance_number": 1,
        "manufacturer": "medseg",
        "manufacturer_model_name": "medseg",
        "software_versions": version,
        "device_serial_number": "none",
        "content_label": "SEGMENTATION",
        "content_description": "Segmentation by medseg",
        "series_description": "Segmentation by medseg",
        **{"content_date": now.date(), "content_time": now.time()},
        **{"series_date": now.date(), "series_time": now.time()},
        "transfer_syntax_uid": ExplicitVRLittleEndian,
        "plane_positions": _positions(geometry, sources),
    }


def _add_references(made: Any, sources: "Sources") -> None:
    """Name each frame's image where highdicom named none at all: it does so once a single plane was filled in."""
    from pydicom.dataset import Dataset

    places = np.array([frame.position for frame in sources.frames])
    for group in made.PerFrameFunctionalGroupsSequence:
        apart = np.linalg.norm(places - np.array(group.PlanePositionSequence[0].ImagePositionPatient, float), axis=1)
        if group.DerivationImageSequence or apart.min() > _SAME_PLACE_MM:
            continue
        frame = sources.frames[int(apart.argmin())]
        reference, derivation = Dataset(), Dataset()
        reference.ReferencedSOPClassUID = frame.header.sop_class
        reference.ReferencedSOPInstanceUID = sources.instance_uid(frame)
        if sources.is_enhanced:
            reference.ReferencedFrameNumber = frame.index + 1
        reference.SpatialLocationsPreserved = "YES"
        reference.PurposeOfReferenceCodeSequence = [_coded(_SOURCE)]
        derivation.SourceImageSequence = [reference]
        derivation.DerivationCodeSequence = [_coded(_SEGMENTATION)]
        group.DerivationImageSequence = [derivation]


def _new_uids(segmentation: Segmentation, sources: "Sources", now: datetime.datetime) -> tuple[str, str]:
    """UIDs of the new series and instance: what is in them, and when it was made, decide."""
    from medseg.io.dicom_source import stand_in

    digest = hashlib.sha256(np.ascontiguousarray(segmentation.label_map.data.T).data).hexdigest()
    parts = (sources.series_uid, segmentation.algorithm, digest, now.isoformat())
    return stand_in("series", *parts), stand_in("instance", *parts)


def _segment_numbers(data: npt.NDArray[Any], present: Sequence[Structure]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """(planes, rows, columns) of segment numbers: 1 for the first structure that is present, and so on."""
    table = np.zeros(
        max(int(data.max()), *(s.value for s in present)) + 1, np.uint16 if len(present) > 255 else np.uint8
    )
    for number, structure in enumerate(present, 1):
        table[structure.value] = number
    numbers: npt.NDArray[np.unsignedinteger[Any]] = table[data.T]
    return numbers


def _positions(geometry: Geometry, sources: "Sources") -> list[Any]:
    """The position of every plane: its frame's own, the grid's where it was filled in."""
    from highdicom import PlanePositionSequence

    from medseg.io.dicom_source import decimal

    own = dict(zip(sources.planes, (frame.position for frame in sources.frames), strict=True))
    lps = _LPS_TO_RAS @ geometry.affine
    positions = [own.get(k, lps[:3, 3] + k * lps[:3, 2]) for k in range(geometry.shape[2])]
    return [PlanePositionSequence("PATIENT", [float(value) for value in decimal(position)]) for position in positions]


def _spacing_mm(geometry: Geometry) -> float:
    """Between planes, along their normal."""
    normal = np.cross(geometry.affine[:3, 0], geometry.affine[:3, 1])
    return float(abs(normal @ geometry.affine[:3, 2]) / np.linalg.norm(normal))


def _described(number: int, structure: Structure, segmentation: Segmentation, version: str) -> "Dataset":
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    concept = concept_of(structure)
    model = segmentation.algorithm.replace("\\", "/")[:_LONGEST] or "medseg"
    made: Dataset = SegmentDescription(
        segment_number=number,
        segment_label=segment_label(structure),
        segmented_property_category=_coded(concept.category),
        segmented_property_type=_coded(concept.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=model,
            family=codes.DCM.ArtificialIntelligence,
            version=version,
        ),
        anatomic_regions=[_coded(concept.site)] if concept.site else None,
        display_color=CIELabColor.from_rgb(*rgb(structure.colour)),
    )
    _add_side(made, concept)
    return made


def segment_label(structure: Structure) -> str:
    """The name as a Long String holds it: at most 64 characters, none of them a backslash, which would part two values."""
    return structure.name.replace("\\", "/")[:_LONGEST].strip()


def _add_side(description: "Dataset", concept: Concept) -> None:
    """Left or right, as a modifier of what the segment shows."""
    if concept.side is not None:
        item = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [_coded(SIDES[concept.side])]


def _coded(code: Code) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value=code.value, scheme_designator=code.scheme, meaning=code.meaning.replace("\\", "/"))
