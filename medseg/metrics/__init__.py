"""METRICS: what can be said of a prediction and its reference. A new one is a function of a MaskPair and one line here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from medseg.core.scores import Score
from medseg.metrics.overlap import EMPTY_MASK_POLICY, accuracy, dice, iou, precision, recall
from medseg.metrics.pairs import CasePair, MaskPair
from medseg.metrics.volume import reference_volume_ml, volume_ml
from medseg.metrics.whole_case import mean_iou, pixel_accuracy

__all__ = ["CASE_METRICS", "EMPTY_MASK_POLICY", "METRICS", "CasePair", "MaskPair", "score_case", "score_structure"]

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Metric(Generic[Subject]):
    """A function from ``Subject`` to a figure in ``unit``; NaN where undefined."""

    function: Callable[[Subject], float]
    unit: str

    def __call__(self, subject: Subject) -> float:
        return self.function(subject)


METRICS: dict[str, Metric[MaskPair]] = {
    "dice": Metric(dice, "ratio"),
    "iou": Metric(iou, "ratio"),
    "precision": Metric(precision, "ratio"),
    "recall": Metric(recall, "ratio"),
    "accuracy": Metric(accuracy, "ratio"),
    "volume_ml": Metric(volume_ml, "mL"),
    "reference_volume_ml": Metric(reference_volume_ml, "mL"),
}

CASE_METRICS: dict[str, Metric[CasePair]] = {
    "mean_iou": Metric(mean_iou, "ratio"),
    "pixel_accuracy": Metric(pixel_accuracy, "ratio"),
}


def score_structure(case: str, structure: str, pair: MaskPair) -> list[Score]:
    """Every entry of METRICS for one structure of one case."""
    return [Score(case, structure, name, metric(pair), metric.unit, pair.state) for name, metric in METRICS.items()]


def score_case(case: str, pair: CasePair) -> list[Score]:
    """Every entry of CASE_METRICS; their ``structure`` is the empty text."""
    return [Score(case, "", name, metric(pair), metric.unit) for name, metric in CASE_METRICS.items()]
