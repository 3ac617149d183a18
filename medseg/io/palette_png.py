"""The label map of a 2D picture as a PNG whose values are the labels and whose palette holds the structures' colours."""

from pathlib import Path

import numpy as np

from medseg.core.errors import DataError
from medseg.core.geometry import order_to
from medseg.core.labels import Labels
from medseg.io.scan import Scan
from medseg.io.segmentation import Segmentation, Writer
from medseg.io.source import shown


def palette_png_paths(place: Path, labels: Labels) -> tuple[Path]:
    """``<place>.png``."""
    return (Path(f"{place}.png"),)


def check_one_slice(scan: Scan) -> None:
    """Raise DataError unless the scan is one axial slice, as a picture is."""
    grid = scan.volume.geometry
    if order_to(grid, "LPS").geometry(grid).shape[2] != 1:
        raise DataError(f"{grid!r} is not one axial slice, which is what a PNG holds; leave out --palette-png")


def palette_png_files(segmentation: Segmentation) -> dict[Path, bytes]:
    """The file, decoded again and compared with the label map."""
    from medseg.io.image2d import as_seen, palette_png, pixels_of_png

    (path,) = palette_png_paths(segmentation.place, segmentation.labels)
    found = segmentation.label_map
    content = palette_png(found, segmentation.labels)
    if not np.array_equal(pixels_of_png(content), as_seen(shown(path), found.data, found.geometry)):
        raise DataError(f"{shown(path)}: the PNG did not read back equal to the label map, so it is not written")
    return {path: content}


PALETTE_PNG = Writer(palette_png_paths, palette_png_files, check=check_one_slice)
