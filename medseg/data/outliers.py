"""What stands out among the cases of a dataset: sizes, spacings, intensities and sides, by robust statistics."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from medseg.core.findings import Finding, Severity
from medseg.core.labels import Labels
from medseg.data.measure import CaseFacts

FEWEST_CASES = 8  # below, a median says little of what is usual
FAR = 6.0  # robust standard deviations
_TO_SD = 1.4826  # of the median absolute deviation of a normal distribution
_OPPOSITE_MM = 5.0  # middles of left and right nearer than this, across the body, say nothing
_MANY_PART = 0.1  # of the cases: so many are no outliers
_FEW_PART = 0.02  # of the cases
_FEW_CASES = 2
_LISTED = 8
_AXES = "left-right", "back-front", "foot-head"
_ANISOTROPIC = 3.0  # largest by smallest spacing


def robust_z(values: npt.ArrayLike, *, least_sd: float = 0.0) -> npt.NDArray[np.float64]:
    """``(values - median) / (1.4826 MAD)``, the deviation not below ``least_sd`` (Leys 2013, doi:10.1016/j.jesp.2013.03.013).

    >>> robust_z([1.0, 2.0, 3.0, 100.0]).round(1).tolist()
    [-1.0, -0.3, 0.3, 65.8]
    """
    found = np.asarray(values, np.float64)
    away = found - np.median(found)
    sd = max(_TO_SD * float(np.median(np.abs(away))), least_sd)
    return away / sd if sd > 0 else np.zeros_like(found)


def odd_cases(facts: Sequence[CaseFacts], labels: Labels, *, modality: str) -> list[Finding]:
    """Cases far from the others by spacing, field of view, volume of a structure or intensity; mixes; swapped sides."""
    if not facts:
        return []
    return [
        *_sides(facts, labels),
        *_sizes(facts),
        *_volumes(facts, labels),
        *_intensities(facts, modality),
        *_rare(facts, labels),
        *_mixes(facts),
        *_borders(facts, labels),
    ]


def _outliers(
    code: str, severity: Severity, what: str, measured: dict[str, float], *, least_sd: float, unit: str, logarithm: bool
) -> list[Finding]:
    """One finding with the cases whose value lies far from the median; none of few cases.

    With ``logarithm``, values are compared by their ratios, and those that are not above 0 are left out.
    """
    kept = {case: value for case, value in measured.items() if value > 0 or not logarithm}
    if len(kept) < FEWEST_CASES:
        return []
    values = np.array(list(kept.values()))
    scores = robust_z(np.log(values) if logarithm else values, least_sd=least_sd)
    far = sorted(
        (one for one in zip(kept, values, scores, strict=True) if abs(one[2]) > FAR), key=lambda one: -abs(one[2])
    )
    if not far:
        return []
    middle = f"{np.median(values):.4g} {unit}".rstrip()
    cases = tuple(one[0] for one in far)
    if len(far) > _MANY_PART * len(kept):
        text = (
            f"{what} from {values.min():.4g} to {values.max():.4g} {unit}".rstrip()
            + f", in {len(far)} of {len(kept)} cases far from the median of {middle}: several scanners, protocols or units?"
        )
        return [Finding(code.replace("outlier", "mixed"), "info", cases, text)]
    listed = ", ".join(f"{case} {value:.4g} (z {z:+.0f})" for case, value, z in far[:_LISTED])
    more = f" and {len(far) - _LISTED} more" if len(far) > _LISTED else ""
    return [
        Finding(code, severity, cases, f"{what} far from the median of {middle}: {listed}{more}; look at these cases")
    ]


def _sizes(facts: Sequence[CaseFacts]) -> list[Finding]:
    found = []
    for axis, name in enumerate(_AXES):
        spacings = {f.case.id: f.spacing_mm[axis] for f in facts}
        extents = {f.case.id: f.spacing_mm[axis] * f.shape[axis] for f in facts}
        found += _outliers(
            "outlier-spacing", "warning", f"spacing {name}", spacings, least_sd=0.05, unit="mm", logarithm=True
        )
        found += _outliers(
            "outlier-extent", "info", f"field of view {name}", extents, least_sd=0.1, unit="mm", logarithm=True
        )
    return found


def _volumes(facts: Sequence[CaseFacts], labels: Labels) -> list[Finding]:
    found = []
    for name in labels.names:
        volumes = {f.case.id: f.volume_ml(name) for f in facts}
        found += _outliers(
            "outlier-volume", "warning", f"volume of {name!r}", volumes, least_sd=0.15, unit="ml", logarithm=True
        )
    return found


def _intensities(facts: Sequence[CaseFacts], modality: str) -> list[Finding]:
    """By the median inside the structures. Only CT has a scale: of the others, each volume is normalised by itself."""
    found = []
    is_ct = modality == "CT"
    for channel in range(min(f.channels for f in facts)):
        middles = {f.case.id: float(np.median(f.foreground[channel])) for f in facts if f.foreground.shape[1]}
        found += _outliers(
            "outlier-intensity",
            "warning" if is_ct else "info",
            f"median intensity inside the structures (channel {channel})",
            middles,
            least_sd=15.0 if is_ct else 0.2,
            unit="HU" if is_ct else "",
            logarithm=not is_ct,
        )
    return found


def _rare(facts: Sequence[CaseFacts], labels: Labels) -> list[Finding]:
    """Structures that are in so few cases that a fold may hold none of them."""
    found = []
    for name in labels.names:
        holding = tuple(f.case.id for f in facts if f.voxels.get(name))
        few = len(holding) <= max(_FEW_CASES, int(_FEW_PART * len(facts)))
        if holding and few and len(facts) >= FEWEST_CASES:
            text = (
                f"structure {name!r} is in {len(holding)} of {len(facts)} cases only: few folds can learn or score it"
            )
            found.append(Finding("rare-structure", "warning", holding, text))
    return found


def _sides(facts: Sequence[CaseFacts], labels: Labels) -> list[Finding]:
    """Structures called left and right whose middles lie the other way round: in RAS, right has the larger x."""
    found = []
    for channel, partner in enumerate(labels.mirror_swaps):
        if partner <= channel or channel == 0:
            continue
        names = labels.names[channel - 1], labels.names[partner - 1]
        left, right = names if _is_left(*names) else names[::-1]
        both = [f for f in facts if left in f.extents and right in f.extents]
        apart = {f.case.id: f.extents[right].centre_mm[0] - f.extents[left].centre_mm[0] for f in both}
        swapped = tuple(case for case, x in apart.items() if x < -_OPPOSITE_MM)
        if swapped:
            some = f"in {len(swapped)} of {len(apart)} cases that hold both"
            text = (
                f"{left!r} lies to the right of {right!r} {some}: labels swapped, or the image's left and right are; "
                "compare with the scan before training"
            )
            found.append(Finding("sides-swapped", "warning", swapped, text))
    return found


def _is_left(first: str, second: str) -> bool:
    """Whether the first of two names that differ in left and right alone (or l and r) is the left one."""
    a, b = first.lower(), second.lower()
    place = next(n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    return a[place] == "l"


def _mixes(facts: Sequence[CaseFacts]) -> list[Finding]:
    found = []
    orientations = Counter(f.orientation for f in facts if not f.is_flat)
    if len(orientations) > 1:
        said = ", ".join(f"{name} {n}" for name, n in orientations.most_common())
        text = f"stored in several orientations ({said}): each is read in its own, nothing to do"
        found.append(Finding("orientation-mix", "info", (), text))
    flat = tuple(f.case.id for f in facts if f.is_flat)
    if 0 < len(flat) < len(facts):
        text = f"{len(flat)} of {len(facts)} images are one slice thick, the others are volumes; train them apart"
        found.append(Finding("flat-mix", "warning", flat, text))
    uneven = tuple(
        f.case.id for f in facts if not f.is_flat and max(f.spacing_mm) > _ANISOTROPIC * min(f.spacing_mm) > 0
    )
    if 0 < len(uneven) < len(facts) - len(flat):
        text = (
            f"{len(uneven)} of {len(facts) - len(flat)} volumes have slices more than {_ANISOTROPIC:g} times as thick as their "
            "pixels are wide, the others do not; see what spacing the plan chooses, or set plan.spacing_mm"
        )
        found.append(Finding("anisotropy-mix", "info", uneven, text))
    return found


def _borders(facts: Sequence[CaseFacts], labels: Labels) -> list[Finding]:
    """Structures that the field of view may cut."""
    touching = {
        name: [f.case.id for f in facts if name in f.extents and f.extents[name].touches] for name in labels.names
    }
    cut = {name: cases for name, cases in touching.items() if cases}
    if not cut:
        return []
    most = sorted(cut, key=lambda name: -len(cut[name]))
    said = ", ".join(f"{name} in {len(cut[name])}" for name in most[:_LISTED])
    said += f" and {len(most) - _LISTED} more structures" if len(most) > _LISTED else ""
    cases = tuple(f.case.id for f in facts if any(f.case.id in ids for ids in cut.values()))
    return [Finding("touches-border", "info", cases, f"reach the border of the image, so may be cut off: {said}")]
