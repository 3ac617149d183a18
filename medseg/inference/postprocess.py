"""What a finished label map still needs, structure by structure: islands go, holes are filled."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.boxes import Box, boxes_of
from medseg.core.component import Component, build
from medseg.core.config_inference import EVERY
from medseg.core.errors import ConfigError
from medseg.core.fast import pieces
from medseg.core.geometry import Geometry, order_to
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.inference.holes import fill
from medseg.inference.pieces import Values, sizes_of, values_of

Step = Callable[[Values, Sequence[int], Geometry], None]
"""Changes in place, of a label map (I, J, K) in RAS order cut to a box around them, the structures of these values."""

CONNECTIVITIES = (6, 18, 26)
WITHIN = {"volume": None, "sagittal": 0, "coronal": 1, "axial": 2}


def largest_component(*, count: int = 1, connectivity: int = 26) -> Step:
    """Keeps the ``count`` components with the most voxels, and makes the others background.

    Voxels are joined by faces (``connectivity`` 6), by faces and edges (18), or by faces, edges and corners (26). Of
    components of one size the one wins that reaches furthest to the left of the scan, then to its back, then to its feet.
    """
    _require(isinstance(count, int) and not isinstance(count, bool) and count >= 1, "count", count, "1 or more")
    _check_connectivity(connectivity)

    def largest(sizes: npt.NDArray[np.int64], geometry: Geometry) -> npt.NDArray[np.bool_]:
        return np.isin(np.arange(len(sizes)), np.argsort(-sizes, kind="stable")[:count])

    return _keeping(largest, connectivity)


def minimum_volume(*, ml: float = 0.1, connectivity: int = 26) -> Step:
    """Makes every component of less than ``ml`` millilitres background; ``connectivity`` as in largest_component."""
    is_number = isinstance(ml, int | float) and not isinstance(ml, bool)
    _require(is_number and math.isfinite(ml) and ml > 0, "ml", ml, "a volume above 0 in millilitres")
    _check_connectivity(connectivity)

    def enough(sizes: npt.NDArray[np.int64], geometry: Geometry) -> npt.NDArray[np.bool_]:
        return sizes * geometry.voxel_volume_ml >= ml * (1 - 1e-9)  # one of exactly `ml` stays

    return _keeping(enough, connectivity)


def fill_holes(*, within: str = "volume", connectivity: int = 26) -> Step:
    """Gives the structure the background that it encloses: in the volume, or in each axial, coronal or sagittal slice.

    A hole has no way out of the structure's voxels, which ``connectivity`` joins as in largest_component: through faces
    (18 and 26), or through faces, edges and corners (6). What reaches the border of the scan is no hole. Another
    structure in a hole stays as it is; of several around one hole the innermost takes it.
    """
    _require(within in WITHIN, "within", within, f"one of {', '.join(WITHIN)}")
    _check_connectivity(connectivity)
    way_out = 26 if connectivity == 6 else 6

    def step(values: Values, wanted: Sequence[int], geometry: Geometry) -> None:
        axis = WITHIN[within]
        open_axes = [
            a for a in range(3) if geometry.shape[a] > 1 and a != axis
        ]  # a 2D picture is open in its plane alone
        if axis is None:
            fill(values, wanted, open_axes, way_out)
            return
        for n in range(values.shape[axis]):
            fill(values[(*[slice(None)] * axis, slice(n, n + 1))], wanted, open_axes, way_out)

    return step


POSTPROCESSES: dict[str, Callable[..., Step]] = {
    "largest_component": largest_component,
    "minimum_volume": minimum_volume,
    "fill_holes": fill_holes,
}
"""In the order in which they run, each over all structures before the next: what goes first leaves no hole unfilled."""


@dataclass(frozen=True)
class Change:
    """What the ``steps`` did to one structure, in voxels."""

    steps: tuple[Component, ...]
    removed: int
    added: int

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        steps = [step.model_dump() for step in self.steps]
        return {"steps": steps, "removed_voxels": self.removed, "added_voxels": self.added}


Steps = Mapping[str, Sequence[Component]]


def steps_of(asked: Steps, labels: Labels) -> dict[str, tuple[Component, ...]]:
    """The steps of each structure that has any, every one of them built once: names and options are right.

    Raises ConfigError for a structure that ``labels`` do not name, an unknown step and an unknown or impossible option.
    """
    for name, steps in asked.items():
        if name != EVERY and name not in labels.names:
            raise ConfigError(
                f"postprocess: {name!r} is no structure; choose from {', '.join(labels.names)}, or {EVERY} for each of them"
            )
        for component in steps:
            build("postprocess", POSTPROCESSES, component)
    found = {name: tuple(asked.get(name, asked.get(EVERY, ()))) for name in labels.names}
    return {name: steps for name, steps in found.items() if steps}


def postprocess(label_map: LabelMap, asked: Steps, labels: Labels) -> tuple[LabelMap, dict[str, Change]]:
    """``label_map`` after the steps that ``asked`` has for the structures of ``labels``, and what they changed.

    Only background is ever filled, and what is removed becomes background. Structures with the same step share one pass
    over the box that holds them all, and the result is the same in the world whatever order the voxels are stored in.
    Raises ConfigError as ``steps_of`` does.
    """
    chosen = steps_of(asked, labels)
    if not chosen:
        return label_map, {}
    data = label_map.data.copy(order="K")
    order = order_to(label_map.geometry)
    values, geometry = order.array(data), order.geometry(label_map.geometry)
    boxes = boxes_of(values)
    value_of = {s.name: s.value for s in labels.structures}
    for kind in POSTPROCESSES:
        groups: dict[str, tuple[Component, list[int]]] = {}
        for name, steps in chosen.items():
            for component in (step for step in steps if step.name == kind and value_of[name] in boxes):
                groups.setdefault(component.model_dump_json(), (component, []))[1].append(value_of[name])
        for component, wanted in groups.values():
            step: Step = build("postprocess", POSTPROCESSES, component)
            step(values[_around([boxes[value] for value in wanted])], wanted, geometry)
    removed, added = _changes(label_map.data, data, max(labels.values))
    changes = {
        name: Change(steps, int(removed[value_of[name]]), int(added[value_of[name]])) for name, steps in chosen.items()
    }
    return LabelMap(data, label_map.geometry, label_map.labels, label_map.warnings), changes


def _keeping(which: Callable[[npt.NDArray[np.int64], Geometry], npt.NDArray[np.bool_]], connectivity: int) -> Step:
    """A step that keeps the components which ``which`` names by their voxels, given in the order of their first voxel."""

    def step(values: Values, wanted: Sequence[int], geometry: Geometry) -> None:
        table = np.zeros(max(int(values.max()), max(wanted)) + 1, values.dtype)
        table[wanted] = wanted
        numbers = pieces(np.stack([table[plane] for plane in values]), connectivity)
        sizes = sizes_of(numbers)
        own = values_of(numbers, values, len(sizes))
        kept = np.ones(len(sizes), np.bool_)
        for value in wanted:
            numbered = np.flatnonzero(own == value)
            kept[numbered] = which(sizes[numbered], geometry)
        if not kept.all():
            for plane, number in zip(values, numbers, strict=True):  # an index takes 8 bytes a voxel
                plane[~kept[number]] = 0

    return step


def _around(boxes: Sequence[Box]) -> Box:
    i, j, k = (slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*boxes, strict=True))
    return i, j, k


def _changes(before: Values, after: Values, highest: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """How many voxels each value lost and gained."""
    removed, added = np.zeros(highest + 1, np.int64), np.zeros(highest + 1, np.int64)
    for old, new in zip(before, after, strict=True):
        changed = old != new
        removed += np.bincount(old[changed], minlength=highest + 1)[: highest + 1]
        added += np.bincount(new[changed], minlength=highest + 1)[: highest + 1]
    return removed, added


def _require(holds: bool, option: str, got: Any, expected: str) -> None:
    if not holds:
        raise ConfigError(f"postprocess: {option} is {got!r}; give {expected}")


def _check_connectivity(connectivity: int) -> None:
    _require(
        connectivity in CONNECTIVITIES, "connectivity", connectivity, "6 (faces), 18 (and edges) or 26 (and corners)"
    )
