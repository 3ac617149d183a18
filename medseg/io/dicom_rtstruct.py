"""RT structure sets written: each structure as closed contours on the frames of the DICOM series it was found in.

Contours run along the pixels' edges (``io.contours``): filled again they are the mask to the voxel, and their area times
the slice distance is its volume. Holes are joined by keyholes, so every contour is CLOSED_PLANAR and stands for itself.
"""

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import dcmread, dcmwrite
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian

from medseg.core.boxes import Box, boxes_of
from medseg.core.errors import DataError, OutputError
from medseg.core.labels import Labels, Structure
from medseg.core.provenance import versions
from medseg.core.quiet import quiet
from medseg.io.colour_tables import rgb
from medseg.io.contours import outlines
from medseg.io.dicom_contours import PLANE_TOLERANCE, RT_STRUCTURE_SET, contour_points, contours_as_masks
from medseg.io.dicom_frames import Frame
from medseg.io.dicom_source import PATIENT_AND_STUDY, Sources, images_of, stand_in
from medseg.io.named_masks import as_one_label_map
from medseg.io.scan import Scan
from medseg.io.segmentation import Segmentation
from medseg.io.source import shown

_REFERENCED_STUDY = "1.2.840.10008.3.1.2.3.1"
_TO_LPS = np.array([-1.0, -1.0, 1.0])
_LONGEST_NAME = 64
_CONTOUR_DATA = Tag(0x3006, 0x0050)
Points = npt.NDArray[np.float64]


def rtstruct_paths(place: Path, labels: Labels) -> tuple[Path, ...]:
    """``<place>_rtstruct.dcm``. Raises DataError where DICOM cannot hold the name of a structure."""
    for structure in labels.structures:
        if len(structure.name) > _LONGEST_NAME or "\\" in structure.name:
            raise DataError(
                f"labels: {structure.name!r} cannot be the name of a DICOM region: at most {_LONGEST_NAME} characters, none "
                "of them a backslash; rename the structure"
            )
    return (place.with_name(f"{place.name}_rtstruct.dcm"),)


def check_referable(scan: Scan) -> None:
    """Raise DataError unless ``scan`` is a DICOM series whose slices another object can tell apart."""
    if not scan.frames:
        raise DataError(
            "--rtstruct draws contours on the slices of a DICOM series, and this scan is none; give the DICOM folder, or "
            "choose another output, such as --mesh"
        )
    sources = _sources(scan)
    if len({(sources.instance_uid(frame), frame.index) for frame in scan.frames}) < len(scan.frames):
        raise DataError(
            f"{shown(scan.frames[0].path)}: two slices of the series have one SOPInstanceUID, so an RT structure set cannot "
            "refer to one of them; give each its own"
        )


def rtstruct_remarks(segmentation: Segmentation) -> list[str]:
    """What a reader of the structure set should know: UIDs that the images lack."""
    missing = _sources(segmentation.scan).missing_uids()
    if not missing:
        return []
    return [
        f"RT structure set: the images have no {', '.join(missing)} of their own; stand-ins derived from the rest are written"
    ]


def _sources(scan: Scan) -> Sources:
    return Sources(scan.frames, scan.planes)


def rtstruct(segmentation: Segmentation) -> dict[Path, bytes]:
    """The structure set's file, read back: the voxels of every structure are those of the mask, or OutputError is raised."""
    (path,) = rtstruct_paths(segmentation.place, segmentation.labels)
    check_referable(segmentation.scan)
    content = BytesIO()
    with quiet():  # pydicom warns about odd values that the scan itself has
        dcmwrite(content, _structure_set(segmentation), enforce_file_format=True)
        _check_equal(path, content.getvalue(), segmentation)
    return {path: content.getvalue()}


def _structure_set(segmentation: Segmentation) -> FileDataset:
    sources = _sources(segmentation.scan)
    now = datetime.now()
    digest = hashlib.sha256(np.ascontiguousarray(segmentation.label_map.data.T).data).hexdigest()
    parts = ("rtstruct", sources.series_uid, segmentation.algorithm, digest, now.isoformat())
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RT_STRUCTURE_SET
    meta.MediaStorageSOPInstanceUID = stand_in("instance", *parts)
    # Implicit VR: in explicit VR the contours of a large structure, 64 KiB and more, do not fit the length of their VR.
    meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    _describe(dataset, sources, segmentation.algorithm, now)
    dataset.SeriesInstanceUID = stand_in("series", *parts)
    dataset.ReferencedFrameOfReferenceSequence = [_frame_of_reference(sources)]
    structures = segmentation.labels.structures
    dataset.StructureSetROISequence = [_region(n, s, segmentation) for n, s in enumerate(structures, 1)]
    boxes = boxes_of(segmentation.label_map.data)
    dataset.ROIContourSequence = [
        _region_contours(n, s, segmentation, boxes.get(s.value)) for n, s in enumerate(structures, 1)
    ]
    dataset.RTROIObservationsSequence = [
        _item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="", ROIInterpreter="")
        for n in range(1, len(structures) + 1)
    ]
    return dataset


def _describe(dataset: Dataset, sources: Sources, algorithm: str, now: datetime) -> None:
    """Patient, study, series, equipment and approval, the first two as the scan says them."""
    told = images_of(sources, 1.0)[0]
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword in PATIENT_AND_STUDY:
        setattr(dataset, keyword, told[keyword].value)
    dataset.SOPClassUID = RT_STRUCTURE_SET
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = sources.study_uid
    dataset.FrameOfReferenceUID = sources.frame_of_reference_uid
    dataset.PositionReferenceIndicator = ""
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1
    dataset.SeriesDescription = f"medseg {algorithm}"[:_LONGEST_NAME]
    dataset.OperatorsName = ""
    dataset.Manufacturer = "medseg"
    dataset.ManufacturerModelName = "medseg"
    dataset.SoftwareVersions = versions()["medseg"]
    dataset.StructureSetLabel = "medseg"
    dataset.StructureSetName = algorithm[:_LONGEST_NAME]
    dataset.StructureSetDate = dataset.InstanceCreationDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.StructureSetTime = dataset.InstanceCreationTime = dataset.SeriesTime = now.strftime("%H%M%S")
    dataset.ApprovalStatus = "UNAPPROVED"


def _frame_of_reference(sources: Sources) -> Dataset:
    images = {id(frame.header): _image(frame, sources) for frame in sources.frames}
    series = _item(SeriesInstanceUID=sources.series_uid, ContourImageSequence=list(images.values()))
    study = _item(
        ReferencedSOPClassUID=_REFERENCED_STUDY,
        ReferencedSOPInstanceUID=sources.study_uid,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=sources.frame_of_reference_uid, RTReferencedStudySequence=[study])


def _image(frame: Frame, sources: Sources) -> Dataset:
    """A reference to the file of ``frame``."""
    return _item(
        ReferencedSOPClassUID=str(frame.header.sop_class), ReferencedSOPInstanceUID=sources.instance_uid(frame)
    )


def _region(number: int, structure: Structure, segmentation: Segmentation) -> Dataset:
    return _item(
        ROINumber=number,
        ReferencedFrameOfReferenceUID=_sources(segmentation.scan).frame_of_reference_uid,
        ROIName=structure.name,
        ROIGenerationAlgorithm="AUTOMATIC",
        ROIGenerationDescription=f"medseg {segmentation.algorithm}"[:_LONGEST_NAME],
    )


def _region_contours(number: int, structure: Structure, segmentation: Segmentation, box: Box | None) -> Dataset:
    item = _item(ROIDisplayColor=list(rgb(structure.colour)), ReferencedROINumber=number)
    sources = _sources(segmentation.scan)
    if box is not None:
        found = contours_mm(segmentation, structure.value, box)
        item.ContourSequence = [_contour(points, frame, sources) for points, frame in found]
        for n, contour in enumerate(item.ContourSequence, 1):
            contour.ContourNumber = n
    return item


def contours_mm(segmentation: Segmentation, value: int, box: Box) -> Iterator[tuple[Points, Frame | None]]:
    """The contours (n, 3) in LPS mm of a structure inside ``box``, each with its frame; None on a plane that was filled in."""
    scan, data = segmentation.scan, segmentation.label_map.data
    frames = dict(zip(scan.planes, scan.frames, strict=True))
    start = np.array([box[0].start, box[1].start])
    for plane in range(box[2].start, box[2].stop):
        frame = frames.get(plane)
        for polygon in outlines(data[box[0], box[1], plane] == value):
            yield _on_frame(polygon + start, frame) if frame else _on_plane(polygon + start, plane, scan), frame


def _on_frame(polygon: Points, frame: Frame) -> Points:
    points: Points = frame.position + (polygon * frame.spacing_mm) @ frame.cosines
    return points


def _on_plane(polygon: Points, plane: int, scan: Scan) -> Points:
    points: Points = scan.volume.geometry.to_world(np.insert(polygon, 2, plane, axis=1)) * _TO_LPS
    return points


def _contour(points: Points, frame: Frame | None, sources: Sources) -> Dataset:
    item = _item(ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(points))
    if frame is not None:
        image = _image(frame, sources)
        if frame.header.frame_count > 1:
            image.ReferencedFrameNumber = frame.index + 1
        item.ContourImageSequence = [image]
    words = "\\".join(f"{x:.6f}".rstrip("0").rstrip(".") for x in points.ravel().tolist())
    value = (words + " " * (len(words) % 2)).encode("ascii")
    # As bytes, ready to be written: as numbers, pydicom takes 30 us to check each of them.
    item[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(value), value, 0, True, True)
    return item


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for keyword, value in elements.items():
        setattr(item, keyword, value)
    return item


def _check_equal(path: Path, content: bytes, segmentation: Segmentation) -> None:
    """Raise OutputError unless the file, read again, holds the voxels, volume and centroid of every structure."""
    label_map, labels = segmentation.label_map, segmentation.labels
    again = dcmread(BytesIO(content))
    failed = f"{shown(path)}: nothing was written, because the contours do not fill to the mask again"
    advice = "report it, and choose another output meanwhile"
    try:
        found = as_one_label_map(contours_as_masks(path, again, label_map.geometry), labels)
    except DataError as error:
        raise OutputError(f"{failed} ({error}); {advice}") from error
    boxes = boxes_of(label_map.data)
    differ = found.data != label_map.data
    values = {*np.unique(found.data[differ]).tolist(), *np.unique(label_map.data[differ]).tolist()}
    wrong = [
        s.name
        for n, s in enumerate(labels.structures)
        if s.value in values or not _lies_right(again.ROIContourSequence[n], s, segmentation, boxes.get(s.value))
    ]
    if wrong:
        raise OutputError(f"{failed}: {', '.join(wrong)}; {advice}")


def _lies_right(item: Dataset, structure: Structure, segmentation: Segmentation, box: Box | None) -> bool:
    """Whether the contours' own area and centre in the world, without any grid, are those of the mask in its ``box``."""
    geometry = segmentation.label_map.geometry
    contours: Sequence[Dataset] = item.get("ContourSequence") or []
    if not contours or box is None:
        return not contours and box is None
    inside = np.argwhere(segmentation.label_map.data[box] == structure.value) + [side.start for side in box]
    areas, centres = zip(*(_area_and_centre(contour_points(structure.name, c)) for c in contours), strict=True)
    axes = geometry.affine[:3, :3]
    pixel_mm2 = float(np.linalg.norm(np.cross(axes[:, 0], axes[:, 1])))
    centre = geometry.to_voxel(np.average(np.array(centres), axis=0, weights=areas))
    same_size = abs(sum(areas) / pixel_mm2 - len(inside)) <= 1e-3 * len(inside)
    return bool(same_size and np.abs(centre - inside.mean(axis=0)).max() <= PLANE_TOLERANCE)


def _area_and_centre(points: Points) -> tuple[float, Points]:
    """Area in mm2 and centroid (3,) in mm of a planar polygon (n, 3)."""
    origin = points.mean(axis=0)
    a, b = points - origin, np.roll(points, -1, axis=0) - origin
    normals = np.cross(a, b)
    total = normals.sum(axis=0)
    weights = normals @ total / np.linalg.norm(total)
    return float(weights.sum() / 2), origin + (weights[:, None] * (a + b) / 3).sum(axis=0) / weights.sum()
