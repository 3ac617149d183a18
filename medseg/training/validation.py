"""Whole-volume validation through the inference engine: the same reading, windows and grid as `medseg infer`."""

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medseg.core.case import Case
from medseg.core.errors import GeometryError
from medseg.core.geometry import order_between
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.scores import Score
from medseg.core.volume import LabelMap, Volume
from medseg.data.check import as_label
from medseg.inference.backends.torch_backend import torch_predict
from medseg.inference.expected import ExpectedDice
from medseg.inference.segment import USUAL, segment
from medseg.inference.settings import InferenceSettings
from medseg.io.reading import read_volumes
from medseg.io.scan import ReadOptions
from medseg.metrics import COUNTED, CasePair, Settings, score_case, score_regions, score_structure
from medseg.models.bundle import network_for, weights_of


@dataclass(frozen=True, eq=False)
class Validated:
    """One case as validated: its scores, what a picture of it needs, and the Dice that the network expected by structure."""

    case: str
    scores: list[Score]
    volume: Volume
    prediction: LabelMap
    reference: LabelMap
    expected: dict[str, float]

    @property
    def dice(self) -> dict[str, float]:
        """By structure and region, as measured."""
        return {score.structure: score.value for score in self.scores if score.metric == "dice"}


def validate_case(
    case: Case, plan: Plan, network: torch.nn.Module, device: torch.device, *, settings: InferenceSettings = USUAL
) -> Validated:
    """Read, segment with ``settings`` and score one case on its own grid, as ``medseg infer`` and ``medseg evaluate`` would.

    Regions are scored beside the structures. Voxels to be ignored are background in prediction and reference, and
    structures that the case does not annotate are not scored.
    """
    labels = plan.structure_labels
    volume = read_volumes(case.images, options=ReadOptions(channel_grids=case.channel_grids))
    expected = ExpectedDice(labels)
    predict = torch_predict([network], device)
    prediction = segment(volume, plan, predict, settings=settings, expected=expected).label_map
    pair, reference = compared(case, prediction, as_label(case, labels, volume.geometry), labels)
    known = labels.names if case.annotated is None else case.annotated
    structures = [s for s in labels.structures if s.name in known]
    scores = [score for s in structures for score in score_structure(case.id, s.name, pair.structure(s.value))]
    scores += score_regions(case.id, labels.mapping(), pair, region_settings(labels, known))
    # A whole-case figure counts every voxel, also those whose structure nobody drew.
    scores += score_case(case.id, pair) if case.annotated is None else []
    return Validated(case.id, scores, volume, prediction, reference, expected.of(prediction.volumes_ml()))


def compared(case: Case, prediction: LabelMap, reference: LabelMap, labels: Labels) -> tuple[CasePair, LabelMap]:
    """``prediction`` beside ``reference`` on the reference's grid, and that reference; background where voxels are ignored."""
    order = order_between(prediction.geometry, reference.geometry)
    if order is None:
        raise GeometryError(f"{case.id}: label grid {reference.geometry} differs from image grid {prediction.geometry}")
    predicted = order.array(prediction.data)
    if labels.ignore is not None:
        ignored = reference.data == labels.ignore
        predicted, cleared = (np.where(ignored, data.dtype.type(0), data) for data in (predicted, reference.data))
        reference = replace(reference, data=cleared)
    return CasePair.of(predicted, reference.data, reference.geometry), reference


def region_settings(labels: Labels, known: Collection[str]) -> Settings:
    """What is scored: regions of ``known`` structures alone; one that is a structure is scored as that."""
    regions = {
        r.name: r.structures for r in labels.regions if r.name not in labels.names and {*r.structures} <= {*known}
    }
    return Settings(COUNTED, regions=regions)


def trained_network(plan: Plan, state: dict[str, Tensor]) -> torch.nn.Module:
    """The plan's network holding ``state``, ready for inference."""
    network = network_for(plan)
    weights_of(network).load_state_dict(state)
    return network.eval()


def mean_dice(
    cases: Sequence[Case], plan: Plan, state: dict[str, Tensor], device: torch.device, *, progress: Progress = silent
) -> dict[str, float]:
    """Mean Dice of each structure over ``cases``; NaN for a structure that none of them holds."""
    network = trained_network(plan, state)
    found: dict[str, list[float]] = {name: [] for name in plan.structure_labels.names}
    for done, case in enumerate(cases, 1):
        for score in validate_case(case, plan, network, device).scores:
            if score.metric == "dice" and score.structure in found and not math.isnan(score.value):
                found[score.structure].append(score.value)
        progress("validate", done, len(cases))
    return {name: float(np.mean(values)) if values else math.nan for name, values in found.items()}


def seconds_per_case(cases: Sequence[Case], plan: Plan, device: torch.device) -> float:
    """Seconds to read, segment and score a case with an untrained network of ``plan``: the middle one by file size.

    The quicker of two times, because the first also makes the kernels ready.
    """
    case = sorted(cases, key=lambda c: (sum(p.stat().st_size for p in c.images), c.id))[len(cases) // 2]
    network = network_for(plan).eval()
    took = []
    for _ in range(2):
        start = time.perf_counter()
        validate_case(case, plan, network, device)
        took.append(time.perf_counter() - start)
    return min(took)
