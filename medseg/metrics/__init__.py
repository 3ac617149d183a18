"""Figures of a prediction and its reference, as numpy functions of a MaskPair; METRICS (``table``) holds them all."""

from collections.abc import Iterable

from medseg.core.scores import Score
from medseg.metrics.overlap import EMPTY_MASK_POLICY, empty_mask_policy
from medseg.metrics.pairs import CasePair, MaskPair
from medseg.metrics.rules import Rules
from medseg.metrics.table import CASE_METRICS, COUNTED, DEFAULT_METRICS, LESION_METRICS, METRICS, chosen_metrics

__all__ = [
    "CASE_METRICS",
    "COUNTED",
    "DEFAULT_METRICS",
    "EMPTY_MASK_POLICY",
    "LESION_METRICS",
    "METRICS",
    "CasePair",
    "MaskPair",
    "Rules",
    "chosen_metrics",
    "empty_mask_policy",
    "score_case",
    "score_structure",
]


def score_structure(case: str, structure: str, pair: MaskPair, metrics: Iterable[str] = COUNTED) -> list[Score]:
    """Those of METRICS and LESION_METRICS named in ``metrics`` for one structure of one case; other names are passed over."""
    table = METRICS | LESION_METRICS
    chosen = [(name, table[name]) for name in metrics if name in table]
    return [Score(case, structure, name, metric(pair), metric.unit, pair.state) for name, metric in chosen]


def score_case(case: str, pair: CasePair, metrics: Iterable[str] = tuple(CASE_METRICS)) -> list[Score]:
    """Those of CASE_METRICS named in ``metrics``; their ``structure`` is the empty text."""
    chosen = [(name, CASE_METRICS[name]) for name in metrics if name in CASE_METRICS]
    return [Score(case, "", name, metric(pair), metric.unit) for name, metric in chosen]
