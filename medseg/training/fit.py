"""The plan that fits the time: step times measured on the training device, a budget turned into steps once."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import torch

from medseg.core.component import Component
from medseg.core.config import Config, budget_seconds
from medseg.core.plan import Fingerprint, Plan, PlannedRegion
from medseg.data.augment import augmentation_for
from medseg.data.class_weights import decided_loss, decided_sampling
from medseg.data.planning import (
    CPU_VOXELS,
    GPU_VOXELS,
    Frame,
    Rung,
    architecture_for,
    intensities_for,
    mirror_axes_for,
)
from medseg.data.store import StoredCase
from medseg.inference.device import bf16_pays, compile_pays
from medseg.training.optimizers import DEFAULT_LEARNING_RATE
from medseg.training.step import Stepper

SAFETY = 0.96  # of the time that is left is planned; the rest absorbs a machine that slows down a little
LAST_SECONDS = 5.0  # for the pictures and the model folder after the last step
VALIDATION_SHARE = 0.08  # of a budget goes to validation while training
MOST_VALIDATIONS = 10
MEASURING_SHARE = 0.04  # of a budget may go to timing the steps of one network
FEWEST_TIMED, MOST_TIMED = 4, 100
COMPILED_STEPS, COMPILED_SECONDS = 5_000, 1_800.0  # a shorter run is over before torch.compile has paid
# A network of so many features is taken only if it can make so many steps; 48 and 24 are the widths of swin_unetr.
WANTED_STEPS = {48: 5_000, 32: 5_000, 24: 1_000, 16: 1_000}


def max_patch_voxels(device: torch.device) -> int:
    """The patch that the device's class of memory and speed allows."""
    return GPU_VOXELS if device.type == "cuda" else CPU_VOXELS


def draft_plan(
    config: Config, fingerprint: Fingerprint, frame: Frame, device: torch.device, *, processes: int = 1
) -> Plan:
    """A plan whose size and length are still the ladder's first rung; the store needs no more."""
    optimizer = Component(name="adamw") if config.train.optimizer == "auto" else config.train.optimizer
    rate, schedule, fraction = config.train.learning_rate, config.train.schedule, config.train.foreground_fraction
    axes, mirrored = mirror_axes_for(config, frame.patch_size)
    patch = frame.patch_size
    batch, labels = config.plan.batch_size, config.structure_labels
    return Plan(
        dimensions=3 if frame.dimensions == 3 else 2,
        slice_axis=frame.slice_axis,
        spacing_mm=frame.spacing_mm,
        patch_size=patch,
        batch_size=frame.batch_size if batch == "auto" else batch,
        architecture=architecture_for(config, frame, Rung(32)),
        channels=fingerprint.channels,
        channel_names=fingerprint.channel_names,
        channel_grids=config.data.channel_grids,
        labels=labels.mapping(),
        regions=tuple(PlannedRegion(name=name, structures=held) for name, held in config.regions.items()),
        ignore=config.ignore,
        modality=config.modality,
        intensity=intensities_for(config, fingerprint),
        loss=decided_loss(config.train.loss, labels, fingerprint),
        optimizer=optimizer,
        schedule=Component(name="poly" if optimizer.name == "sgd" else "warmup_cosine")
        if schedule == "auto"
        else schedule,
        learning_rate=DEFAULT_LEARNING_RATE.get(optimizer.name, 1e-3) if rate == "auto" else float(rate),
        steps=1,
        validate_every=1,
        validation_cases=0,
        ema=0.99,
        foreground_fraction=0.5 if fraction == "auto" else float(fraction),
        sampling=decided_sampling(config.train.sampling, fingerprint),
        mirror_axes=axes,
        augmentation=augmentation_for(config),
        precision=_precision(config, device),
        accumulate=config.train.accumulate,
        processes=processes,
        clip=config.train.clip,
        compile=_compiled(config, device),
        seed=config.train.seed,
        reasons=_reasons(config, frame, mirrored),
    )


def _precision(config: Config, device: torch.device) -> Literal["f32", "bf16", "fp16"]:
    asked = config.train.precision
    if asked != "auto":
        return asked
    return "bf16" if bf16_pays(device) else "f32"


def _compiled(config: Config, device: torch.device) -> bool:
    """As asked, else where there is a compiler for ``device`` and the run is long enough to win back its minute or two."""
    if config.train.compile != "auto":
        return config.train.compile
    seconds = budget_seconds(config.train.budget or "8h")
    long = (config.train.steps or 0) >= COMPILED_STEPS or bool(config.train.epochs) or seconds >= COMPILED_SECONDS
    return compile_pays(device) and long


def _reasons(config: Config, frame: Frame, mirrored: str) -> dict[str, str]:
    """Why each decision that does not wait for the time is what it is."""
    rule = {
        "batch_size": "two patches, one of a large patch in a light network",
        "intensity": "CT: the window that the structures fill"
        if config.modality == "CT"
        else "each volume's own mean and sd",
        "optimizer": "the least steps to a good Dice",
        "schedule": "goes with the optimizer",
        "learning_rate": "the optimizer's own",
        "foreground_fraction": "small structures are seen in every second patch",
        "augmentation": "nnU-Net's kinds and strengths",
        "compile": "pays on a GPU in a long run",
    }
    asked = config.plan.model_dump() | config.train.model_dump()
    given = {key: "given" for key in rule if asked[key] != "auto"}
    open_yet = {"precision": "bfloat16 where it has hardware"}
    return open_yet | rule | frame.reasons | given | {"mirror_axes": mirrored}


@dataclass(frozen=True)
class Timing:
    """What one rung of the ladder measured: seconds of a step and of a validation case."""

    plan: Plan
    step: float
    case: float


def fitted_plan(
    draft: Plan,
    config: Config,
    frame: Frame,
    stored: Sequence[StoredCase],
    device: torch.device,
    *,
    elapsed: Callable[[], float],
    validation_cases: int,
    case_seconds: Callable[[Plan], float],
    agreed: Callable[[float], float] = float,
    timed: Callable[[Timing], None] = lambda timing: None,
) -> Plan:
    """The final plan: a network that fits the time, and the number of steps.

    ``steps`` or ``epochs`` in the config are taken as they are; otherwise the budget, less what ``elapsed`` already
    and the final validation of ``validation_cases`` needs, becomes steps by the measured seconds of a step. Of the
    ladder's networks the largest is taken that can still make its WANTED_STEPS, else the smallest. ``timed`` is told
    each rung that was measured, the one taken last.
    """
    counted = config.train.steps or (
        config.train.epochs and config.train.epochs * -(-len(stored) // draft.patches_per_step)
    )
    limit = None if counted else budget_seconds(config.train.budget or "8h")

    def measured(rung: Plan, too_long: float) -> Timing:
        share = MEASURING_SHARE * (limit or 0.0)
        step = agreed(seconds_per_step(rung, stored, device, seconds=share, too_long=too_long))
        found = Timing(rung, step, agreed(case_seconds(rung)) if validation_cases and step <= too_long else 0.0)
        timed(found)
        return found

    def left() -> float:
        return limit - agreed(elapsed()) if limit else math.inf

    *larger, smallest = _ladder(draft, config, frame)
    for rung in larger:
        wanted = WANTED_STEPS.get(rung.architecture.options["features"][0], 0)
        too_long = left() / wanted if wanted else math.inf
        best = measured(rung, too_long)
        if best.step <= too_long and (limit is None or _steps(best, left(), config, validation_cases) >= wanted):
            break
    else:
        best = measured(smallest, math.inf)
    steps = counted or _steps(best, left(), config, validation_cases)
    return _with_length(best, steps, config, validation_cases)


def _ladder(draft: Plan, config: Config, frame: Frame) -> list[Plan]:
    """Candidate plans, the largest network first; features, or a length other than time, leave one rung only."""
    if {"features", "preset"} & set(config.plan.architecture.options) or config.train.steps or config.train.epochs:
        rungs = [Rung(32)]
    else:
        rungs = [Rung(32), Rung(16)] + [Rung(16, light=True)] * (config.plan.architecture.name == "unet")
    return [
        draft.model_copy(
            update={
                "architecture": architecture_for(config, frame, rung),
                "batch_size": _batch(rung, draft) if config.plan.batch_size == "auto" else draft.batch_size,
            }
        )
        for rung in rungs
    ]


def _batch(rung: Rung, draft: Plan) -> int:
    """The draft's, one of a large patch in a light network: a short run needs steps more than it needs batches."""
    return 1 if rung.light and math.prod(draft.patch_size) > 120_000 else draft.batch_size


def _steps(timing: Timing, seconds: float, config: Config, validation_cases: int) -> int:
    """Steps in ``seconds``, less what the final validation and those on the way will take."""
    last = timing.case * validation_cases + min(LAST_SECONDS, 0.1 * seconds)
    left = max(SAFETY * seconds - last, 0.1 * seconds)
    fits, most = 1, max(1, int(left / timing.step))
    while fits < most:  # halve what is between, since validations come in whole cases
        steps = (fits + most + 1) // 2
        every, cases = _validations(timing, steps, config, validation_cases)
        seconds = steps * timing.step + (steps - 1) // every * cases * timing.case
        fits, most = (steps, most) if seconds <= left else (fits, steps - 1)
    return fits


def _validations(timing: Timing, steps: int, config: Config, validation_cases: int) -> tuple[int, int]:
    """After how many steps to validate, and on how many cases: as asked, else within VALIDATION_SHARE of the time."""
    training = steps * timing.step
    times = min(MOST_VALIDATIONS, max(1, int(training // 60)))
    affordable = VALIDATION_SHARE * training / times / max(timing.case, 1e-6)
    cases = max(1, min(validation_cases, int(affordable))) if validation_cases else 0
    asked, some = config.train.validate_every, config.train.validation_cases
    every = max(1, -(-steps // (times + 1))) if asked == "auto" else asked
    return every, cases if some == "auto" else min(some, validation_cases)


def _with_length(timing: Timing, steps: int, config: Config, validation_cases: int) -> Plan:
    """``timing.plan`` with its steps, how often and on how many cases it validates meanwhile, and the reasons."""
    plan, ema = timing.plan, config.train.ema
    every, cases = _validations(timing, steps, config, validation_cases)
    asked = next(
        (f"{k}: {v}" for k in ("steps", "epochs") if (v := getattr(config.train, k))), f"budget {config.train.budget}"
    )
    features = plan.architecture.options["features"]
    reasons = {
        **plan.reasons,
        "network": f"{features[0]} features in the first stage: {steps * plan.patches_per_step} patches fit",
        "steps": f"{asked}, at {timing.step:.3g} s a step and {timing.case:.3g} s a validation case, measured here",
        "precision": _why_precision(plan) if config.train.precision == "auto" else "given",
        "ema": "running mean over the last steps, shorter for a short run" if ema == "auto" else "given",
        "validate_every": "given" if config.train.validate_every != "auto" else f"{VALIDATION_SHARE:.0%} of the time",
    }
    return plan.model_copy(
        update={
            "steps": steps,
            "validate_every": every,
            "validation_cases": cases,
            "ema": round(min(0.999, max(0.9, 1 - 10 / max(steps, 1))), 5) if ema == "auto" else ema,
            "reasons": reasons,
        }
    )


def _why_precision(plan: Plan) -> str:
    return "bfloat16 has hardware here" if plan.precision == "bf16" else "no hardware for bfloat16 here"


def seconds_per_step(
    plan: Plan, stored: Sequence[StoredCase], device: torch.device, *, seconds: float = 0.0, too_long: float = math.inf
) -> float:
    """Seconds of a real training step, the next one loading meanwhile: mean of the middle four fifths of those timed.

    Times have a long tail to the right, which a median or a quartile would not see but a whole run does; the few slowest
    are another program's burst of work. At least FEWEST_TIMED steps after the first, which is not counted, and up to
    MOST_TIMED while ``seconds`` last. Stops early where one step takes twice ``too_long``.
    """
    stepper = Stepper(plan.model_copy(update={"steps": 1000}), stored, device)
    took: list[float] = []
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(stepper.load, 0)
        start = time.perf_counter()
        for step in range(MOST_TIMED + 1):
            batches = upcoming.result()
            upcoming = ahead.submit(stepper.load, step + 1)
            float(stepper.run(step, batches))
            took.append(time.perf_counter() - start)
            start = time.perf_counter()
            enough = step >= FEWEST_TIMED and sum(took) > seconds
            if enough or (step and took[-1] > 2 * too_long):
                break
    times = sorted(took[1:])
    cut = len(times) // 10
    return sum(times[cut : len(times) - cut]) / (len(times) - 2 * cut)
