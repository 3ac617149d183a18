"""What a reader should know of a result: oddities of the label map, and where the scan is unlike those of the training.

The reasons to review are rules of thumb over the training's fingerprint, not a probability: none of them is no promise.
"""

import math
from collections.abc import Sequence

import numpy as np

from medseg.core.border import touched_sides
from medseg.core.boxes import boxes_of
from medseg.core.geometry import order_to
from medseg.core.labels import Labels
from medseg.core.plan import Arranged, Fingerprint, Plan
from medseg.core.volume import LabelMap, Volume

SPACING, EXTENT, VOLUME = 1.25, 2.0, 1.5
"""How many times outside the training's range a spacing, a field of view or a volume must lie to be a reason."""
ALWAYS = 5  # cases that must all hold a structure before its absence is a reason
_SAMPLE = 2**22
_AXES = ("left to right", "back to front", "foot to head")
_PLACES = (
    ("to the left of", "to the right of", "left and right"),
    ("behind", "in front of", "front and back"),
    ("below", "above", "head and feet"),
)


def other_modality(volume: Volume, plan: Plan) -> list[str]:
    """A CT model on an MR scan, or the reverse, where the scan says what it is: the figures then mean little."""
    if {volume.modality, plan.modality} == {"CT", "MR"}:
        return [f"the scan is {volume.modality}, but the model was trained on {plan.modality}: do not trust the result"]
    return []


def oddities(label_map: LabelMap, labels: Labels) -> list[str]:
    """Results that a reader should look at: nothing found, a structure cut off by the border of the scan."""
    found = []
    if not label_map.data.any():
        found.append("no structure was found in this scan")
    touched = touched_sides(label_map)
    names = [s.name for s in labels.structures if s.value in touched]
    if names:
        found.append(f"{', '.join(names)} touch the border of the scan: the volume may be truncated")
    return found


def reasons(
    volume: Volume, label_map: LabelMap, volumes_ml: dict[str, float], plan: Plan, seen: Fingerprint | None
) -> tuple[str, ...]:
    """Why a human should review this result: where the scan or what was found in it is unlike the training cases.

    Spacing and field of view by axis, the median of CT numbers inside what was found against the 0.5 to 99.5 percentiles of
    the training's structures, volumes of structures that the border does not cut, structures that every training case
    held, pairs of which the left one lies to the right, and structures that lie the other way round than in every
    training case. Without a fingerprint (``seen`` None) pairs alone.
    """
    labels = plan.structure_labels
    arrangement = () if seen is None else seen.arrangement
    found = [] if plan.modality == "other" else _sides(label_map, labels, arrangement)
    if seen is not None:
        touched = touched_sides(label_map)
        whole = {s.name: volumes_ml[s.name] for s in labels.structures if s.value not in touched}
        found = [
            *_grid(volume, seen),
            *(_intensities(volume, label_map, seen) if plan.modality == "CT" else ()),
            *_amounts(whole, seen),
            *_absent(volumes_ml, seen),
            *found,
        ]
    return tuple(found)


def _grid(volume: Volume, seen: Fingerprint) -> list[str]:
    """A model from elsewhere tells its spacings in an order of its own: then they are compared by size, not by axis."""
    geometry = order_to(volume.geometry).geometry(volume.geometry)
    own = bool(seen.cases_per_structure)
    spacings = [tuple(spacing) if own else sorted(spacing) for spacing in seen.spacings_mm]
    here = geometry.spacing_mm if own else sorted(geometry.spacing_mm)
    found = []
    for axis, spacing in enumerate(here):
        low, high = _range([known[axis] for known in spacings])
        if not low / SPACING <= spacing <= high * SPACING:
            what = f"spacing {_AXES[axis]}" if own else "spacing"
            found.append(f"{what} is {spacing:.3g} mm; training had {_from_to(low, high, '.3g')} mm")
    if own:
        extents = [
            [n * mm for n, mm in zip(*one, strict=True)] for one in zip(seen.shapes, seen.spacings_mm, strict=True)
        ]
        for axis, extent in enumerate(n * mm for n, mm in zip(geometry.shape, geometry.spacing_mm, strict=True)):
            low, high = _range([known[axis] for known in extents])
            if not low / EXTENT <= extent <= high * EXTENT:
                had = _from_to(low, high, ".0f")
                found.append(f"field of view {_AXES[axis]} is {extent:.0f} mm; training had {had} mm")
    return found


def _intensities(volume: Volume, label_map: LabelMap, seen: Fingerprint) -> list[str]:
    step = max(1, round((label_map.data.size / _SAMPLE) ** (1 / 3)))
    thin = (slice(None, None, step),) * 3
    inside = label_map.data[thin] > 0
    if not inside.any():
        return []
    found = []
    for channel, known in zip(volume.data, seen.foreground, strict=False):
        middle = float(np.median(channel[thin][inside]))
        if not known.percentile_0_5 <= middle <= known.percentile_99_5:
            found.append(
                f"the median intensity inside the structures found is {middle:.0f}; training had "
                f"{known.percentile_0_5:.0f} to {known.percentile_99_5:.0f}"
            )
    return found


def _amounts(volumes_ml: dict[str, float], seen: Fingerprint) -> list[str]:
    found = []
    for name, ml in volumes_ml.items():
        low, high = seen.volumes_ml.get(name, (0.0, math.inf))
        if ml > 0 and not low / VOLUME <= ml <= high * VOLUME:
            found.append(f"{name} has {ml:.3g} mL; training had {_from_to(low, high, '.3g')} mL")
    return found


def always_there(seen: Fingerprint | None) -> set[str]:
    """The structures that every training case held, of enough cases to say so."""
    if seen is None:
        return set()
    return {name for name, cases in seen.cases_per_structure.items() if cases == seen.cases >= ALWAYS}


def _absent(volumes_ml: dict[str, float], seen: Fingerprint) -> list[str]:
    gone = [name for name, ml in volumes_ml.items() if ml == 0 and name in always_there(seen)]
    return (
        [f"{', '.join(gone)} was not found, but every one of the {seen.cases} training cases held it"] if gone else []
    )


def _sides(label_map: LabelMap, labels: Labels, arrangement: Sequence[Arranged]) -> list[str]:
    """Pairs by name, then what always lay on one side of another: one reason for each axis."""
    centres = _centres_mm(label_map, labels)
    found = []
    for left, right in labels.sided_pairs:
        if left in centres and right in centres and centres[left][0] > centres[right][0]:  # x runs to the right
            found.append(f"{left} lies to the right of {right}: the scan's left and right may be exchanged")
    for axis, (below, above, ends) in enumerate(_PLACES):
        reversed_ = [
            one
            for one in arrangement
            if one.axis == axis and one.lower in centres and one.upper in centres
            if centres[one.upper][axis] - centres[one.lower][axis] < -one.gap_mm / 2
        ]
        if reversed_:
            first = max(reversed_, key=lambda one: one.gap_mm)
            more = f", and {len(reversed_) - 1} more are reversed" if len(reversed_) > 1 else ""
            found.append(
                f"{first.upper} lies {below} {first.lower}, but {above} it by {first.gap_mm:.0f} mm or more in training{more}: "
                f"the scan's {ends} may be exchanged"
            )
    return found


def _centres_mm(label_map: LabelMap, labels: Labels) -> dict[str, list[float]]:
    """The centre in the world of each structure that the border does not cut, from a sample of the voxels of a large scan."""
    step = max(1, math.ceil((label_map.data.size / _SAMPLE) ** (1 / 3)))
    thin = label_map.data[(slice(None, None, step),) * 3]
    touched, boxes = touched_sides(label_map), boxes_of(thin)
    found = {}
    for structure in labels.structures:
        if structure.value in boxes and structure.value not in touched:
            box = boxes[structure.value]
            mask = thin[box] == structure.value
            along = [np.count_nonzero(mask, axis=others) for others in ((1, 2), (0, 2), (0, 1))]
            index = [
                step * (side.start + float(counts @ np.arange(len(counts))) / counts.sum())
                for side, counts in zip(box, along, strict=True)
            ]
            found[structure.name] = label_map.geometry.to_world(index).tolist()
    return found


def _from_to(low: float, high: float, form: str) -> str:
    """Such as ``1 to 2.5``, or ``2`` where both are that."""
    return f"{low:{form}}" if f"{low:{form}}" == f"{high:{form}}" else f"{low:{form}} to {high:{form}}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)
