"""Coarse to fine: a first look at the whole scan, full quality in a box around what it saw, and on wherever a mask goes on."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.boxes import Box
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.data.preprocess import shape_for, ways_back
from medseg.inference.ensemble import Outputs
from medseg.inference.pieces import sizes_of
from medseg.inference.restore import Axis, axes_of
from medseg.inference.settings import InferenceSettings
from medseg.inference.stream import Predict
from medseg.inference.windows import STARTS, Triple

MARGIN_MM = 10.0
HINT = 0.1
"""What is seen: a voxel where this is the probability of a structure, against the background alone, or of a region."""
FIRST_OVERLAP = 0.0
LARGEST_SHARE = 0.5
"""A first look that costs more of the whole scan's forward passes than this is not taken."""


@dataclass(frozen=True)
class Scout:
    """What runs the first look: without mirroring, one network of the ``folds`` that are averaged afterwards."""

    predict: Predict
    folds: int = 1
    outputs: Outputs = "logits"


@dataclass(frozen=True)
class Roi:
    """What became of looking first: windows of the first look, windows of full quality that ran, and those of the whole scan.

    ``shape`` and ``corners_mm``: voxels of the box, and its first and last one in the world (RAS); the whole scan where
    ``whole_because`` says why. ``grown``: how often it grew. ``unseen``: structures that were found nowhere, and that
    outside the box the first look alone searched for.
    """

    whole_scan_windows: int
    grown: int
    shape: tuple[int, ...]
    corners_mm: tuple[tuple[float, ...], ...]
    whole_because: str = ""
    unseen: tuple[str, ...] = ()
    first_look_windows: int = 0
    windows: int = 0

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    def __str__(self) -> str:
        share = f"{self.windows} windows of full quality for the whole scan's {self.whole_scan_windows}"
        looked = (
            f"after a first look at {self.first_look_windows}" if self.first_look_windows else "without a first look"
        )
        if self.whole_because:
            return f"roi: the whole scan, because {self.whole_because}: {share}, {looked}"
        grown = {0: "", 1: ", which grew once"}.get(self.grown, f", which grew {self.grown} times")
        return f"roi: a box of {' x '.join(map(str, self.shape))} voxels{grown}: {share}, {looked}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know of it."""
        if not self.unseen:
            return ()
        return (f"{', '.join(self.unseen)} not found; outside the box only roi's quick first look searched for it",)


def coarse_to_fine(
    frame: Geometry,
    plan: Plan,
    settings: InferenceSettings,
    *,
    scout: Scout,
    axis: int,
    look: Callable[[], Iterable[Tensor]],
    fill: Callable[[Box | None], None],
    channels: npt.NDArray[np.unsignedinteger],
    always: Collection[str] = (),
) -> Roi:
    """Let ``fill`` make the ``channels`` of a box around what ``look`` shows, or (None) of the whole of ``frame``, their grid.

    ``look`` gives the first look's slabs along ``axis``. The whole scan is filled where that look shows nothing or would save
    nothing, and where the box lacks a structure that is ``always`` there.
    """
    source, target, labels = shape_for(frame, plan), frame.shape, plan.structure_labels
    starts = starts_over(source, plan, settings.overlap)
    box, grown, because, missing = (slice(0, target[0]), slice(0, target[1]), slice(0, target[2])), 0, "", []
    if not pays(source, plan, settings, scout.folds):
        because = "it has too few windows for a first look to save any"
    elif (found := seen(look(), source=source, axis=axis, scout=scout, labels=labels)) is None:
        because = "the first look saw no structure"
    else:
        maps = axes_of(source, target, ways_back(frame, plan))
        spacing_mm = (mm * t / s for mm, t, s in zip(frame.spacing_mm, target, source, strict=True))
        margins = (math.ceil(MARGIN_MM / mm) for mm in spacing_mm)
        sides = [Side(*one) for one in zip(maps, plan.patch_size, starts, margins, strict=True)]
        box, grown = fill_around(found, sides, channels, fill)
        missing = _missing(channels[box], labels)
        if needed := [name for name in missing if name in always]:
            because = f"the box does not hold {', '.join(needed)}, which every training case held"
    if because:
        box, missing = (slice(0, target[0]), slice(0, target[1]), slice(0, target[2])), []
        fill(None)
    corners = frame.to_world([[side.start for side in box], [side.stop - 1 for side in box]])
    return Roi(
        whole_scan_windows=prod(map(len, starts)),
        grown=grown,
        shape=tuple(side.stop - side.start for side in box),
        corners_mm=tuple(tuple(round(mm, 3) for mm in corner) for corner in corners.tolist()),
        whole_because=because,
        unseen=tuple(missing),
    )


def _missing(channels: npt.NDArray[np.unsignedinteger], labels: Labels) -> list[str]:
    """The structures that can be found but are not in ``channels`` (I, J, K)."""
    voxels = dict(enumerate(sizes_of(channels).tolist()))
    possible = labels.region_writes if labels.regions else range(1, labels.channels)
    return [name for channel, name in enumerate(labels.names, 1) if channel in possible and not voxels.get(channel)]


def pays(source: Triple, plan: Plan, settings: InferenceSettings, folds: int = 1) -> bool:
    """Whether a first look at a scan of the shape ``source`` on the plan's grid can save anything."""
    look, whole = (prod(len(side) for side in starts_over(source, plan, o)) for o in (FIRST_OVERLAP, settings.overlap))
    return whole > 1 and look <= LARGEST_SHARE * whole * folds * 2 ** len(settings.mirror)


def seen(slabs: Iterable[Tensor], *, source: Triple, axis: int, scout: Scout, labels: Labels) -> Box | None:
    """The smallest box of ``source`` around every voxel where a structure has a probability of ``HINT``; None: nowhere.

    ``slabs`` (K, n, A, B) come in order along ``axis``.
    """
    border, regions = math.log(HINT / (1 - HINT)), bool(labels.regions)
    hits = [np.zeros(n, np.bool_) for n in source]
    along, *across = (hits[a] for a in (axis, *(a for a in range(3) if a != axis)))
    number = 0
    for slab in slabs:
        for plane in slab.unbind(1):
            values = plane.float()
            if scout.outputs == "probabilities":
                values = torch.logit(values) if regions else values.log()
            hit = (values.amax(0) if regions else values[1:].amax(0) - values[0]) > border
            along[number] = bool(hit.any())
            across[0] |= hit.any(1).numpy()
            across[1] |= hit.any(0).numpy()
            number += 1
    if not along.any():
        return None
    i, j, k = (slice(int(np.argmax(hit)), len(hit) - int(np.argmax(hit[::-1]))) for hit in hits)
    return i, j, k


@dataclass(frozen=True)
class Side:
    """One axis: ``starts`` of the windows over the plan's grid, the ``map`` from it to the scan's, and the margin in voxels."""

    map: Axis
    window: int
    starts: Sequence[int]
    margin: int

    def around(self, start: int, stop: int) -> slice:
        """The target voxels that hang on source voxels ``start`` to ``stop``, and all that the same windows decide, too."""
        first, last = self.map.first, self.map.last
        low = min(int(np.searchsorted(last, start)), len(last) - 1)
        high = max(int(np.searchsorted(first, stop)), low + 1)
        needed = self.map.needed(slice(low, high))
        before = [s + self.window for s in self.starts if s + self.window <= needed.start]
        after = [s for s in self.starts if s >= needed.stop]
        low = int(np.searchsorted(first, max(before))) if before else 0
        high = int(np.searchsorted(last, min(after))) if after else len(last)
        return slice(low, high)

    def beyond(self, inside: slice, up: bool) -> slice:
        """``inside`` with the margin more at its upper or lower end: one target voxel and one window at least."""
        needed = self.map.needed(inside)
        if up:
            return self.around(needed.start, max(needed.stop + self.margin, int(self.map.first[inside.stop]) + 1))
        return self.around(min(needed.start - self.margin, int(self.map.last[inside.start - 1])), needed.stop)


def fill_around(
    found: Box, sides: Sequence[Side], channels: npt.NDArray[np.generic], fill: Callable[[Box], None]
) -> tuple[Box, int]:
    """Let ``fill`` make the ``channels`` of a box around ``found`` (on the plan's grid), and of more while a mask goes on.

    Where a mask touches a face of the box that is none of the scan, the part beyond that face is filled. So a connected
    mask of the whole scan's result that reaches into the box is in it whole. Gives the box, and how often it grew.
    """
    box = [side.around(s.start - side.margin, s.stop + side.margin) for side, s in zip(sides, found, strict=True)]
    fill((box[0], box[1], box[2]))
    grown = 0
    while (face := _touched(channels, box)) is not None:
        axis, up = face
        inside, further, strip = box[axis], sides[axis].beyond(box[axis], up), box.copy()
        strip[axis] = slice(inside.stop, further.stop) if up else slice(further.start, inside.start)
        fill((strip[0], strip[1], strip[2]))
        box[axis] = slice(min(inside.start, strip[axis].start), max(inside.stop, strip[axis].stop))
        grown += 1
    return (box[0], box[1], box[2]), grown


def _touched(channels: npt.NDArray[np.generic], box: Sequence[slice]) -> tuple[int, bool] | None:
    """The axis, and whether its upper end, of a face of ``box`` inside ``channels`` (I, J, K) that a mask touches."""
    inside = channels[tuple(box)]
    for axis, side in enumerate(box):
        for up, open_ in ((False, side.start > 0), (True, side.stop < channels.shape[axis])):
            if open_ and inside.take(-1 if up else 0, axis).any():
                return axis, up
    return None


def starts_over(shape: Triple, plan: Plan, overlap: float) -> list[list[int]]:
    """Starts of the windows along each axis of ``shape``."""
    return [STARTS[plan.feed.starts](n, w, overlap) for n, w in zip(shape, plan.patch_size, strict=True)]
