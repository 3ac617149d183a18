"""Tune: model folder -> cases it has not seen -> ways to run it, measured -> presets, written into the model folder."""

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.case import Case
from medseg.core.component import Component
from medseg.core.config_inference import EVERY
from medseg.core.errors import DataError
from medseg.core.files import check_writable, json_bytes, write_together
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.volume import LabelMap
from medseg.inference.predicted import calibrated
from medseg.workflows.tune_cases import TuneCases, given_cases, own_cases
from medseg.workflows.tune_choice import Candidate, Steps, chosen_steps, presets_of

Say = Callable[[str], None]
OVERLAPS = (0.5, 0.25)
_LARGEST, _SMALL, _HOLES = (Component(name=name) for name in ("largest_component", "minimum_volume", "fill_holes"))
STEPS: tuple[Steps, ...] = (
    (_LARGEST,),
    (_SMALL,),
    (_HOLES,),
    (_LARGEST, _HOLES),
    (_SMALL, _HOLES),
)
"""What post-processing is tried; what comes first wins a tie."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """What was written: ``presets`` by name, the ``candidates`` they were chosen from, and post-processing by structure.

    ``predicted_dice``: the calibrations of the usual settings and of each preset.

    ``gains``: what the post-processing of each structure that has one adds to its mean Dice. ``precision``: that of all
    figures; on a CPU that has arithmetic for it, bf16 where the ``bf16_dice_loss`` measured first is small enough.
    """

    model: Path
    presets: dict[str, Any]
    candidates: tuple[Candidate, ...]
    gains: dict[str, float]
    cases: int
    remarks: tuple[str, ...]
    precision: str
    bf16_dice_loss: Any
    predicted_dice: tuple[Any, ...]

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": str(self.model),
            "cases": self.cases,
            "remarks": list(self.remarks),
            "candidates": [
                {
                    "overlap": c.overlap,
                    "mirror": list(c.mirror),
                    "mean_dice": c.mean_dice,
                    "seconds_per_scan": float(c.seconds.mean()),
                }
                for c in self.candidates
            ],
            "postprocess_gains": self.gains,
            "precision": self.precision,
            "bf16_dice_loss": None if self.bf16_dice_loss is None else self.bf16_dice_loss.model_dump(mode="json"),
            "predicted_dice": [
                {"settings": one.settings, "patients": {name: s.patients for name, s in calibrated(one).items()}}
                for one in self.predicted_dice
            ],
            "presets": {name: preset.model_dump(mode="json") for name, preset in self.presets.items()},
        }


def tune(
    model: Path | str | None = None,
    *,
    config: Path | str | None = None,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    cases: int | None = None,
    device: str = "auto",
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> Tuned:
    """Measure ways to run ``model`` and write the presets ``fast``, ``balanced`` and ``accurate`` into its model.json.

    Cases: the validation cases of the model's own run folder, each predicted by the folds that did not see it; or those of
    ``config``'s data section, or of the folders ``images`` and ``labels``. ``cases``: at most so many, spread evenly.
    Overlaps one half and one quarter are tried, without mirroring and, where training mirrored, with it. Post-processing is
    kept for a structure where it raises the mean Dice (paired) at overlap one half; it is chosen on the cases that measure it.

    Raises ModelError for the model, DataError where there are no cases that it has not seen, ConfigError, ResourceError.
    """
    from medseg.inference.backends import start
    from medseg.inference.device import bf16_pays, choose_device, enough_memory, machine
    from medseg.inference.precision import F32_ALONE, bf16_dice_loss
    from medseg.models.bundle import load_model
    from medseg.models.installed import find_model
    from medseg.workflows.tune_dice import calibrations_of

    loaded = load_model(find_model(None if model is None else Path(model)))
    folder, card, plan = loaded.folder, loaded.card, loaded.plan
    weights, training = list(card.weights), card.training
    config, images, labels = (None if path is None else Path(path) for path in (config, images, labels))
    if config is None and images is None and labels is None:
        found = own_cases(folder, weights, training, loaded.labels)
    else:
        found = given_cases(folder, weights, training, loaded.labels, config=config, images=images, references=labels)
    found = _spread(found, cases)
    check_writable(folder)
    chosen = choose_device(device)
    say(f"model: {folder} ({card.name}); {len(found.cases)} {found.described}; device: {chosen}")
    for remark in found.remarks:
        say(f"warning: {remark}")
    mirrors = [(), plan.mirror_axes] if plan.mirror_axes else [()]
    ways = [(overlap, mirror) for mirror in mirrors for overlap in OVERLAPS]
    names, base = loaded.labels.names, 0
    with enough_memory(chosen):
        running = start(loaded, chosen, precision="auto" if chosen.type == "cuda" else "f32", say=say)
        runs = _measured(loaded, running.predicts, found, ways[:1], progress)
        loss = None
        if chosen.type == "cpu" and bf16_pays(chosen) and running.backend not in F32_ALONE:
            short = start(loaded, chosen, backend=running.backend, precision="bf16", say=say)
            in_bf16 = _measured(loaded, short.predicts, found, ways[:1], progress)
            exact, rounded = (_dice(some, 0, (), names, loaded.labels) for some in (runs, in_bf16))
            loss = bf16_dice_loss(exact, rounded, structures=names, backend=running.backend)
            if loss is not None and loss.chosen:
                running, runs = short, in_bf16
        others = _measured(loaded, running.predicts, found, ways[1:], progress)
    runs = [
        replace(a, found=a.found + b.found, seconds=a.seconds + b.seconds, expected=a.expected + b.expected)
        for a, b in zip(runs, others, strict=True)
    ]
    plain = _dice(runs, base, (), names, loaded.labels)
    after = [(steps, _dice(runs, base, steps, names, loaded.labels)) for steps in STEPS]
    kept = chosen_steps(plain, after, names)
    steps = {name: found for name, (found, _) in kept.items()}
    candidates = tuple(
        Candidate(
            overlap, mirror, _dice(runs, n, steps, names, loaded.labels), np.array([run.seconds[n] for run in runs])
        )
        for n, (overlap, mirror) in enumerate(ways)
    )
    if all(np.isnan(c.dice).all() for c in candidates):
        raise DataError(f"{folder}: no Dice is defined: neither the references nor the predictions hold a structure")
    presets = presets_of(
        candidates,
        steps,
        structures=names,
        patients=[case.patient for case in found.cases],
        measured_on=found.described,
        machine=f"{machine(chosen)}, {running.backend} {running.precision}",
    )
    calibrations = calibrations_of(
        loaded,
        found,
        ways,
        presets,
        expected=lambda way, steps: _expected(runs, way, steps, loaded.labels),
        measured=lambda way, steps: _dice(runs, way, steps, names, loaded.labels),
    )
    _write(folder, presets, loss, calibrations)
    gains = {name: gain for name, (_, gain) in kept.items()}
    return Tuned(
        folder, presets, candidates, gains, len(found.cases), found.remarks, running.precision, loss, calibrations
    )


@dataclass(frozen=True, eq=False)
class _Packed:
    """A label map, compressed: those of all cases are held until post-processing is chosen."""

    data: bytes
    dtype: np.dtype[Any]
    geometry: Geometry

    @classmethod
    def of(cls, label_map: LabelMap) -> "_Packed":
        return cls(zlib.compress(label_map.data.tobytes(), 1), label_map.data.dtype, label_map.geometry)

    def label_map(self) -> LabelMap:
        values = np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.geometry.shape)
        return LabelMap(values, self.geometry)


@dataclass(frozen=True, eq=False)
class _Run:
    """One case: its reference, and for each way the label map, the seconds and the Dice that the network expected."""

    case: Case
    reference: _Packed
    found: tuple[_Packed, ...]
    seconds: tuple[float, ...]
    expected: tuple[dict[str, float], ...]


def _spread(found: TuneCases, most: int | None) -> TuneCases:
    if most is None or most >= len(found.cases):
        return found
    kept = sorted({round(n) for n in np.linspace(0, len(found.cases) - 1, most)})
    cases, folds = tuple(found.cases[n] for n in kept), tuple(found.folds[n] for n in kept)
    return TuneCases(cases, folds, f"of {len(found.cases)} {found.described}", found.remarks)


def _measured(
    loaded: Any,
    predicts: Sequence[Any],
    found: TuneCases,
    ways: Sequence[tuple[float, tuple[int, ...]]],
    progress: Progress,
) -> list[_Run]:
    """Every case segmented in every way, each timed without reading; the network's time is that of all folds."""
    from medseg.data.check import as_label
    from medseg.inference.ensemble import ensembled, outputs_of
    from medseg.inference.expected import ExpectedDice
    from medseg.inference.segment import segment
    from medseg.inference.settings import InferenceOptions, settings_for
    from medseg.io.reading import read_volumes
    from medseg.io.scan import ReadOptions

    runs = []
    for number, (case, folds) in enumerate(zip(found.cases, found.folds, strict=True)):
        volume = read_volumes(case.images, options=ReadOptions(channel_grids=case.channel_grids))
        label_maps, seconds, expected = [], [], []
        for way, (overlap, mirror) in enumerate(ways):
            options = InferenceOptions(overlap, mirror, postprocess={})
            settings = settings_for(options, loaded.card.inference, loaded.plan)
            outputs = outputs_of(len(folds), settings.ensemble)
            predict = ensembled([predicts[n] for n in folds], outputs, regions=bool(loaded.labels.regions))
            said = ExpectedDice(loaded.labels)
            made = segment(volume, loaded.plan, predict, settings=settings, outputs=outputs, expected=said)
            expected.append(said.of(made.label_map.volumes_ml()))
            label_maps.append(_Packed.of(made.label_map))
            others = sum(value for stage, value in made.seconds.items() if stage != "network")
            seconds.append(others + made.seconds["network"] * len(predicts) / len(folds))
            progress("ways to run it", number * len(ways) + way + 1, len(found.cases) * len(ways))
        reference = as_label(case, loaded.plan.structure_labels, volume.geometry)
        runs.append(_Run(case, _Packed.of(reference), tuple(label_maps), tuple(seconds), tuple(expected)))
    return runs


def _dice(runs: Sequence[_Run], way: int, steps: Any, names: Sequence[str], labels: Labels) -> Any:
    """Dice (cases, structures) of one way after ``steps``: a tuple for every structure, or a mapping by structure.

    NaN where it is undefined, and for a structure that a case does not annotate.
    """
    from medseg.inference.postprocess import postprocess
    from medseg.metrics.overlap import dice
    from medseg.training.validation import compared

    asked = steps if isinstance(steps, dict) else {EVERY: steps}
    found = np.full((len(runs), len(names)), np.nan)
    for row, run in enumerate(runs):
        label_map, _ = postprocess(run.found[way].label_map(), asked, labels)
        pair, _ = compared(run.case, label_map, run.reference.label_map(), labels)
        for column, structure in enumerate(labels.structures):
            if run.case.annotated is None or structure.name in run.case.annotated:
                found[row, column] = dice(pair.structure(structure.value))
    return found


def _expected(runs: Sequence[_Run], way: int, steps: Any, labels: Labels) -> Any:
    """What the network expected of one way, as ``_dice``; NaN where ``steps`` leave nothing of a structure."""
    from medseg.inference.postprocess import postprocess

    found = np.full((len(runs), len(labels.names)), np.nan)
    for row, run in enumerate(runs):
        label_map, _ = postprocess(run.found[way].label_map(), steps, labels)
        for column, structure in enumerate(labels.structures):
            if (label_map.data == structure.value).any():
                found[row, column] = run.expected[way][structure.name]
    return found


def _write(folder: Path, presets: dict[str, Any], loss: Any, calibrations: Sequence[Any]) -> None:
    """Put what was measured into model.json, and the presets into README.md; all else stays."""
    from medseg.models.card import with_presets
    from medseg.models.model_json import ModelCard

    file = folder / "model.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    section = content.setdefault("inference", {})
    section["presets"] = {name: preset.model_dump(mode="json") for name, preset in presets.items()}
    section["predicted_dice"] = [calibration.model_dump(mode="json") for calibration in calibrations]
    if loss is not None:
        section["bf16_dice_loss"] = loss.model_dump(mode="json")
    readme = folder / "README.md"
    told = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    words = with_presets(told, ModelCard.model_validate(content)).encode()
    write_together({file: json_bytes(content), **({readme: words} if told else {})})
