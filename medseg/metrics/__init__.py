"""Figures of a prediction and its reference, as numpy functions of a MaskPair; METRICS (``table``) holds them all."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from medseg.core.cores import cores
from medseg.core.scores import Score
from medseg.metrics.overlap import EMPTY_MASK_POLICY, empty_mask_policy
from medseg.metrics.pairs import CasePair, MaskPair
from medseg.metrics.rules import Rules
from medseg.metrics.settings import Settings
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
    "Settings",
    "chosen_metrics",
    "empty_mask_policy",
    "score_case",
    "score_regions",
    "score_structure",
    "score_structures",
]


MOST_THREADS = 8  # each holds the masks of one structure


def score_structure(case: str, structure: str, pair: MaskPair, metrics: Iterable[str] = COUNTED) -> list[Score]:
    """Those of METRICS and LESION_METRICS named in ``metrics`` for one structure of one case; other names are passed over."""
    table = METRICS | LESION_METRICS
    chosen = [(name, table[name]) for name in metrics if name in table]
    return [Score(case, structure, name, metric(pair), metric.unit, pair.state) for name, metric in chosen]


def score_structures(
    case: str, names: Mapping[int, str], maps: CasePair, settings: Settings, *, threads: int | None = None
) -> dict[int, list[Score]]:
    """``score_structure`` for each value of ``names``, on ``threads`` (else as many as there are cores), the largest first."""

    def scored(value: int) -> list[Score]:
        name = names[value]
        return score_structure(case, name, maps.structure(value, settings.rules(name)), settings.metrics_of(name))

    voxels = {value: maps.predicted_voxels.get(value, 0) + maps.reference_voxels.get(value, 0) for value in names}
    maps.find_boxes()
    with ThreadPoolExecutor(min(MOST_THREADS, threads or cores())) as pool:
        waiting = {v: pool.submit(scored, v) for v in sorted(names, key=lambda v: -voxels[v])}
        return {value: waiting[value].result() for value in names}


def score_regions(case: str, values: Mapping[str, int], maps: CasePair, settings: Settings) -> list[Score]:
    """Every figure of each region of ``settings``: its structures, whose ``values`` are given by name, taken together."""
    found: list[Score] = []
    for name, structures in settings.regions.items():
        pair = maps.region([values[structure] for structure in structures], settings.rules(name))
        found += score_structure(case, name, pair, settings.metrics_of(name))
    return found


def score_case(case: str, pair: CasePair, metrics: Iterable[str] = tuple(CASE_METRICS)) -> list[Score]:
    """Those of CASE_METRICS named in ``metrics``; their ``structure`` is the empty text."""
    chosen = [(name, CASE_METRICS[name]) for name in metrics if name in CASE_METRICS]
    return [Score(case, "", name, metric(pair), metric.unit) for name, metric in chosen]
