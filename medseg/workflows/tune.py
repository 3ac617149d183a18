"""Tune: model folder -> cases it has not seen -> ways to run it, measured -> presets, written into the model folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.core.component import Component
from medseg.core.config_inference import EVERY
from medseg.core.files import check_writable, json_bytes, write_together
from medseg.core.progress import Progress, silent
from medseg.inference.predicted import calibrated
from medseg.workflows.tune_cases import TuneCases, given_cases, own_cases, spread
from medseg.workflows.tune_choice import Candidate, Floats, Steps, Way, best_of, chosen_steps, presets_of, refused
from medseg.workflows.tune_measure import Engine, dice_of, expected_of, measured, roi_ways, seconds_of, shares_of

if TYPE_CHECKING:
    from medseg.models.bundle import Model
    from medseg.models.how_to_run import Bf16DiceLoss

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
    """What was written: ``presets`` by name, and the ``candidates`` they were chosen from, with Dice of the ``structures``.

    ``refused``: of each candidate why no preset may be it, or nothing. ``no_roi``: why looking first was not tried, or
    nothing. ``predicted_dice``: the calibrations of the usual settings and of each preset that has one.

    ``gains``: what the post-processing of each structure that has one adds to its mean Dice, in patients other than those who
    chose it. ``precision``: that of all figures; on a CPU that has arithmetic for it, bf16 where the ``bf16_dice_loss``
    measured first is small enough.
    """

    model: Path
    presets: dict[str, Any]
    structures: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    refused: tuple[str, ...]
    no_roi: str
    gains: dict[str, float]
    cases: int
    remarks: tuple[str, ...]
    precision: str
    bf16_dice_loss: Any
    predicted_dice: tuple[Any, ...]

    def presets_like(self, candidate: Candidate) -> list[str]:
        """The names of the presets that are ``candidate``."""
        return [n for n, p in self.presets.items() if _way_of(p) == candidate.way]

    def most_lost(self, candidate: Candidate) -> tuple[str, float]:
        """The structure of whose mean Dice ``candidate`` loses most against ``accurate``, and how much."""
        accurate = _way_of(self.presets["accurate"])
        return next(c for c in self.candidates if c.way == accurate).most_lost(candidate, self.structures)

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "model": str(self.model),
            "cases": self.cases,
            "remarks": list(self.remarks),
            "candidates": [
                {
                    "overlap": c.way.overlap,
                    "mirror": list(c.way.mirror),
                    "roi": c.way.roi,
                    "refine": c.way.refine and c.way.refine.model_dump(),
                    "mean_dice": c.mean_dice,
                    "seconds_per_scan": c.mean_seconds,
                    "share_of_forward_passes": c.mean_share,
                    "most_lost": dict(zip(("structure", "loss"), self.most_lost(c), strict=True)),
                    "presets": self.presets_like(c),
                    "not_chosen_because": why,
                }
                for c, why in zip(self.candidates, self.refused, strict=True)
            ],
            "roi_not_tried_because": self.no_roi,
            "postprocess_gains": self.gains,
            "precision": self.precision,
            "bf16_dice_loss": None if self.bf16_dice_loss is None else self.bf16_dice_loss.model_dump(mode="json"),
            "predicted_dice": [
                {"settings": one.settings, "patients": {name: s.patients for name, s in calibrated(one).items()}}
                for one in self.predicted_dice
            ],
            "presets": {name: preset.model_dump(mode="json") for name, preset in self.presets.items()},
        }


def _way_of(preset: Any) -> Way:
    return Way(preset.overlap, preset.mirror, preset.roi, preset.refine)


def tune(
    model: Path | str | None = None,
    *,
    config: Path | str | None = None,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    cases: int | None = None,
    refine: Component | None = None,
    device: str = "auto",
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> Tuned:
    """Measure ways to run ``model`` and write the presets ``fast``, ``balanced`` and ``accurate`` into its model.json.

    Cases: the validation cases of the model's own run folder, each predicted by the folds that did not see it; or those of
    ``config``'s data section, or of the folders ``images`` and ``labels``. ``cases``: at most so many, spread evenly.
    Overlaps one half and one quarter are tried, without mirroring and, where training mirrored, with it, and each of them
    looking first (``inference.roi``) where that can save anything; ``refine`` is tried with the best of them. Each case is
    run in all ways one after the other, so that their seconds compare. Post-processing is chosen at overlap one half: see
    ``chosen_steps``. The Dice of a case is that after the steps which the cases of other patients chose.

    Raises ModelError for the model, DataError where there are no cases that it has not seen, ConfigError, ResourceError.
    """
    from medseg.inference.device import choose_device, enough_memory, machine
    from medseg.inference.refine import refinement_of
    from medseg.inference.segmenter import check_intensities
    from medseg.models.bundle import load_model
    from medseg.models.installed import find_model
    from medseg.workflows.tune_dice import calibrations_of

    refine = None if refine is None else refinement_of(refine)
    loaded = load_model(find_model(None if model is None else Path(model)))
    check_intensities(loaded)
    folder, card, plan = loaded.folder, loaded.card, loaded.plan
    weights, training = list(card.weights), card.training
    config, images, labels = (None if path is None else Path(path) for path in (config, images, labels))
    if config is None and images is None and labels is None:
        found = own_cases(folder, weights, training, loaded.labels)
    else:
        found = given_cases(folder, weights, training, loaded.labels, config=config, images=images, references=labels)
    found = spread(found, cases)
    check_writable(folder)
    chosen = choose_device(device)
    say(f"model: {folder} ({card.name}); {len(found.cases)} {found.described}; device: {chosen}")
    for remark in found.remarks:
        say(f"warning: {remark}")
    mirrors = [(), plan.mirror_axes] if plan.mirror_axes else [()]
    ways = [Way(overlap, mirror) for mirror in mirrors for overlap in OVERLAPS]
    names, patients = loaded.labels.names, [case.patient for case in found.cases]
    unchanged: list[dict[str, Steps]] = [{}] * len(patients)
    with enough_memory(chosen):
        engine, loss = _engine(loaded, found, chosen, ways[0], progress, say)
        running, _ = engine.running(ways[0])
        looking, no_roi = roi_ways(ways, found, loaded)
        ways += looking
        runs = measured(engine, found, ways, progress)
    after = [(steps, dice_of(runs, 0, [{EVERY: steps}] * len(runs), loaded.labels)) for steps in STEPS]
    kept = chosen_steps(dice_of(runs, 0, unchanged, loaded.labels), after, names, patients)

    def candidate(n: int) -> Candidate:
        dice = dice_of(runs, n, kept.by_case, loaded.labels)
        return Candidate(ways[n], dice, seconds_of(runs, n), shares_of(runs, n))

    candidates = [candidate(n) for n in range(len(ways))]
    best = best_of([one for one in candidates if not one.way.roi])
    if refine is not None:
        ways.append(replace(best.way, refine=refine))
        with enough_memory(chosen):
            others = measured(engine, found, ways[-1:], progress)
        runs = [run.with_more(other) for run, other in zip(runs, others, strict=True)]
        candidates.append(candidate(len(ways) - 1))
    presets = presets_of(
        candidates,
        kept.steps,
        structures=names,
        patients=patients,
        measured_on=found.described,
        machine=f"{machine(chosen)}, {running.backend} {running.precision}",
    )

    def said_and_was(way: int, steps: Sequence[Mapping[str, Steps]]) -> tuple[Floats, Floats]:
        return expected_of(runs, way, steps, loaded.labels), dice_of(runs, way, steps, loaded.labels)

    calibrations = calibrations_of(loaded, found, ways, presets, both=said_and_was, by_case=kept.by_case)
    _write(folder, presets, loss, calibrations)
    return Tuned(
        folder,
        presets,
        tuple(names),
        tuple(candidates),
        tuple(refused(one, candidates, names, patients) for one in candidates),
        no_roi,
        kept.gains,
        len(patients),
        found.remarks,
        running.precision,
        loss,
        calibrations,
    )


def _engine(
    loaded: "Model", found: TuneCases, device: Any, way: Way, progress: Progress, say: Say
) -> "tuple[Engine, Bf16DiceLoss | None]":
    """What runs the model: on a CPU that has arithmetic for it in bf16, where it loses little Dice; and what it loses."""
    from medseg.inference.device import bf16_pays
    from medseg.inference.precision import F32_ALONE, bf16_dice_loss

    if device.type == "cuda":
        return Engine(loaded, device, say, precision="auto"), None
    exact = Engine(loaded, device, say, precision="f32")
    backend = exact.running(way)[0].backend
    if not bf16_pays(device) or backend in F32_ALONE:
        return exact, None
    short = replace(exact, backend=backend, precision="bf16", started={})
    unchanged: list[dict[str, Steps]] = [{}] * len(found.cases)
    in_f32, in_bf16 = (
        dice_of(measured(one, found, [way], progress), 0, unchanged, loaded.labels) for one in (exact, short)
    )
    loss = bf16_dice_loss(in_f32, in_bf16, structures=loaded.labels.names, backend=backend)
    return short if loss is not None and loss.chosen else exact, loss


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
