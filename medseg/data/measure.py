"""What one case measures: sizes, places and intensities of its structures, all in RAS storage order."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import Volume
from medseg.data.likeness import Look, look_of
from medseg.data.reference import counted_channels

FOREGROUND_SAMPLES = 10_000  # intensities kept per case for the fingerprint
Channels = npt.NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True)
class Extent:
    """Where a structure lies: ``centre_mm`` (3,) of its voxels in the world; ``touches`` the image's border."""

    centre_mm: tuple[float, float, float]
    touches: bool


@dataclass(frozen=True, eq=False)
class CaseFacts:
    """What one case holds. Triples follow i, j, k of RAS storage; ``foreground`` (C, n) are sampled intensities.

    ``content`` is a hash of the image's voxels, the same for any storage order and type; empty for a constant image.
    ``orientation`` is that of storage. ``extents`` hold the structures that have voxels. ``patient_id`` is DICOM's.
    ``voxels`` by structure, 0 where the case does not annotate it; ``ignored``: voxels that count nowhere.
    """

    case: Case
    channels: int
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str
    content: str
    look: Look
    patient_id: str
    voxels: dict[str, int]
    extents: dict[str, Extent]
    foreground: npt.NDArray[np.float32]
    warnings: tuple[str, ...]
    ignored: int = 0

    def volume_ml(self, structure: str) -> float:
        """Of a structure in this case; 0.0 where it is not there."""
        return self.voxels.get(structure, 0) * float(np.prod(self.spacing_mm)) / 1000.0

    @property
    def is_flat(self) -> bool:
        return 1 in self.shape


def case_facts(
    case: Case, image: Volume, channels: Channels, labels: Labels, *, warnings: tuple[str, ...], patient_id: str
) -> CaseFacts:
    """The facts of ``image`` and of its label map as ``channels`` (I, J, K) on the same grid, stored nearest to RAS."""
    ras = image.canonical()
    channels, ignored = counted_channels(channels, labels, case.annotated)
    counts, extents = structure_extents(channels, ras.geometry, labels)
    return CaseFacts(
        case=case,
        channels=image.channels,
        shape=ras.geometry.shape,
        spacing_mm=ras.geometry.spacing_mm,
        orientation=image.geometry.orientation,
        content=content_of(ras),
        look=look_of(ras.data[0]),
        patient_id=patient_id,
        voxels=counts,
        extents=extents,
        foreground=_sample(ras, channels),
        warnings=warnings,
        ignored=ignored,
    )


def structure_extents(
    channels: Channels, geometry: Geometry, labels: Labels
) -> tuple[dict[str, int], dict[str, Extent]]:
    """The voxels of each structure, and the extent of those that have any."""
    start, box = _box(channels)
    planes = [np.zeros((n, labels.channels), np.int64) for n in box.shape]
    for axis, table in enumerate(planes):
        for n in range(box.shape[axis]):
            table[n] = np.bincount(np.take(box, n, axis).ravel(), minlength=labels.channels)
    totals = planes[0].sum(axis=0)
    extents = {}
    for channel, name in enumerate(labels.names, 1):
        if totals[channel]:
            index = [
                float(np.arange(len(t)) @ t[:, channel] / totals[channel]) + s
                for t, s in zip(planes, start, strict=True)
            ]
            x, y, z = geometry.to_world(index).tolist()
            extents[name] = Extent((x, y, z), _touches(planes, start, geometry.shape, channel))
    return {name: int(totals[n]) for n, name in enumerate(labels.names, 1)}, extents


def _box(channels: Channels) -> tuple[tuple[int, ...], Channels]:
    """The smallest box around all structures: where it starts and what it holds; one voxel where there is none."""
    inside = channels != 0
    sides = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not len(sides[0]):
        return (0, 0, 0), channels[:1, :1, :1]
    start = tuple(int(side[0]) for side in sides)
    return start, channels[tuple(slice(int(side[0]), int(side[-1]) + 1) for side in sides)]


def _touches(planes: list[npt.NDArray[np.int64]], start: tuple[int, ...], shape: tuple[int, ...], channel: int) -> bool:
    """Whether a structure has voxels in an outer plane of the image; the only plane of a picture is no border."""
    return any(
        (first == 0 and bool(table[0, channel])) or (first + len(table) == size and bool(table[-1, channel]))
        for table, first, size in zip(planes, start, shape, strict=True)
        if size > 1
    )


def content_of(image: Volume) -> str:
    """A hash of the voxels of ``image``, the same for any type; empty where every channel is constant."""
    if all(channel.min() == channel.max() for channel in image.data):
        return ""
    digest = hashlib.sha256(repr(image.data.shape).encode())
    for channel in image.data:
        for k in range(channel.shape[2]):  # slice by slice: no copy of the volume
            digest.update(np.ascontiguousarray(channel[:, :, k], np.float32).data)
    return digest.hexdigest()


def _sample(image: Volume, channels: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    inside = np.flatnonzero(channels.ravel())
    if inside.size > FOREGROUND_SAMPLES:
        inside = np.random.default_rng(inside.size).choice(inside, FOREGROUND_SAMPLES, replace=False)
    index: tuple[Any, ...] = (slice(None), *np.unravel_index(inside, channels.shape))
    values: npt.NDArray[np.float32] = image.data[index].astype(np.float32)
    return values
