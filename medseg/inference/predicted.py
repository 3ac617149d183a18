"""The Dice to expect of each structure in a new scan, with an interval, from what validation measured. Needs no torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from medseg.inference.settings import InferenceSettings

if TYPE_CHECKING:
    from medseg.models.how_to_run import DiceCalibration

LEVEL = 0.9
"""The share of new scans whose Dice lies within the interval, at least, where they are like those of the validation."""
FEWEST = math.ceil(1 / (1 - LEVEL) - 1e-9) - 1
"""Patients without whom nothing can be said at ``LEVEL``: 9."""
POOR = 0.7
"""A lower limit below it is a reason to review: above it overlap is taken as good (doi:10.1016/S1076-6332(03)00671-8)."""
MOST = 300
"""Patients of one structure and fold that a calibration keeps; more would hardly move its limits, and fill the model.json."""
_NEVER_SURE = 1e-6
_ROUNDING = 1e-9
_OF_THE_MACHINE = ("batch", "max_memory", "accumulators", "backend", "precision", "ensemble", "mirror_labels")

Floats = npt.NDArray[np.float64]
Patients = tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class PredictedDice:
    """The ``dice`` to expect of one structure and its interval of ``LEVEL``, ``low`` to ``high``; NaN is undefined.

    ``expected``: what the network said, before calibration. ``why``: in words, why something is undefined.
    """

    dice: float
    low: float
    high: float
    expected: float
    why: str = ""

    def __str__(self) -> str:
        """Such as ``0.91 (0.85 to 0.94)``, or why it is undefined."""
        if math.isnan(self.dice):
            return self.why
        return f"{self.dice:.2f} ({self.why or f'{self.low:.2f} to {self.high:.2f}'})"

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        figures = {"dice": self.dice, "low": self.low, "high": self.high, "expected": self.expected}
        told = {name: None if math.isnan(value) else round(value, 4) for name, value in figures.items()}
        return told | ({"why": self.why} if self.why else {})


@dataclass(frozen=True)
class Shift:
    """What is added to the log odds of an expected Dice: the middle, and the limits of an interval (NaN: there is none)."""

    low: float
    middle: float
    high: float
    patients: int


@dataclass(frozen=True, eq=False)
class DicePredictor:
    """A model's ``calibration``, and the settings in which the run here is unlike it: name -> (there, here)."""

    calibration: "DiceCalibration"
    unlike: dict[str, tuple[Any, Any]]

    @cached_property
    def shifts(self) -> dict[str, Shift]:
        return calibrated(self.calibration)

    def of(self, expected: Mapping[str, float]) -> dict[str, PredictedDice]:
        """The Dice to expect of each structure from what ``ExpectedDice`` says."""
        return {name: self._of(name, value) for name, value in expected.items()}

    def _of(self, name: str, expected: float) -> PredictedDice:
        shift = self.shifts.get(name)
        if math.isnan(expected):
            return PredictedDice(math.nan, math.nan, math.nan, math.nan, "not found in this scan")
        if shift is None:
            return PredictedDice(math.nan, math.nan, math.nan, expected, "found in no validation scan")
        moved = log_odds(np.array([expected])) + np.array([shift.middle, shift.low, shift.high])
        dice, low, high = (1 / (1 + np.exp(-moved))).tolist()
        why = (
            "" if shift.patients >= FEWEST else f"an interval needs {FEWEST} patients, validation had {shift.patients}"
        )
        return PredictedDice(dice, low, high, expected, why)

    def remark(self) -> str:
        """Where the run here is unlike the calibration, in words; empty where it is not."""
        if not self.unlike:
            return ""
        there, here = (
            ", ".join(f"{name} {_shown(values[side])}" for name, values in self.unlike.items()) for side in (0, 1)
        )
        return f"predicted Dice was calibrated with {there}; with {here} its interval may hold less often"

    def described(self, predicted: Mapping[str, PredictedDice]) -> dict[str, Any]:
        """For the manifest."""
        return {
            "level": LEVEL,
            "structures": {name: one.as_json() for name, one in predicted.items()},
            "calibration": {
                "measured_on": self.calibration.measured_on,
                "patients": {name: shift.patients for name, shift in self.shifts.items()},
                "settings": self.calibration.settings,
                "unlike": sorted(self.unlike),
            },
        }


def calibrated(calibration: "DiceCalibration") -> dict[str, Shift]:
    """What to add for each structure that was found in a validation scan, the patients of all folds taken together."""
    parts = calibration.scans.values()
    names = dict.fromkeys(name for part in parts for name, patients in part.items() if patients)
    return {name: shift_of(tuple(patient for part in parts for patient in part.get(name, ()))) for name in names}


def predictor_for(
    calibrations: Sequence["DiceCalibration"], settings: InferenceSettings, folds: int
) -> DicePredictor | None:
    """That of the calibration which was measured with the settings most like these; None where there is none."""
    here, usual = deciding(settings, folds), deciding(InferenceSettings(), 1)
    found = []
    for calibration in calibrations:
        there = usual | calibration.settings
        unlike = {name: (there[name], value) for name, value in here.items() if there[name] != value}
        found.append(DicePredictor(calibration, unlike))
    return min(found, key=lambda one: len(one.unlike), default=None)


def deciding(settings: InferenceSettings, folds: int) -> dict[str, Any]:
    """The settings that change a label map by more than rounding, and how many ``folds`` are averaged; as JSON holds them."""
    told = {name: value for name, value in settings.as_json().items() if name not in _OF_THE_MACHINE}
    return told | {"folds": folds}


def scans_of(
    patients: Sequence[str], expected: Sequence[Mapping[str, float]], dice: Sequence[Mapping[str, float]]
) -> dict[str, Patients]:
    """What a calibration keeps of validated cases, by structure and patient: expected and measured Dice where both are defined."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for patient, said, was in zip(patients, expected, dice, strict=True):
        for name, value in said.items():
            measured = was.get(name, math.nan)
            if not math.isnan(value) and not math.isnan(measured):
                pair = (round(value, 6), round(measured, 6))
                found.setdefault(name, {}).setdefault(patient, []).append(pair)
    listed = {name: tuple(map(tuple, by_patient.values())) for name, by_patient in found.items()}
    return {name: known[:: math.ceil(len(known) / MOST)] for name, known in listed.items()}


def poor(predicted: Mapping[str, PredictedDice]) -> list[str]:
    """Why to review: structures whose interval begins below ``POOR``."""
    return [
        f"{name}: predicted Dice {one.dice:.2f}, {LEVEL:.0%} interval {one.low:.2f} to {one.high:.2f}; below {POOR} is poor"
        for name, one in predicted.items()
        if one.low < POOR
    ]


def log_odds(shares: Floats) -> Floats:
    """Of expected Dice, of which none is certain.

    >>> log_odds(np.array([0.5, 0.75])).round(4)
    array([0.    , 1.0986])
    """
    kept = np.clip(shares, _NEVER_SURE, 1 - _NEVER_SURE)
    moved: Floats = np.log(kept) - np.log1p(-kept)
    return moved


def shift_of(patients: Patients) -> Shift:
    """From the (expected, measured) Dice of each patient's scans: by how much the log odds of the measured are larger.

    Split conformal prediction (Lei and others, doi:10.1080/01621459.2017.1307116): nothing is fitted, so that all patients
    calibrate, and the limits are the ``ceil((n + 1) * level)``-th of n differences, which the next one exceeds with the
    probability that is wanted, whatever their distribution. Patients weigh alike, and their scans share that weight (Lee
    and others, doi:10.48550/arXiv.2306.06342). Half of the probability to miss lies above and half below; with fewer
    than 19 patients, for whom half of it is too little, all of it lies below and the upper limit is a Dice of 1. With
    fewer than ``FEWEST`` no limit can be told.
    """
    pairs = np.array([pair for scans in patients for pair in scans], np.float64)
    weights = np.array([1 / len(scans) for scans in patients for _ in scans])
    with np.errstate(divide="ignore"):  # a Dice of 0 or 1
        differences = np.log(pairs[:, 1]) - np.log1p(-pairs[:, 1]) - log_odds(pairs[:, 0])
    n, missed = len(patients), 1 - LEVEL
    above = missed / 2 if (n + 1) * missed / 2 >= 1 - _ROUNDING else 0.0
    middle = _reached(differences, weights / n, 0.5)
    if n < FEWEST:
        return Shift(math.nan, middle, math.nan, n)
    weights /= n + 1
    low, high = -_reached(-differences, weights, LEVEL + above), _reached(differences, weights, 1 - above)
    return Shift(low, middle, high, n)


def _reached(values: Floats, weights: Floats, share: float) -> float:
    """The smallest value up to which the ``weights`` sum to ``share``; infinity where all of them do not."""
    order = np.argsort(values)
    at = int(np.searchsorted(np.cumsum(weights[order]), share - _ROUNDING))
    return float(values[order[at]]) if at < len(values) else math.inf


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "off"
    return str(value) if value or value == 0 else "none"
