"""RT structure sets as an output: pydicom is imported only once one is asked for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.core.labels import Labels
from medseg.io.scan import Scan
from medseg.io.segmentation import Segmentation, Writer


def _paths(place: Path, labels: Labels) -> tuple[Path, ...]:
    from medseg.io.dicom_rtstruct import rtstruct_paths

    return rtstruct_paths(place, labels)


def _contents(segmentation: Segmentation) -> Mapping[Path, bytes]:
    """A DICOM RT Structure Set: the contours of each structure on the slices of its series."""
    from medseg.io.dicom_rtstruct import rtstruct

    return rtstruct(segmentation)


def _check(scan: Scan) -> None:
    from medseg.io.dicom_rtstruct import check_referable

    check_referable(scan)


def _remarks(segmentation: Segmentation) -> Sequence[str]:
    from medseg.io.dicom_rtstruct import rtstruct_remarks

    return rtstruct_remarks(segmentation)


RTSTRUCT = Writer(_paths, _contents, check=_check, remarks=_remarks)
