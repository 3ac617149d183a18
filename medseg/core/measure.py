"""What a label map's structures measure: voxels, volume, place, and the scan's intensities inside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from medseg.core.border import touched_sides
from medseg.core.errors import GeometryError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels, Structure
from medseg.core.volume import LabelMap, Volume

Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]
_BLOCK = 2**22


@dataclass(frozen=True)
class Intensities:
    """Of the voxels of one structure in one channel; ``sd`` is that of these voxels (divided by n, not n - 1)."""

    mean: float
    sd: float
    median: float
    percentile_5: float
    percentile_95: float


@dataclass(frozen=True)
class Place:
    """Where a structure lies, RAS+ mm for all that ends in ``_mm``.

    ``first`` and ``last`` are the smallest and largest voxel index on each axis, ``low_mm`` and ``high_mm`` the corners of
    the smallest box along the world's axes around that box of voxels (outer faces, so one voxel has its own size).
    """

    centroid_mm: Triple
    first: tuple[int, int, int]
    last: tuple[int, int, int]
    low_mm: Triple
    high_mm: Triple


@dataclass(frozen=True)
class Measurement:
    """One structure; ``place`` is None and ``intensities`` are empty where it has no voxel.

    ``sides``: the sides of the patient on which it reaches the border of the scan, so that ``volume_ml`` may be too small.
    """

    structure: Structure
    voxels: int
    volume_ml: float
    place: Place | None
    intensities: tuple[Intensities, ...]
    sides: tuple[str, ...]

    @property
    def truncated(self) -> bool:
        return bool(self.sides)


def measure(label_map: LabelMap, labels: Labels, volume: Volume) -> list[Measurement]:
    """Every structure of ``labels`` in their order, with ``volume``'s intensities channel by channel.

    Raises GeometryError where the two do not lie on one grid, voxel for voxel.
    """
    if not label_map.geometry.matches(volume.geometry):
        raise GeometryError(f"label map {label_map.geometry!r} and scan {volume.geometry!r} must lie on one grid")
    sides = touched_sides(label_map)
    # The axis that runs fastest in memory last: several times quicker, whatever order a file was stored in.
    order = np.argsort(np.abs(label_map.data.strides))[::-1]
    values = np.transpose(label_map.data, order)
    channels = [np.transpose(channel, order) for channel in volume.data]
    boxes = ndimage.find_objects(values, max(labels.values))
    found = []
    for structure in labels.structures:
        box, touched = boxes[structure.value - 1], sides.get(structure.value, ())
        if box is None:
            found.append(Measurement(structure, 0, 0.0, None, (), touched))
            continue
        mask = values[box] == structure.value
        voxels = int(np.count_nonzero(mask))
        place = _place(mask, box, np.argsort(order), label_map.geometry)
        intensities = tuple(_intensities(channel[box][mask]) for channel in channels)
        volume_ml = voxels * label_map.geometry.voxel_volume_ml
        found.append(Measurement(structure, voxels, volume_ml, place, intensities, touched))
    return found


def _place(mask: npt.NDArray[np.bool_], box: Box, back: npt.NDArray[np.intp], geometry: Geometry) -> Place:
    """``box`` and ``mask`` run along axes of which ``back`` names the i, j and k one."""
    along = [np.count_nonzero(mask, axis=others) for others in ((1, 2), (0, 2), (0, 1))]
    centre = np.array([float(counts @ np.arange(len(counts))) / counts.sum() for counts in along])[back]
    first = np.array([side.start for side in box])[back]
    last = np.array([side.stop - 1 for side in box])[back]
    corners = geometry.to_world([[(first[a] - 0.5, last[a] + 0.5)[n >> a & 1] for a in range(3)] for n in range(8)])
    return Place(
        _triple(geometry.to_world(first + centre)),
        (int(first[0]), int(first[1]), int(first[2])),
        (int(last[0]), int(last[1]), int(last[2])),
        _triple(corners.min(axis=0)),
        _triple(corners.max(axis=0)),
    )


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _intensities(values: npt.NDArray[Any]) -> Intensities:
    """``values`` (n,), n > 0. The mean first, then the squares around it: no digits are lost however far it is from 0."""
    mean = float(values.mean(dtype=np.float64))
    squares = sum(float(np.square(block - mean).sum()) for block in _float_blocks(values))
    low, median, high = np.percentile(values, [5, 50, 95], overwrite_input=True)
    return Intensities(mean, float(np.sqrt(squares / len(values))), float(median), float(low), float(high))


def _float_blocks(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.float64]]:
    for start in range(0, len(values), _BLOCK):
        yield values[start : start + _BLOCK].astype(np.float64)
