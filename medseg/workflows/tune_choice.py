"""What the measurements of a tuning decide: post-processing by structure, and the presets. Arrays of Dice in, choices out."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.core.component import Component
from medseg.models.how_to_run import Preset, PresetDice
from medseg.statistics.bootstrap import mean_intervals

Floats = npt.NDArray[np.float64]
Steps = tuple[Component, ...]

LOSSES = {"fast": 0.01, "balanced": 0.002}
"""The mean Dice that a preset may lose against ``accurate``, for which it is the quickest one."""
_SAME = 1e-9


def chosen_steps(
    plain: Floats, after: Sequence[tuple[Steps, Floats]], structures: Sequence[str]
) -> dict[str, tuple[Steps, float]]:
    """For each structure the steps that raise its mean Dice most, and by how much; none where no steps raise it.

    ``plain`` and those of ``after`` are Dice (cases, structures). A case counts where its Dice is defined without and with
    the steps, so that both means are over the same cases. Of steps that raise it alike, those that come first.
    """
    found: dict[str, tuple[Steps, float]] = {}
    for column, name in enumerate(structures):
        best = _SAME
        for steps, dice in after:
            gains = (dice - plain)[:, column]
            gain = float(gains[~np.isnan(gains)].mean()) if not np.isnan(gains).all() else 0.0
            if gain > best + _SAME:
                best, found[name] = gain, (steps, gain)
    return found


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to run the model: Dice (cases, structures) and seconds (cases,) as measured."""

    overlap: float
    mirror: tuple[int, ...]
    dice: Floats
    seconds: Floats

    @property
    def mean_dice(self) -> float:
        """The mean over structures of their means over cases; NaN where no Dice is defined."""
        means = [column[~np.isnan(column)].mean() for column in self.dice.T if not np.isnan(column).all()]
        return float(np.mean(means)) if means else math.nan


def presets_of(
    candidates: Sequence[Candidate],
    postprocess: Mapping[str, Steps],
    *,
    structures: Sequence[str],
    patients: Sequence[str],
    measured_on: str,
    machine: str,
) -> dict[str, Preset]:
    """``accurate``: the highest mean Dice; ``balanced`` and ``fast``: the quickest that loses no more than ``LOSSES``."""
    best = max(candidates, key=lambda c: (round(c.mean_dice, 6), -c.seconds.mean()))
    names = {
        name: min(
            (c for c in candidates if best.mean_dice - c.mean_dice <= loss + _SAME),
            key=lambda c: float(c.seconds.mean()),
        )
        for name, loss in LOSSES.items()
    }
    return {
        name: Preset(
            overlap=c.overlap,
            mirror=c.mirror,
            postprocess=dict(postprocess),
            mean_dice=round(c.mean_dice, 6),
            dice=_dice(c, structures, patients),
            seconds_per_scan=round(float(c.seconds.mean()), 3),
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
