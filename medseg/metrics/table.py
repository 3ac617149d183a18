"""METRICS: what can be said of a prediction and its reference. A new one is a function of a MaskPair and one line here."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from medseg.core.errors import ConfigError
from medseg.metrics import boundary, calibration, centreline, lesion, overlap, surface, volume, whole_case
from medseg.metrics.pairs import CasePair, MaskPair

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Metric(Generic[Subject]):
    """A function from ``Subject`` to a figure in ``unit``; NaN where undefined."""

    function: Callable[[Subject], float]
    unit: str

    def __call__(self, subject: Subject) -> float:
        return self.function(subject)


METRICS: dict[str, Metric[MaskPair]] = {
    "dice": Metric(overlap.dice, "ratio"),
    "iou": Metric(overlap.iou, "ratio"),
    "precision": Metric(overlap.precision, "ratio"),
    "recall": Metric(overlap.recall, "ratio"),
    "specificity": Metric(overlap.specificity, "ratio"),
    "accuracy": Metric(overlap.accuracy, "ratio"),
    "nsd": Metric(surface.nsd, "ratio"),
    "hd": Metric(surface.hd, "mm"),
    "hd95": Metric(surface.hd95, "mm"),
    "assd": Metric(surface.assd, "mm"),
    "masd": Metric(surface.masd, "mm"),
    "nsd_area": Metric(surface.nsd_area, "ratio"),
    "hd_area": Metric(surface.hd_area, "mm"),
    "hd95_area": Metric(surface.hd95_area, "mm"),
    "assd_area": Metric(surface.assd_area, "mm"),
    "masd_area": Metric(surface.masd_area, "mm"),
    "boundary_iou": Metric(boundary.boundary_iou, "ratio"),
    "cldice": Metric(centreline.cldice, "ratio"),
    "centroid_distance_mm": Metric(surface.centroid_distance_mm, "mm"),
    "volume_ml": Metric(volume.volume_ml, "mL"),
    "reference_volume_ml": Metric(volume.reference_volume_ml, "mL"),
    "volume_difference_ml": Metric(volume.volume_difference_ml, "mL"),
    "relative_volume_difference": Metric(volume.relative_volume_difference, "ratio"),
}

# By name of a structure alone: a liver is no lesion.
LESION_METRICS: dict[str, Metric[MaskPair]] = {
    "lesion_f1": Metric(lesion.lesion_f1, "ratio"),
    "lesion_sensitivity": Metric(lesion.lesion_sensitivity, "ratio"),
    "lesion_precision": Metric(lesion.lesion_precision, "ratio"),
    "lesion_pq": Metric(lesion.lesion_pq, "ratio"),
    "lesion_sq": Metric(lesion.lesion_sq, "ratio"),
    "lesion_false_positives": Metric(lesion.lesion_false_positives, "count"),
    "reference_lesions": Metric(lesion.reference_lesions, "count"),
    **{name: Metric(function, unit) for name, function, unit in lesion.by_size(lesion.SIZES_ML)},
}

CASE_METRICS: dict[str, Metric[CasePair]] = {
    "mean_iou": Metric(whole_case.mean_iou, "ratio"),
    "pixel_accuracy": Metric(whole_case.pixel_accuracy, "ratio"),
}

# Of probabilities alone: a label map has none.
PROBABILITY_METRICS: dict[str, Metric[calibration.Forecast]] = {
    "ece": Metric(calibration.ece, "ratio"),
    "brier": Metric(calibration.brier, "ratio"),
}
CASE_PROBABILITY_METRICS: dict[str, Metric[calibration.CaseForecast]] = {
    "ece_top_label": Metric(calibration.ece_top_label, "ratio"),
    "brier_multiclass": Metric(calibration.brier_multiclass, "ratio"),
}

COUNTED = ("dice", "iou", "precision", "recall", "accuracy", "volume_ml", "reference_volume_ml")  # cost next to nothing
DEFAULT_METRICS = (
    *("dice", "iou", "precision", "recall", "accuracy", "nsd", "hd95", "assd"),
    *("volume_ml", "reference_volume_ml", "volume_difference_ml", *CASE_METRICS),
)


def chosen_metrics(names: Iterable[str] | None) -> tuple[str, ...]:
    """``names`` in the order of the tables; DEFAULT_METRICS without any, all for ``all``.

    Raises ConfigError for a name in neither METRICS nor CASE_METRICS, with all that there are.
    """
    known = (*METRICS, *CASE_METRICS)
    asked = list(DEFAULT_METRICS if names is None else names)
    unknown = [name for name in asked if name not in known and name != "all"]
    if unknown or not asked:
        what = f"no metric is called {', '.join(map(repr, unknown))}" if unknown else "no metric is chosen"
        raise ConfigError(f"{what}; choose from {', '.join(known)}, or all (those of lesions come with --lesions)")
    return tuple(name for name in known if "all" in asked or name in asked)
