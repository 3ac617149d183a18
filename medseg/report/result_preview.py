"""The picture of a result: its label map drawn on its scan, a writer beside those of ``io.outputs``."""

from collections.abc import Mapping
from pathlib import Path

from medseg.core.files import Content
from medseg.core.labels import Labels
from medseg.core.text import printable
from medseg.io.segmentation import Segmentation, Writer

FOLDER = "preview"


def preview_path(place: Path) -> Path:
    """``preview/<case>_seg.png``: in a folder of its own, where nothing takes it for a scan or a label map."""
    return place.parent / FOLDER / f"{place.name}.png"


def _paths(place: Path, labels: Labels) -> tuple[Path]:
    return (preview_path(place),)


def _picture(segmentation: Segmentation) -> Mapping[Path, Content]:
    """A PNG of the label map on its scan: the axial, coronal and sagittal slice that shows the structures best."""
    from medseg.report.overlay import overlays_png  # and with it matplotlib

    case = segmentation.place.name.removesuffix("_seg")
    png = overlays_png(
        segmentation.scan.volume,
        segmentation.label_map,
        None,
        title=printable(f"{case}   ({segmentation.algorithm}; not a medical device)"),
    )
    return {preview_path(segmentation.place): png}


PREVIEW = Writer(_paths, _picture)
