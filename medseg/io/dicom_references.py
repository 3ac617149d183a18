"""Label maps that come as a DICOM object: segmentations and RT structure sets, by what the file says it is."""

from pathlib import Path

from medseg.core.geometry import Geometry
from medseg.core.quiet import quiet
from medseg.io.dicom_contours import RT_STRUCTURE_SET, contours_as_masks, on_every_plane
from medseg.io.dicom_header import read_header
from medseg.io.dicom_segments import SEGMENT_KEYWORDS, SEGMENTATIONS, segments_as_masks
from medseg.io.named_masks import NamedMasks

_CONTOUR_KEYWORDS = ("StructureSetROISequence", "ROIContourSequence")


def is_structured(path: Path) -> bool:
    """True where the DICOM file ``path`` is a segmentation or an RT structure set. Raises DataError where it is damaged."""
    return read_header(path).sop_class in (*SEGMENTATIONS, RT_STRUCTURE_SET)


def read_structured(path: Path, like: Geometry | None, *, max_voxels: int) -> NamedMasks:
    """The masks of a segmentation or an RT structure set on the grid ``like``, that of its image.

    Raises DataError or GeometryError as ``segments_as_masks`` and ``contours_as_masks`` do.
    """
    with quiet():  # pydicom warns about what is refused here by name, or is harmless
        if read_header(path).sop_class == RT_STRUCTURE_SET:
            return on_every_plane(contours_as_masks(path, read_header(path, *_CONTOUR_KEYWORDS).dataset, like))
        return segments_as_masks(read_header(path, *SEGMENT_KEYWORDS), like, max_voxels=max_voxels)
