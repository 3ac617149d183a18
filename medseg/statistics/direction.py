"""Which way a figure is better: an overlap the higher, a distance the lower, a signed difference the nearer to zero."""

from typing import Literal

Better = Literal["higher", "lower", "nearer to 0"]
_NEARER_TO_0 = ("volume_difference_ml", "relative_volume_difference")
_LOWER = ("brier", "ece", "lesion_false_positives")
_NEITHER = ("volume_ml", "reference_volume_ml")


def better(metric: str, unit: str) -> Better | None:
    """The better way of ``metric``, known by name or else by unit; None where a figure is an amount, neither good nor bad.

    >>> better("dice", "ratio"), better("hd95", "mm"), better("volume_difference_ml", "mL"), better("volume_ml", "mL")
    ('higher', 'lower', 'nearer to 0', None)
    """
    if metric in _NEITHER:
        return None
    if metric in _NEARER_TO_0:
        return "nearer to 0"
    if unit in ("mm", "s") or metric.startswith(_LOWER):
        return "lower"
    return "higher" if unit == "ratio" else None


def badness(value: float, way: Better) -> float:
    """A figure that rises as ``value`` gets worse; NaN stays NaN."""
    if way == "higher":
        return -value
    return abs(value) if way == "nearer to 0" else value
