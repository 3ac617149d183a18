"""Probability maps and entropy beside a label map: recorded plane by plane in a nameless file, written one map at a time."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.boxes import Box
from medseg.core.errors import DataError, ResourceError
from medseg.core.files import Content, explained, make_folder
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.io.nifti_parts import write_maps
from medseg.io.segmentation import Segmentation, Writer

STEPS = 2**15
"""A probability is a number of steps of 1/32768, exact in float32, so that those of a voxel sum to exactly 1."""

Steps = npt.NDArray[np.uint16]
Put = Callable[[npt.NDArray[Any], int], npt.NDArray[Any]]
"""A map from its grid to the scan's, and what lies beyond its grid."""


class Recorded:
    """Maps (uint16, in ``STEPS``) of one scan, on the disk in ``folder`` without a name, gone with this object's block.

    ``names``: what each map is, such as the structures of the probabilities; the entropy is the last one if ``entropy``.
    Only one map at a time is ever in memory whole.
    """

    def __init__(self, folder: Path, *, probabilities: bool, entropy: bool) -> None:
        self.folder = folder
        self.probabilities, self.entropy = probabilities, entropy
        self.names: tuple[str, ...] = ()
        self.geometry: Geometry | None = None
        self._file: Any = None
        self._shape = (0, 0, 0)
        self._axis = 0
        self._put: Put = lambda data, outside: data
        self._background = False

    def __enter__(self) -> "Recorded":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def count(self) -> int:
        """How many maps there are, with the entropy."""
        return len(self.names) * self.probabilities + self.entropy

    def described(self) -> dict[str, Any]:
        """For the manifest: what each map is, and how a stored number becomes a probability."""
        return {
            "maps": list(self.names),
            "step": 1 / STEPS,
            "of": "the network, before any refinement and post-processing",
        }

    def begin(self, shape: tuple[int, int, int], axis: int, names: tuple[str, ...], *, background: bool) -> None:
        """Make room for maps of ``shape``, whose planes will come in order along ``axis``. Raises ResourceError without room.

        ``background``: the first map is that of the background, which is what lies beyond them.
        """
        self.names, self._shape, self._axis, self._background = names, shape, axis, background
        needed = self.count * int(np.prod(shape)) * 2
        make_folder(self.folder)
        try:
            free = shutil.disk_usage(self.folder).free
            if needed > free:
                raise ResourceError(
                    f"{self.folder}: {self.count} maps of probabilities take {needed} bytes while they are made, {free} are free; "
                    "free some space, or choose another --output"
                )
            self._file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - lives as long as this object's block
        except OSError as error:
            raise explained(error, self.folder) from error

    def append(self, planes: Steps) -> None:
        """The next ``planes`` (n, count, A, B)."""
        try:
            self._file.write(np.ascontiguousarray(planes).data)
        except OSError as error:
            raise explained(error, self.folder) from error

    def place(self, put: Put, geometry: Geometry) -> None:
        """All planes have come; ``put`` takes a map from their grid to the scan's, which is ``geometry``."""
        self._put, self.geometry = put, geometry

    def map(self, number: int) -> Steps:
        """Map ``number`` (I, J, K) on the scan's grid."""
        planes, *plane = (self._shape[self._axis], *(n for a, n in enumerate(self._shape) if a != self._axis))
        size = int(np.prod(plane)) * 2
        found = np.empty((planes, *plane), np.uint16)
        for n in range(planes):
            self._file.seek((n * self.count + number) * size)
            if self._file.readinto(found[n].reshape(-1).view(np.uint8)) != size:
                raise DataError(f"{self.folder}: the recorded probabilities end before plane {n}")
        certain = number == 0 and self._background and self.probabilities
        return self._put(np.moveaxis(found, 0, self._axis), STEPS if certain else 0)

    def within(self, box: Box, maps: Sequence[int] | slice = slice(None)) -> Steps:
        """The probabilities (L, I, J, K) in ``box`` of their own grid, of all or of some ``maps``."""
        planes, *plane = (self._shape[self._axis], *(n for a, n in enumerate(self._shape) if a != self._axis))
        along, *across = (box[self._axis], *(side for a, side in enumerate(box) if a != self._axis))
        try:
            self._file.flush()
        except OSError as error:
            raise explained(error, self.folder) from error
        stored = np.memmap(self._file, np.uint16, "r", shape=(planes, self.count, *plane))
        cut = stored[along, : len(self.names), *across][:, maps]
        return np.ascontiguousarray(np.moveaxis(np.moveaxis(cut, 0, 1), 1, 1 + self._axis))

    def maps(self) -> Iterator[Steps]:
        """The probabilities, map by map."""
        return (self.map(number) for number in range(len(self.names)))


def folder_path(place: Path, kind: str) -> Path:
    """``<folder>/<kind>/<case>_seg.nii.gz``: in a folder of its own, where case ids find it."""
    return place.parent / kind / f"{place.name}.nii.gz"


def _writer(kind: str, summary: str, maps: Callable[[Recorded], tuple[Iterator[Steps], int]]) -> Writer:
    def paths(place: Path, labels: Labels) -> tuple[Path]:
        return (folder_path(place, kind),)

    def contents(segmentation: Segmentation) -> Mapping[Path, Content]:
        found = segmentation.recorded
        if found is None or found.geometry is None:
            raise DataError(f"{segmentation.place}: nothing was recorded to write {kind} from")
        geometry = found.geometry

        def write(temporary: Path) -> None:
            arrays, count = maps(found)
            write_maps(temporary, arrays, count, geometry, dtype=np.uint16, slope=1 / STEPS)

        return {folder_path(segmentation.place, kind): write}

    contents.__doc__ = summary  # as `medseg list writers` says it
    return Writer(paths, contents)


PROBABILITIES = _writer(
    "probabilities",
    "The probability of each label or region as one NIfTI, on the scan's grid.",
    lambda recorded: (recorded.maps(), len(recorded.names)),
)
ENTROPY = _writer(
    "entropy",
    "How uncertain each voxel is, from 0 to 1, as one NIfTI on the scan's grid.",
    lambda recorded: (iter([recorded.map(recorded.count - 1)]), 1),
)
