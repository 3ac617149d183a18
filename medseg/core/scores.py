"""Scores as plain rows, and their summary with honest counts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """One figure: ``value`` is NaN where it is undefined. ``structure`` is empty for a figure of the whole case.

    ``state`` says how the masks stood: ``scored``, ``both_empty``, ``missed`` (reference only) or ``spurious`` (prediction only).
    """

    case: str
    structure: str
    metric: str
    value: float
    unit: str
    state: str = "scored"


@dataclass(frozen=True)
class ScoredCase:
    """One case that was scored: its two files with their sha256, the reference's grid, and what reading had to assume.

    ``resampled_from`` describes the prediction's own grid where it was resampled onto the reference's, and is empty where
    it was not; ``outside_ml`` is what of it lay beyond that grid and was not scored. ``probabilities``: their file, empty where
    none were scored.
    """

    id: str
    prediction: str
    reference: str
    prediction_sha256: str
    reference_sha256: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    warnings: tuple[str, ...] = ()
    resampled_from: str = ""
    outside_ml: float = 0.0
    probabilities: str = ""
    probabilities_sha256: str = ""


@dataclass(frozen=True)
class Summary:
    """Over cases, for one structure and metric. ``n`` counts defined values; the others are counted, never averaged away.

    ``low`` and ``high`` are the limits of the 95 % interval of the mean, by ``interval`` (BCa or percentile; empty where
    there is none), of ``patients`` with a value.
    """

    structure: str
    metric: str
    unit: str
    mean: float
    median: float
    q1: float
    q3: float
    n: int
    undefined: int
    missed: int
    spurious: int
    low: float
    high: float
    interval: str
    patients: int


def defined(values: Iterable[float]) -> list[float]:
    """The values that are not NaN."""
    return [v for v in values if not math.isnan(v)]


def withheld(scores: Iterable[Score]) -> bool:
    """True where a mean over cases would leave out a failure: a distance without a value because one mask alone is empty."""
    return any(s.unit == "mm" and s.state in ("missed", "spurious") and math.isnan(s.value) for s in scores)
