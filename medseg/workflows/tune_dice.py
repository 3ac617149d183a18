"""What a tuning leaves for the predicted Dice: a calibration of the model's usual settings and of each preset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from medseg.inference.predicted import deciding, scans_of
from medseg.inference.settings import InferenceOptions, InferenceSettings, settings_for
from medseg.models.bundle import Model
from medseg.models.how_to_run import DiceCalibration, Preset
from medseg.workflows.tune_cases import TuneCases
from medseg.workflows.tune_choice import Floats, Way
from medseg.workflows.tune_measure import ByStructure, settings_to_measure

Measure = Callable[[int, Sequence[ByStructure]], tuple[Floats, Floats]]
"""The number of a way and each case's post-processing -> what the network said and what came of it: Dice (cases, structures)."""


def calibrations_of(
    model: Model,
    found: TuneCases,
    ways: Sequence[Way],
    presets: Mapping[str, Preset],
    *,
    both: Measure,
    by_case: Sequence[ByStructure],
) -> tuple[DiceCalibration, ...]:
    """Of the settings that are usual for the model, where ``ways`` hold them, and of its ``presets``, each one once.

    None of a preset that looks first: outside its box there are no probabilities. ``by_case``: the post-processing of each
    case with a preset. Cases are in the order of ``found``.
    """
    wishes, plan, names = model.card.inference, model.plan, model.labels.names
    tried = [settings_to_measure(way, model) for way in ways]
    usual = settings_for(InferenceOptions(), wishes, plan)
    wanted: list[tuple[InferenceSettings, Sequence[ByStructure]]] = [(usual, [usual.postprocess] * len(found.cases))]
    wanted += [
        (settings_for(InferenceOptions(preset=name), wishes.model_copy(update={"presets": presets}), plan), by_case)
        for name, preset in presets.items()
        if not preset.roi
    ]
    folds = max(map(len, found.folds))
    weights = [name.removesuffix(".safetensors") for name in sorted(model.card.weights)]
    groups: dict[str, list[int]] = {}
    for row, numbers in enumerate(found.folds):
        groups.setdefault(" ".join(weights[n] for n in numbers), []).append(row)
    calibrations: list[DiceCalibration] = []
    for settings, steps in wanted:
        told = deciding(settings, folds)
        way = next((n for n, one in enumerate(tried) if replace(settings, postprocess={}) == one), None)
        if way is None or any(one.settings == told for one in calibrations):
            continue
        said, was = ([dict(zip(names, row, strict=True)) for row in dice.tolist()] for dice in both(way, steps))
        scans = {
            key: scans_of([found.cases[n].patient for n in rows], [said[n] for n in rows], [was[n] for n in rows])
            for key, rows in groups.items()
        }
        if any(scans.values()):
            calibrations.append(DiceCalibration(settings=told, measured_on=found.described, scans=scans))
    return tuple(calibrations)
