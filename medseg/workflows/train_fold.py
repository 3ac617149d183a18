"""One fold of a training: trained, validated on whole volumes, drawn, and put into the model folder."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.core.case import Case
from medseg.core.config import Config
from medseg.core.files import sha256_of
from medseg.core.findings import named
from medseg.core.plan import Fingerprint, Plan
from medseg.core.progress import Progress
from medseg.core.provenance import provenance
from medseg.core.scores import Score, ScoredCase
from medseg.core.structures import details_of
from medseg.core.volume import Volume
from medseg.data.check import as_label
from medseg.data.given_splits import Split
from medseg.data.store import StoredCase
from medseg.inference.device import machine
from medseg.inference.postprocess import steps_of
from medseg.inference.predicted import deciding, scans_of
from medseg.inference.settings import InferenceSettings
from medseg.io.nifti import write_label_map
from medseg.io.reading import read_label_map, read_volumes
from medseg.models.bundle import save_model, saved_folds
from medseg.models.card import model_readme
from medseg.models.how_to_run import DiceCalibration, HowToRun, Scans
from medseg.models.model_json import FORMAT_VERSION, ModelCard, read_card
from medseg.report.curves import save_curves
from medseg.report.evaluation import Report
from medseg.report.overlay import save_overlays
from medseg.statistics import summarise
from medseg.training.checkpoint import seconds_trained
from medseg.training.log import Row, read_log, write_log
from medseg.training.loop import train_loop, validation_columns
from medseg.training.team import Team
from medseg.training.track import tracker
from medseg.training.validation import mean_dice, region_settings, trained_network, validate_case

Say = Callable[[str], None]
HELD_OUT = "validation cases, each by the fold that did not see it"


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold of a run: trained, validated on whole volumes, and put into the model folder.

    Within a ``team`` every process trains, and the one that leads does all the rest.
    """

    config: Config
    plan: Plan
    measured: Fingerprint
    run_folder: Path
    fold: int | str
    split: Split
    device: torch.device
    team: Team
    progress: Progress
    say: Say

    @property
    def name(self) -> str:
        return f"fold_{self.fold}"

    @property
    def folder(self) -> Path:
        return self.run_folder / self.name

    def train(self, cases: Sequence[Case], stored: Mapping[str, StoredCase]) -> dict[str, Report]:
        """Train the fold and write everything it leaves; its validation report by name, none for ``final``."""
        held_out = pick(cases, self.split["validation"])
        self.say(f"{self.name}: {len(self.split['train'])} cases train, {len(held_out)} validate")
        watched = held_out[:: max(1, len(held_out) // max(1, self.plan.validation_cases))][: self.plan.validation_cases]
        with tracker(self.folder, wanted=self.config.train.tensorboard and self.team.leads) as track:

            def tell(row: Row) -> None:
                track(row)
                if "val_dice" in row:
                    self.say(_row_line(row, self.plan))

            state = train_loop(
                self.plan,
                [stored[case] for case in self.split["train"]],
                folder=self.folder,
                device=self.device,
                validate=(lambda state: mean_dice(watched, self.plan, state, self.device)) if watched else None,
                progress=self.progress,
                on_row=tell,
                team=self.team,
            )
        if not self.team.leads:
            return {}
        report, measured = self._validate(held_out, state) if held_out else (None, {})
        rows = read_log(self.folder / "log.csv", until=self.plan.steps)
        if report is not None:
            rows[-1] |= validation_columns({name: report.mean("dice", name) for name in report.labels.names})
            write_log(self.folder / "log.csv", rows)
        save_curves(self.folder / "curves.png", rows)
        self._save_model(state, report, measured)
        return {} if report is None else {self.name: report}

    @property
    def settings(self) -> InferenceSettings:
        """Those of the final validation."""
        wished = self.config.inference
        return InferenceSettings(
            refine=wished.refine, postprocess=steps_of(wished.postprocess, self.plan.structure_labels)
        )

    def _validate(self, held_out: Sequence[Case], state: dict[str, Tensor]) -> tuple[Report, Scans]:
        labels = self.plan.structure_labels
        network = trained_network(self.plan, state)
        expected: list[dict[str, float]] = []
        dice: list[dict[str, float]] = []
        scores: list[Score] = []
        files: list[ScoredCase] = []
        place = self.folder / "validation"
        for done, case in enumerate(held_out, 1):
            found = validate_case(case, self.plan, network, self.device, settings=self.settings)
            expected.append(found.expected)
            dice.append(found.dice)
            path = place / f"{case.id}_seg.nii.gz"
            digest = write_label_map(path, found.prediction)
            grid = found.reference.geometry
            files.append(
                ScoredCase(
                    case.id,
                    str(path),
                    str(case.reference),
                    digest,
                    sha256_of(case.reference),
                    grid.shape,
                    grid.spacing_mm,
                )
            )
            scores += found.scores
            self.progress("final validation", done, len(held_out))
        patients = {case.id: case.patient for case in held_out}
        scored = region_settings(labels, labels.names)
        report = Report(
            tuple(scores), tuple(summarise(scores, patients=patients)), labels, tuple(files), settings=scored
        )
        report.save(place)
        self._draw(held_out, report, place)
        return report, scans_of(list(patients.values()), expected, dice)

    def _draw(self, held_out: Sequence[Case], report: Report, place: Path) -> None:
        """Overlays of the worst, the middle and the best case by mean Dice."""
        dice: dict[str, list[float]] = {}
        for score in report.scores:
            if score.metric == "dice" and score.value == score.value:  # not NaN
                dice.setdefault(score.case, []).append(score.value)
        ranked = sorted(dice, key=lambda case: (sum(dice[case]) / len(dice[case]), case))
        if not ranked:
            return
        by_id = {case.id: case for case in held_out}
        picked = {"worst": ranked[0], "middle": ranked[len(ranked) // 2], "best": ranked[-1]}
        for rank, name in picked.items():
            case = by_id[name]
            scan = read_volumes(case.images[:1])
            prediction = read_label_map(place / f"{name}_seg.nii.gz", report.labels)
            reference = as_label(case, report.labels, scan.geometry)
            title = f"{rank}: {name}, mean Dice {sum(dice[name]) / len(dice[name]):.3f}"
            one = Volume(scan.data[:1], scan.geometry)
            save_overlays(place / f"{rank}.png", one, prediction, reference, title=title)

    def _save_model(self, state: dict[str, Tensor], report: Report | None, measured: Scans) -> None:
        target = self.run_folder / "model"
        states, validation = saved_folds(target)
        before = read_card(target) if states else None
        states[self.name] = state
        if report is not None:
            validation[self.name] = report.validated()
        card = ModelCard(
            format_version=FORMAT_VERSION,
            name=self.config.name,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            plan=self.plan,
            labels=self.plan.labels,
            structures=details_of(self.config.structure_labels),
            weights={},
            fingerprint=self.measured,
            validation=validation,
            provenance=provenance(),
            licence=self.config.licence,
            training={**(before.training if before else {}), self.name: self._trained()},
            inference=HowToRun(
                refine=self.config.inference.refine,
                postprocess=self.config.inference.postprocess or None,
                predicted_dice=self._calibration(before, measured),
            ),
        )
        save_model(target, card, states, model_readme(card))

    def _calibration(self, before: ModelCard | None, measured: Scans) -> tuple[DiceCalibration, ...]:
        """What this fold's validation measured beside what that of the other folds did; none where nothing was."""
        settings = deciding(self.settings, folds=1)
        scans = {
            fold: others
            for one in (before.inference.predicted_dice if before else ())
            for fold, others in one.scans.items()
            if before and one.settings == settings and f"{fold}.safetensors" in before.weights
        }
        found = DiceCalibration(settings=settings, measured_on=HELD_OUT, scans=scans | {self.name: measured})
        return (found,) if any(found.scans.values()) else ()

    def _trained(self) -> dict[str, Any]:
        """How this fold came about. Holds no name of a case: they may tell who it was."""
        return {
            "cases": len(self.split["train"]),
            "validation_cases": len(self.split["validation"]),
            "steps": self.plan.steps,
            "seconds": round(seconds_trained(self.folder), 1),
            "machine": machine(self.device),
            "splits_sha256": sha256_of(self.run_folder / "splits.json"),
        }


def pick(cases: Sequence[Case], ids: Sequence[str]) -> list[Case]:
    """The cases called ``ids``, in that order."""
    by_id = {case.id: case for case in cases}
    return [by_id[name] for name in ids]


def _row_line(row: Mapping[str, Any], plan: Plan) -> str:
    each = named(
        [f"{k.removeprefix('val_dice_')} {v:.3f}" for k, v in row.items() if k.startswith("val_dice_")], most=12
    )
    return f"step {row['step']} of {plan.steps}: loss {row['loss']:.4f}, validation Dice {row['val_dice']:.3f} ({each})"
