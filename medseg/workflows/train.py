"""Train: config -> cases -> check -> split -> fingerprint -> plan -> store -> loop -> validation -> model folder."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from medseg.core.case import Case
from medseg.core.config import Config, config_from, load_config, override
from medseg.core.files import make_folder
from medseg.core.findings import named
from medseg.core.lock import run_lock
from medseg.core.plan import Fingerprint, Plan
from medseg.core.progress import Progress, silent
from medseg.data.check import CaseFacts, check_dataset, joined, structures_in, warnings_of
from medseg.data.fingerprint import fingerprint
from medseg.data.given_splits import Split, told_splits
from medseg.data.layouts import list_cases, remarks
from medseg.data.split import choose_fold, make_splits, unlearnt
from medseg.data.store import StoredCase, build_store
from medseg.data.transforms import loading
from medseg.inference.device import choose_device, enough_memory, own_device
from medseg.report.evaluation import Report
from medseg.report.training import TrainResult
from medseg.training.fit import fitted_plan
from medseg.training.init import Start, planned, save_first_weights, starting_point
from medseg.training.parts import require_network, require_parts
from medseg.training.run_folder import (
    folder_of,
    require_free,
    require_team,
    save_fingerprint,
    save_plan,
    saved_fingerprint,
    saved_plan,
    saved_splits,
    start_run,
)
from medseg.training.team import Team, team
from medseg.training.validation import seconds_per_case
from medseg.workflows.train_cross_validation import cross_validation, save_cross_validation
from medseg.workflows.train_fold import Fold, Say, pick


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
    with team() as here:
        device = own_device(device, here.local_rank)
        with enough_memory(device):
            if here.leads:
                return _train(checked, folder, device, here, resume=resume, progress=progress, say=say)
            return _train(checked, folder, device, here, resume=resume, progress=silent, say=lambda line: None)


def _train(
    config: Config, folder: Path, device: torch.device, here: Team, *, resume: bool, progress: Progress, say: Say
) -> TrainResult:
    started = time.monotonic()
    require_parts(config, device)
    start = starting_point(config, folder)
    with ExitStack() as held:
        if here.leads:
            cases, measured, stored = _start(
                config, folder, device, here, held, start, resume=resume, progress=progress, say=say
            )
        here.wait()
        if not here.leads:
            cases, measured = list_cases(config.data, config.structure_labels), saved_fingerprint(folder)
        chosen = _chosen(config, saved_splits(folder), cases)
        asked, frame, draft = planned(config, measured, device, processes=here.count, start=start)
        plan = saved_plan(folder)
        if not here.leads:
            stored = _stored(folder, cases, plan or draft)
        if plan is None:
            first = next(iter(chosen.values()))
            held_out = pick(cases, first["validation"])
            plan = fitted_plan(
                draft,
                asked,
                frame,
                [stored[case] for case in first["train"]],
                device,
                elapsed=lambda: time.monotonic() - started,
                validation_cases=len(held_out),
                case_seconds=lambda rung: seconds_per_case(held_out, rung, device),
                agreed=here.largest,
            )
            if here.leads:
                save_plan(folder, plan)
            here.wait()
        if start is not None:
            if here.leads:
                say(save_first_weights(folder, plan, start))
            here.wait()
        require_team(folder, plan, here)
        say(_plan_line(plan))
        reports: dict[str, Report] = {}
        for fold, split in chosen.items():
            run = Fold(config, plan, measured, folder, fold, split, device, here, progress, say)
            reports |= run.train(cases, stored)
        together = cross_validation(reports, cases)
        if together is not None:
            save_cross_validation(folder, together)
    result = TrainResult(folder, folder / "model", plan, reports, time.monotonic() - started, together)
    for name, value in result.dice.items():
        say(f"validation Dice, mean over cases: {name} {value:.4f}")
    say(f"model folder: {result.model_folder}")
    return result


def _start(
    config: Config,
    folder: Path,
    device: torch.device,
    here: Team,
    held: ExitStack,
    start: Start | None,
    *,
    resume: bool,
    progress: Progress,
    say: Say,
) -> tuple[list[Case], Fingerprint, dict[str, StoredCase]]:
    """Check everything, then take the run folder until ``held`` ends, and put into it what training starts from."""
    require_free(folder, config, resume=resume)
    labels = config.structure_labels
    cases = list_cases(config.data, labels)
    if config.train.fold != "final":
        told_splits(cases, config.data.splits)  # a leak in them is told before hours of reading
    facts = check_dataset(cases, labels, progress=progress)
    cases = joined(cases, facts)
    measured = fingerprint(facts)
    _, _, draft = planned(config, measured, device, processes=here.count, start=start)
    require_network(draft)
    splits = _splits(config, cases, facts)
    _chosen(config, splits, cases)
    if resume and not folder.exists():
        say(f"nothing to resume in {folder}: starting a new run")
    count = "1 case" if len(cases) == 1 else f"{len(cases)} cases"
    say(f"{count}, {named(labels.names, most=12)}; run folder {folder}; {_where(device, here)}")
    for warning in (*remarks(config.data, labels), *warnings_of(facts, labels, modality=config.modality)):
        say(f"warning: {warning}")
    held.enter_context(run_lock(make_folder(folder)))
    require_free(folder, config, resume=resume)  # another run may have come and gone since
    chosen = _chosen(config, start_run(folder, config, splits, cases), cases)
    for warning in unlearnt(chosen, structures_in(facts)):
        say(f"warning: {warning}")
    save_fingerprint(folder, measured)
    return cases, measured, _stored(folder, cases, saved_plan(folder) or draft, progress)


def _stored(folder: Path, cases: Sequence[Case], plan: Plan, progress: Progress = silent) -> dict[str, StoredCase]:
    found = build_store(folder / "store", cases, plan, loading(plan), progress=progress)
    return {stored.id: stored for stored in found}


def _config(given: Config | Path | str | Mapping[str, Any], overrides: dict[str, str]) -> Config:
    if isinstance(given, Path | str):
        return load_config(given, overrides)
    content = given.model_dump(mode="json") if isinstance(given, Config) else dict(given)
    return config_from(override(content, overrides))


def _splits(config: Config, cases: Sequence[Case], facts: Sequence[CaseFacts]) -> list[Split]:
    """The folds; none where every case is for training."""
    if config.train.fold == "final":
        return []
    asked = config.train
    return make_splits(
        cases, folds=asked.folds, seed=asked.seed, present=structures_in(facts), given=config.data.splits
    )


def _chosen(config: Config, splits: Sequence[Split], cases: Sequence[Case]) -> dict[int | str, Split]:
    """The folds that the config asks for. Raises ConfigError for one that is not there, DataError for a leak."""
    folds = list(range(len(splits))) if config.train.fold == "all" else [config.train.fold]
    return {fold: choose_fold(splits, fold, cases) for fold in folds}


def _plan_line(plan: Plan) -> str:
    features = plan.architecture.options.get("features", ["?"])
    return (
        f"plan: {plan.dimensions}D {plan.architecture.name} with {features[0]} features, patch "
        f"{'x'.join(map(str, plan.patch_size))} at {' x '.join(f'{s:g}' for s in plan.spacing_mm)} mm, "
        f"{plan.steps} steps of {_patches(plan)}, {plan.precision}"
    )


def _patches(plan: Plan) -> str:
    """Such as ``2``, or ``2 patches x 4 passes x 2 processes``."""
    more = [f"{n} {what}" for n, what in ((plan.accumulate, "passes"), (plan.processes, "processes")) if n > 1]
    return " x ".join([f"{plan.batch_size} patches", *more]) if more else str(plan.batch_size)


def _where(device: torch.device, here: Team) -> str:
    return f"device {device}" if here.count == 1 else f"{here.count} processes, device {device.type} each"
