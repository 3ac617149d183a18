"""Train: config -> cases -> check -> split -> fingerprint -> plan -> store -> loop -> validation -> model folder."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.core.case import Case
from medseg.core.config import Config, config_from, load_config, override
from medseg.core.files import make_folder, sha256_of
from medseg.core.labels import Labels
from medseg.core.lock import run_lock
from medseg.core.plan import Fingerprint, Plan
from medseg.core.progress import Progress, silent
from medseg.core.provenance import provenance
from medseg.core.scores import Score
from medseg.core.structures import details_of
from medseg.core.volume import Volume
from medseg.data.check import as_label, check_dataset, warnings_of
from medseg.data.fingerprint import fingerprint
from medseg.data.layouts import left_out_structures, list_cases
from medseg.data.planning import make_frame
from medseg.data.split import Split, choose_fold, split_by_patient
from medseg.data.store import StoredCase, build_store
from medseg.data.transforms import loading
from medseg.io.nifti import write_label_map
from medseg.io.reading import read_label_map, read_volumes
from medseg.models.bundle import FORMAT_VERSION, ModelCard, save_model, saved_folds
from medseg.models.card import model_readme
from medseg.report.curves import save_curves
from medseg.report.evaluation import Report, ScoredCase
from medseg.report.overlay import save_overlays
from medseg.report.training import TrainResult
from medseg.statistics import summarise
from medseg.training.device import choose_device, enough_memory
from medseg.training.fit import draft_plan, fitted_plan, max_patch_voxels
from medseg.training.log import read_log, write_log
from medseg.training.loop import train_loop, validation_columns
from medseg.training.parts import require_network, require_parts
from medseg.training.run_folder import folder_of, require_free, save_plan, saved_plan, start_run
from medseg.training.validation import mean_dice, seconds_per_case, trained_network, validate_case

Say = Callable[[str], None]


def train(
    config: Config | Path | str | Mapping[str, Any],
    *,
    overrides: Mapping[str, str] | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> TrainResult:
    """Train what ``config`` (a file, a mapping or a Config) asks for; return where the model lies and how well it validated.

    ``overrides`` are ``{"train.budget": "20m"}``. ``output`` is the run folder (default: the config's, else
    ``runs/<name>``); it is created only after every check has passed. ``resume`` goes on where an earlier run stopped,
    with bit-identical weights on the CPU. Raises ConfigError, DataError, OutputError or ResourceError, and Interrupted
    after a signal, when a checkpoint has been saved.

    >>> import medseg
    >>> result = medseg.train("configs/liver.yaml", overrides={"train.budget": "20m"})  # doctest: +SKIP
    """
    checked = _config(config, dict(overrides or {}))
    folder = folder_of(checked, None if output is None else Path(output))
    device = choose_device(checked.device)
    with enough_memory(device):
        return _train(checked, folder, device, resume=resume, progress=progress, say=say)


def _train(
    config: Config, folder: Path, device: torch.device, *, resume: bool, progress: Progress, say: Say
) -> TrainResult:
    started = time.monotonic()
    require_parts(config)
    require_free(folder, config, resume=resume)
    labels = config.structure_labels
    cases = list_cases(config.data, labels)
    facts = check_dataset(cases, labels, progress=progress)
    measured = fingerprint(facts)
    frame = make_frame(config, measured, max_voxels=max_patch_voxels(device))
    draft = draft_plan(config, measured, frame, device)
    require_network(draft)
    only_final = config.train.fold == "final"
    splits = [] if only_final else split_by_patient(cases, folds=config.train.folds, seed=config.train.seed)
    _chosen(config, splits, cases)
    if resume and not folder.exists():
        say(f"nothing to resume in {folder}: starting a new run")
    say(f"{len(cases)} cases, {', '.join(labels.names)}; run folder {folder}; device {device}")
    left_out = left_out_structures(config.data, labels)
    if left_out:
        named = ", ".join(f"{name} ({value})" for name, value in left_out.items())
        say(f"warning: the dataset also names {named}: not in labels, so background in this training")
    for warning in warnings_of(facts, labels):
        say(f"warning: {warning}")

    with run_lock(make_folder(folder)):
        chosen = _chosen(config, start_run(folder, config, splits, cases), cases)
        plan = saved_plan(folder)
        grid = plan or draft
        stored = {s.id: s for s in build_store(folder / "store", cases, grid, loading(grid), progress=progress)}
        if plan is None:
            first = next(iter(chosen.values()))
            held_out = _pick(cases, first["validation"])
            plan = fitted_plan(
                draft,
                config,
                frame,
                [stored[case] for case in first["train"]],
                device,
                elapsed=lambda: time.monotonic() - started,
                validation_cases=len(held_out),
                case_seconds=lambda rung: seconds_per_case(held_out, rung, device),
            )
            save_plan(folder, plan, measured)
        say(_plan_line(plan))
        reports: dict[str, Report] = {}
        for fold, split in chosen.items():
            run = _Fold(config, plan, measured, folder, fold, split, device, progress, say)
            reports |= run.train(cases, stored)
    result = TrainResult(folder, folder / "model", plan, reports, time.monotonic() - started)
    for name, value in result.dice.items():
        say(f"validation Dice, mean over cases: {name} {value:.4f}")
    say(f"model folder: {result.model_folder}")
    return result


@dataclass(frozen=True, eq=False)
class _Fold:
    """One fold of a run: trained, validated on whole volumes, and put into the model folder."""

    config: Config
    plan: Plan
    measured: Fingerprint
    run_folder: Path
    fold: int | str
    split: Split
    device: torch.device
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
        held_out = _pick(cases, self.split["validation"])
        watched = held_out[:: max(1, len(held_out) // max(1, self.plan.validation_cases))][: self.plan.validation_cases]
        state = train_loop(
            self.plan,
            [stored[case] for case in self.split["train"]],
            folder=self.folder,
            device=self.device,
            validate=(lambda state: mean_dice(watched, self.plan, state, self.device)) if watched else None,
            progress=self.progress,
            on_row=lambda row: self.say(_row_line(row, self.plan)) if "val_dice" in row else None,
        )
        report = self._validate(held_out, state) if held_out else None
        rows = read_log(self.folder / "log.csv", until=self.plan.steps)
        if report is not None:
            rows[-1] |= validation_columns({name: report.mean("dice", name) for name in report.labels.names})
            write_log(self.folder / "log.csv", rows)
        save_curves(self.folder / "curves.png", rows)
        self._save_model(state, report)
        return {} if report is None else {self.name: report}

    def _validate(self, held_out: Sequence[Case], state: dict[str, Tensor]) -> Report:
        labels = Labels.from_mapping(self.plan.labels)
        network = trained_network(self.plan, state)
        scores: list[Score] = []
        files: list[ScoredCase] = []
        place = self.folder / "validation"
        for done, case in enumerate(held_out, 1):
            found = validate_case(case, self.plan, network, self.device)
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
        report = Report(tuple(scores), tuple(summarise(scores, patients=patients)), labels, tuple(files))
        report.save(place)
        self._draw(held_out, report, place)
        return report

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
            scan = read_volumes(case.images)
            prediction = read_label_map(place / f"{name}_seg.nii.gz", report.labels)
            reference = as_label(case, report.labels, scan.geometry)
            title = f"{rank}: {name}, mean Dice {sum(dice[name]) / len(dice[name]):.3f}"
            one = Volume(scan.data[:1], scan.geometry)
            save_overlays(place / f"{rank}.png", one, prediction, reference, title=title)

    def _save_model(self, state: dict[str, Tensor], report: Report | None) -> None:
        target = self.run_folder / "model"
        states, validation = saved_folds(target)
        states[self.name] = state
        if report is not None:
            dice = {name: report.mean("dice", name) for name in report.labels.names}
            validation[self.name] = {
                "cases": len(report.cases),
                "dice": {name: None if value != value else value for name, value in dice.items()},
            }
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
        )
        save_model(target, card, states, model_readme(card))


def _config(given: Config | Path | str | Mapping[str, Any], overrides: dict[str, str]) -> Config:
    if isinstance(given, Path | str):
        return load_config(given, overrides)
    content = given.model_dump(mode="json") if isinstance(given, Config) else dict(given)
    return config_from(override(content, overrides))


def _chosen(config: Config, splits: Sequence[Split], cases: Sequence[Case]) -> dict[int | str, Split]:
    """The folds that the config asks for. Raises ConfigError for one that is not there, DataError for a leak."""
    folds = list(range(len(splits))) if config.train.fold == "all" else [config.train.fold]
    return {fold: choose_fold(splits, fold, cases) for fold in folds}


def _pick(cases: Sequence[Case], ids: Sequence[str]) -> list[Case]:
    by_id = {case.id: case for case in cases}
    return [by_id[name] for name in ids]


def _plan_line(plan: Plan) -> str:
    features = plan.architecture.options.get("features", ["?"])
    return (
        f"plan: {plan.dimensions}D {plan.architecture.name} with {features[0]} features, patch "
        f"{'x'.join(map(str, plan.patch_size))} at {' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm, "
        f"{plan.steps} steps of {plan.batch_size}, {plan.precision}"
    )


def _row_line(row: Mapping[str, Any], plan: Plan) -> str:
    each = ", ".join(f"{k.removeprefix('val_dice_')} {v:.3f}" for k, v in row.items() if k.startswith("val_dice_"))
    return f"step {row['step']} of {plan.steps}: loss {row['loss']:.4f}, validation Dice {row['val_dice']:.3f} ({each})"
