"""A folder of one mask per structure, named by its file: ``liver.nii.gz``, ``spleen.nii.gz``, as TotalSegmentator writes it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from medseg.core.case import has_image_suffix, strip_image_suffix
from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import order_between
from medseg.core.volume import LabelMap
from medseg.io.named_masks import NamedMasks, Piece
from medseg.io.source import shown

NOT_MASKS = (".zip", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm")


def mask_files(folder: Path) -> list[Path]:
    """The 3D image files directly in ``folder``, sorted; none where it holds none. Raises DataError where it is closed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{shown(folder)}: this folder cannot be read ({error.strerror})") from None
    return [entry for entry in entries if _is_mask(entry)]


def _is_mask(entry: Path) -> bool:
    name = entry.name.lower()
    half = name.endswith(".img") and entry.with_suffix(".hdr").exists()
    return has_image_suffix(name) and not name.startswith(".") and not name.endswith(NOT_MASKS) and not half


def folder_as_masks(folder: Path, read: Callable[[Path], LabelMap]) -> NamedMasks:
    """The masks of ``folder`` on the grid of the first one, in its storage order; ``read`` reads one of them.

    A voxel belongs to the structure where its file is not 0. Raises GeometryError where two lie on different grids,
    DataError where a file holds two values beside 0: it is a label map, not a mask.
    """
    files = mask_files(folder)
    grid = read(files[0]).geometry

    def pieces(n: int) -> Iterator[Piece]:
        found = read(files[n])
        order = order_between(found.geometry, grid)
        if order is None:
            raise GeometryError(
                f"{shown(files[n])}: grid {found.geometry!r} differs from {grid!r} of {shown(files[0])}; the masks of one "
                "case must lie on one grid: resample them first"
            )
        values = np.unique(found.data[found.data != 0])
        if len(values) > 1:
            raise DataError(
                f"{shown(files[n])}: holds the values {', '.join(map(str, values[:5]))}, a mask holds one beside 0; a label "
                "map with several structures is given as a file, not as a folder of masks"
            )
        yield (slice(None),) * 3, order.array(found.data) != 0

    return NamedMasks(shown(folder), tuple(strip_image_suffix(file.name) for file in files), grid, pieces)
