"""Two label maps on one grid, counted once: the confusion of all structures, and the masks of one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, crop
from medseg.core.once import once
from medseg.metrics.distances import SurfaceDistances, area_distances, memory_order, voxel_distances
from medseg.metrics.matching import Lesions, match_lesions
from medseg.metrics.rules import Rules

Mask = npt.NDArray[np.bool_]
LabelArray = npt.NDArray[np.integer[Any]]
State = Literal["scored", "both_empty", "missed", "spurious"]
Cropped = tuple[Mask, Mask, Geometry]

RULES = Rules()
MAX_VALUES = 4096  # distinct values of a label map; an intensity image has more
_CHUNK = 2**17  # voxels counted at a time: the working copy stays in the processor's cache


@dataclass(frozen=True, eq=False)
class MaskPair:
    """The prediction and the reference of one structure: counts over the whole ``grid``, masks cropped to their union box.

    ``both``, ``prediction_only``, ``reference_only`` and ``neither`` are the true positive, false positive, false
    negative and true negative voxels. The masks are cut out on first use, so that a metric of counts costs nothing, and
    the surfaces are compared on first use, so that all metrics of them cost one comparison.
    """

    both: int
    prediction_only: int
    reference_only: int
    neither: int
    grid: Geometry
    cut: Callable[[], Cropped]
    rules: Rules = RULES

    @once
    def _cropped(self) -> Cropped:
        return self.cut()

    @property
    def prediction(self) -> Mask:
        """Boolean (I, J, K) in the union box; of size 0 where both masks are empty."""
        return self._cropped[0]

    @property
    def reference(self) -> Mask:
        """Boolean (I, J, K) in the union box; of size 0 where both masks are empty."""
        return self._cropped[1]

    @property
    def geometry(self) -> Geometry:
        """The union box in the world; the whole ``grid`` where both masks are empty."""
        return self._cropped[2]

    @once
    def surfaces(self) -> SurfaceDistances:
        """Distances between the voxel surfaces; only where ``state`` is ``scored``."""
        return voxel_distances(self.prediction, self.reference, self.geometry.affine, self._flat)

    @once
    def area_surfaces(self) -> SurfaceDistances:
        """Distances between the area surfaces; only where ``state`` is ``scored``."""
        return area_distances(self.prediction, self.reference, self.geometry.affine, self._flat)

    @property
    def _flat(self) -> tuple[bool, bool, bool]:
        """The axes on which the whole grid has one voxel."""
        i, j, k = self.grid.shape
        return i == 1, j == 1, k == 1

    @once
    def lesions(self) -> Lesions:
        """The connected components of both masks, matched."""
        voxel_ml, least = self.grid.voxel_volume_ml, self.rules.lesion_iou
        return match_lesions(self.prediction, self.reference, voxel_ml=voxel_ml, least_iou=least)

    @property
    def state(self) -> State:
        """``scored`` where both masks hold a voxel, else which one is empty."""
        if self.both + self.reference_only == 0:
            return "both_empty" if self.prediction_only == 0 else "spurious"
        return "missed" if self.both + self.prediction_only == 0 else "scored"

    @classmethod
    def empty(cls, grid: Geometry, rules: Rules = RULES) -> "MaskPair":
        """A structure that neither prediction nor reference holds on ``grid``."""
        nothing = np.zeros((0, 0, 0), bool)
        return cls(0, 0, 0, math.prod(grid.shape), grid, lambda: (nothing, nothing, grid), rules)

    @classmethod
    def of(cls, prediction: Mask, reference: Mask, grid: Geometry, rules: Rules = RULES) -> "MaskPair":
        """From two boolean masks (I, J, K) on ``grid``."""
        return CasePair.of(prediction.astype(np.uint8), reference.astype(np.uint8), grid).structure(1, rules)


@dataclass(frozen=True, eq=False)
class CasePair:
    """A predicted and a reference label map (I, J, K) of one case on one ``grid``.

    ``values``: the sorted values that either holds, 0 included. ``confusion`` (V, V): voxels by reference value
    (rows) and predicted value (columns).
    """

    prediction: LabelArray
    reference: LabelArray
    grid: Geometry
    values: tuple[int, ...]
    confusion: npt.NDArray[np.int64]

    @classmethod
    def of(cls, prediction: LabelArray, reference: LabelArray, grid: Geometry) -> "CasePair":
        """Count every pair of values in one pass. Raises GeometryError on unequal shapes, DataError on too many values."""
        if prediction.shape != reference.shape or reference.shape != grid.shape:
            raise GeometryError(
                f"prediction {prediction.shape} and reference {reference.shape} must both lie on the grid {grid.shape}"
            )
        values, confusion = _confusion(prediction, reference)
        return cls(prediction, reference, grid, values, confusion)

    @once
    def predicted_voxels(self) -> dict[int, int]:
        """Voxels of each value in the prediction, 0 for a value of the reference alone."""
        return dict(zip(self.values, self.confusion.sum(axis=0).tolist(), strict=True))

    @once
    def reference_voxels(self) -> dict[int, int]:
        """Voxels of each value in the reference, 0 for a value of the prediction alone."""
        return dict(zip(self.values, self.confusion.sum(axis=1).tolist(), strict=True))

    def structure(self, value: int, rules: Rules = RULES) -> MaskPair:
        """The masks of one value, to be judged by ``rules``; both empty where no voxel holds it."""
        return self.region((value,), rules)

    def region(self, values: Sequence[int], rules: Rules = RULES) -> MaskPair:
        """The masks of all voxels with any of ``values``, which are different; which of them a voxel holds is the same."""
        held = [n for n, value in enumerate(self.values) if value in values]
        both = int(self.confusion[np.ix_(held, held)].sum())
        predicted, expected = int(self.confusion[:, held].sum()), int(self.confusion[held].sum())
        if predicted + expected == 0:
            return MaskPair.empty(self.grid, rules)
        neither = math.prod(self.grid.shape) - predicted - expected + both
        return MaskPair(both, predicted - both, expected - both, neither, self.grid, lambda: self._cut(values), rules)

    def find_boxes(self) -> None:
        """Find the boxes of all structures now: in one thread, before several cut masks out."""
        _ = self._boxes

    def _cut(self, values: Sequence[int]) -> Cropped:
        boxes = [boxes[value - 1] for boxes in self._boxes for value in values if value <= len(boxes)]
        found = [box for box in boxes if box is not None]
        start = [min(box[axis].start for box in found) for axis in range(3)]
        stop = [max(box[axis].stop for box in found) for axis in range(3)]
        box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        geometry = crop(self.grid, (start[0], start[1], start[2]), (size[0], size[1], size[2]))
        prediction, reference = self.prediction[box], self.reference[box]
        if len(values) == 1:
            return prediction == values[0], reference == values[0], geometry
        return np.isin(prediction, values), np.isin(reference, values), geometry

    @once
    def _boxes(self) -> tuple[list[Any], list[Any]]:
        """For each map, the bounding box of each value: one pass for all structures."""
        return _boxes_of(self.prediction), _boxes_of(self.reference)


def _boxes_of(array: LabelArray) -> list[Any]:
    """The bounding box of value n at place n - 1; None where no voxel holds it."""
    from scipy.ndimage import find_objects  # not needed by metrics of counts, and 0.2 s to import

    axes = memory_order(array)
    back = np.argsort(axes)
    return [box and tuple(box[axis] for axis in back) for box in find_objects(array.transpose(axes))]


def _confusion(prediction: LabelArray, reference: LabelArray) -> tuple[tuple[int, ...], npt.NDArray[np.int64]]:
    """The values present, sorted, and the voxels by (reference value, predicted value)."""
    axes = memory_order(reference)
    first, second = reference.transpose(axes), prediction.transpose(axes)
    small = first.dtype.itemsize == 1 and second.dtype.itemsize == 1
    candidates = np.arange(256) if small else np.union1d(np.union1d(_values_of(first), _values_of(second)), [0])
    if len(candidates) > MAX_VALUES:
        raise DataError(
            f"{len(candidates)} different values in prediction and reference: these look like intensities; "
            f"a label map holds one integer per structure, at most {MAX_VALUES} of them"
        )
    if candidates[0] < 0:
        raise DataError(f"negative label value {candidates[0]}: labels are integers from 0")
    n = len(candidates)
    rank = None if small else _ranks(candidates)
    counts = np.zeros(n * n, np.int64)
    for a, b in _chunks(first, second):
        if not (a.any() or b.any()):
            counts[0] += a.size
            continue
        rows, columns = (a, b) if rank is None else (rank[a], rank[b])
        pairs = np.multiply(rows, n, dtype=np.intp)
        pairs += columns
        found = np.bincount(pairs)
        counts[: len(found)] += found
    matrix = counts.reshape(n, n)
    present = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    present[0] = True
    return tuple(int(v) for v in candidates[present]), matrix[np.ix_(present, present)]


def _chunks(first: LabelArray, second: LabelArray) -> Iterator[tuple[LabelArray, LabelArray]]:
    """Flat pieces of two arrays of one shape, in step; slabs of a strided view are copied one by one."""
    rows = max(1, _CHUNK // max(1, math.prod(first.shape[1:])))
    for start in range(0, first.shape[0], rows):
        a, b = first[start : start + rows].ravel(), second[start : start + rows].ravel()
        for at in range(0, a.size, _CHUNK):
            yield a[at : at + _CHUNK], b[at : at + _CHUNK]


def _values_of(array: LabelArray) -> npt.NDArray[np.int64]:
    found = [np.unique(slab) for slab in array]
    return np.unique(np.concatenate(found)).astype(np.int64)


def _ranks(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """The place of each value among ``values``, by value."""
    if values[-1] > 2**24:
        raise DataError(f"label value {values[-1]} is too large: labels are integers from 0 to 65535")
    ranks = np.zeros(int(values[-1]) + 1, np.int32)
    ranks[values] = np.arange(len(values))
    return ranks
