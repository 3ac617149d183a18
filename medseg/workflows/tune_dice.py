"""What a tuning leaves for the predicted Dice: a calibration of the model's usual settings and of each preset."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from medseg.inference.predicted import deciding, scans_of
from medseg.inference.settings import InferenceOptions, settings_for
from medseg.models.bundle import Model
from medseg.models.how_to_run import DiceCalibration, Preset
from medseg.workflows.tune_cases import TuneCases
from medseg.workflows.tune_choice import Floats

Measure = Callable[[int, Any], Floats]
"""The number of a way and the post-processing by structure -> Dice (cases, structures), NaN where it is undefined."""


def calibrations_of(
    model: Model,
    found: TuneCases,
    ways: Sequence[tuple[float, tuple[int, ...]]],
    presets: Mapping[str, Preset],
    *,
    expected: Measure,
    measured: Measure,
) -> tuple[DiceCalibration, ...]:
    """Of the settings that are usual for the model, where ``ways`` hold them, and of its ``presets``, each one once.

    ``expected``, ``measured``: what the network said, and what came of it, in the order of the cases ``found``.
    """
    wishes, plan, names = model.card.inference, model.plan, model.labels.names
    way_of = {
        (one.overlap, one.mirror): n
        for n, one in enumerate(settings_for(InferenceOptions(*way), wishes, plan) for way in ways)
    }
    asked = [InferenceOptions(p.overlap, p.mirror, postprocess=p.postprocess) for p in presets.values()]
    folds = max(map(len, found.folds))
    weights = [name.removesuffix(".safetensors") for name in sorted(model.card.weights)]
    groups: dict[str, list[int]] = {}
    for row, numbers in enumerate(found.folds):
        groups.setdefault(" ".join(weights[n] for n in numbers), []).append(row)
    calibrations: list[DiceCalibration] = []
    for settings in (settings_for(options, wishes, plan) for options in (InferenceOptions(), *asked)):
        told, way = deciding(settings, folds), way_of.get((settings.overlap, settings.mirror))
        if way is None or any(one.settings == told for one in calibrations):
            continue
        steps = settings.postprocess
        said, was = (
            [dict(zip(names, row, strict=True)) for row in measure(way, steps).tolist()]
            for measure in (expected, measured)
        )
        scans = {
            key: scans_of([found.cases[n].patient for n in rows], [said[n] for n in rows], [was[n] for n in rows])
            for key, rows in groups.items()
        }
        if any(scans.values()):
            calibrations.append(DiceCalibration(settings=told, measured_on=found.described, scans=scans))
    return tuple(calibrations)
