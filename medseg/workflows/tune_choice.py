"""What the measurements of a tuning decide: post-processing by structure, and the presets. Arrays of Dice in, choices out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from medseg.core.component import Component
from medseg.core.errors import DataError
from medseg.models.how_to_run import Preset, PresetDice
from medseg.statistics.bootstrap import mean_intervals

Floats = npt.NDArray[np.float64]
Steps = tuple[Component, ...]

LOSSES = {"fast": 0.01, "balanced": 0.002}
"""What a preset may lose: of the mean Dice of ``accurate``, and by looking first of the mean Dice of any one structure."""
_SAME = 1e-9


@dataclass(frozen=True)
class Way:
    """How to run a model, in the words of ``InferenceSettings``."""

    overlap: float
    mirror: tuple[int, ...] = ()
    roi: bool = False
    refine: Component | None = field(default=None, hash=False)


@dataclass(frozen=True)
class ChosenSteps:
    """``steps``: those of each structure that has any. ``by_case``: those that the cases of other patients chose.

    ``gains``: what the steps of a structure add to its mean Dice in patients other than those who chose them.
    """

    steps: dict[str, Steps]
    by_case: tuple[dict[str, Steps], ...]
    gains: dict[str, float]


def chosen_steps(
    plain: Floats, after: Sequence[tuple[Steps, Floats]], structures: Sequence[str], patients: Sequence[str]
) -> ChosenSteps:
    """For each structure the steps that raise its mean Dice most, where such a choice holds in patients who had no part in it.

    ``plain`` and those of ``after`` are Dice (cases, structures). A case counts where its Dice is defined without and with
    the steps, so that both means are over the same cases. Of steps that raise it alike, those that come first. They are
    kept where the choice made without a patient, patient by patient, raises the mean Dice (cross-validation, as Stone 1974,
    doi:10.1111/j.2517-6161.1974.tb00994.x, has it for the choice of a prediction); of a single patient none are.
    """
    gained = np.array([dice - plain for _, dice in after])
    of = np.array(patients)
    everyone = _best(gained)
    others = {one: _best(gained[:, of != one]) for one in dict.fromkeys(patients)}
    steps: dict[str, Steps] = {}
    gains: dict[str, float] = {}
    by_case: tuple[dict[str, Steps], ...] = tuple({} for _ in patients)
    for column, name in enumerate(structures):
        choices = [others[patient][column] for patient in patients]
        unseen = np.array(
            [plain[row, column] * 0 if n is None else gained[n, row, column] for row, n in enumerate(choices)]
        )
        gain = _mean(unseen)
        if (best := everyone[column]) is None or gain <= _SAME:
            continue
        steps[name], gains[name] = after[best][0], gain
        for own, n in zip(by_case, choices, strict=True):
            if n is not None:
                own[name] = after[n][0]
    return ChosenSteps(steps, by_case, gains)


def _best(gained: Floats) -> list[int | None]:
    """Of each structure the number of the steps that raise the mean most, of what they ``gained`` (steps, cases, structures)."""
    means = np.array([[_mean(column) for column in one.T] for one in gained])
    found: list[int | None] = []
    for column in means.T:
        best, at = _SAME, None
        for n, gain in enumerate(column):
            if gain > best + _SAME:
                best, at = gain, n
        found.append(at)
    return found


def _mean(values: Floats) -> float:
    """Of those that are defined; 0 where none is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else 0.0


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to run the model: Dice (cases, structures), seconds (cases,) and shares (cases,) as measured.

    ``share``: of the forward passes of the whole scan, in each case, those that ran.
    """

    way: Way
    dice: Floats
    seconds: Floats
    share: Floats

    @property
    def mean_dice(self) -> float:
        """The mean over structures of their means over cases; NaN where no Dice is defined."""
        means = [mean for mean in self.mean_by_structure if not math.isnan(mean)]
        return float(np.mean(means)) if means else math.nan

    @property
    def mean_by_structure(self) -> list[float]:
        """The mean Dice of each structure over cases; NaN where none is defined."""
        return [math.nan if np.isnan(one).all() else float(one[~np.isnan(one)].mean()) for one in self.dice.T]

    def lost_by_structure(self, other: "Candidate") -> list[float]:
        """What ``other`` loses of each structure's mean Dice, over the cases in which both are defined; 0 where none is."""
        return [_mean(column) for column in (self.dice - other.dice).T]

    def most_lost(self, other: "Candidate", structures: Sequence[str]) -> tuple[str, float]:
        """The structure of which ``other`` loses most, and how much; below 0 where it gains of all of them."""
        losses = self.lost_by_structure(other)
        worst = int(np.argmax(losses))
        return structures[worst], losses[worst]

    @property
    def mean_share(self) -> float:
        return float(self.share.mean())

    @property
    def mean_seconds(self) -> float:
        return float(self.seconds.mean())


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """That of the highest mean Dice; of equals the quickest.

    Raises DataError where one has no Dice at all: then no reference holds a structure, and one that finds something, all of
    it wrong, has Dice 0.
    """
    if any(math.isnan(c.mean_dice) for c in candidates):
        raise DataError(
            "the references of all cases are empty, so there is no Dice to choose by; give cases with structures"
        )
    return max(candidates, key=lambda c: (round(c.mean_dice, 6), -c.mean_seconds))


def refused(
    candidate: Candidate, candidates: Sequence[Candidate], structures: Sequence[str], patients: Sequence[str]
) -> str:
    """Why no preset may be ``candidate``, in words; empty where one may.

    Looking first must save windows and time against the same windows over the whole scan, must not miss a structure
    that they find in any case, and must lose of no structure's mean Dice more than the most of ``LOSSES``: a mean over many
    cases or structures would hide it. A refinement that was only tried must raise the mean Dice by more
    than chance: the 95 % bootstrap interval of the gain lies above 0.
    """
    way = candidate.way
    if not way.roi and not way.refine:
        return ""
    whole = _whole_scan(candidate, candidates)
    if way.refine:
        gain = np.array([[_mean(row)] for row in candidate.dice - whole.dice])
        low, high = (getattr(mean_intervals(gain, patients)[0], side) for side in ("low", "high"))
        return "" if low > 0 else f"gains no more than chance ({low:+.4f} to {high:+.4f})"
    if candidate.mean_share >= 1:
        return "saves no windows"
    lost = (whole.dice > 0) & (candidate.dice == 0)
    if lost.any():
        names = [name for name, column in zip(structures, lost.T, strict=True) if column.any()]
        return f"misses {', '.join(names)} in {int(lost.any(axis=1).sum())} of {len(lost)} cases"
    name, loss = whole.most_lost(candidate, structures)
    if loss > (most := max(LOSSES.values())) + _SAME:
        return f"loses {loss:.4f} of the mean Dice of {name}; a preset may lose {most:g}"
    return "" if candidate.mean_seconds < whole.mean_seconds else "takes no less time"


def _whole_scan(candidate: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate with the same windows over the whole scan, and no refinement."""
    return next(c for c in candidates if c.way == replace(candidate.way, roi=False, refine=None))


def presets_of(
    candidates: Sequence[Candidate],
    postprocess: Mapping[str, Steps],
    *,
    structures: Sequence[str],
    patients: Sequence[str],
    measured_on: str,
    machine: str,
) -> dict[str, Preset]:
    """``accurate``: the highest mean Dice; ``balanced`` and ``fast``: the quickest that loses no more than ``LOSSES``.

    One that looks first must also lose no more than that of any structure's mean Dice against the same windows over the whole
    scan. ``accurate`` runs the whole scan, so that what needs all of it (the predicted Dice, probabilities) is there with one.
    """
    allowed = [c for c in candidates if not refused(c, candidates, structures, patients)]
    best = best_of([c for c in allowed if not c.way.roi])

    def loses(c: Candidate) -> float:
        by_structure = _whole_scan(c, candidates).lost_by_structure(c) if c.way.roi else []
        return max([best.mean_dice - c.mean_dice, *by_structure])

    names = {
        name: min((c for c in allowed if loses(c) <= loss + _SAME), key=lambda c: c.mean_seconds)
        for name, loss in LOSSES.items()
    }
    return {
        name: Preset(
            overlap=c.way.overlap,
            mirror=c.way.mirror,
            roi=c.way.roi,
            refine=c.way.refine,
            postprocess=dict(postprocess),
            mean_dice=round(c.mean_dice, 6),
            dice=_dice(c, structures, patients),
            seconds_per_scan=round(c.mean_seconds, 3),
            cases=len(patients),
            measured_on=measured_on,
            machine=machine,
        )
        for name, c in {**names, "accurate": best}.items()
    }


def _dice(candidate: Candidate, structures: Sequence[str], patients: Sequence[str]) -> dict[str, PresetDice]:
    found = {}
    for name, column, limits in zip(
        structures, candidate.dice.T, mean_intervals(candidate.dice, patients), strict=True
    ):
        defined = column[~np.isnan(column)]
        if len(defined):
            low, high = ((round(v, 6) if math.isfinite(v) else None) for v in (limits.low, limits.high))
            found[name] = PresetDice(mean=round(float(defined.mean()), 6), low=low, high=high, cases=len(defined))
    return found
