"""The loop: batch, step, log, validate, checkpoint. It reads straight down."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from medseg.core.errors import DataError, Interrupted
from medseg.core.interrupt import Stopped, stop_flag
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.data.loader import cases_of
from medseg.data.store import StoredCase
from medseg.training.checkpoint import load_checkpoint, save_checkpoint, seconds_trained
from medseg.training.init import begin
from medseg.training.log import Row, read_log, write_log
from medseg.training.step import Stepper
from medseg.training.team import ALONE, Team

CHECKPOINT_SECONDS = 180.0  # what a kill may cost
LOG_SECONDS = 15.0  # log.csv is written when it has a validation, at each checkpoint, and else so often
LOG_ROWS = 200

Validate = Callable[[dict[str, Tensor]], dict[str, float]]
"""State of the network -> mean Dice of each structure on the validation cases."""


def train_loop(
    plan: Plan,
    stored: Sequence[StoredCase],
    *,
    folder: Path,
    device: torch.device,
    validate: Validate | None,
    progress: Progress = silent,
    on_row: Callable[[Row], None] = lambda row: None,
    team: Team = ALONE,
) -> dict[str, Tensor]:
    """Train from step 0, or from the newest checkpoint in ``folder``; return the running mean of the weights.

    Stopped at any moment and started again, it ends with the same bits (CPU, same threads). Within a ``team`` only the
    process that leads validates and writes. Raises Interrupted after saving a checkpoint when SIGINT or SIGTERM came,
    and DataError when loss or weights are no longer finite: the last checkpoint is then of a step before.
    """
    stepper = Stepper(plan, stored, device, team)
    begin(folder.parent, stepper.network, stepper.ema)
    first, losses = _restored(folder, stepper, team)
    before, started = seconds_trained(folder), time.monotonic()
    rows = read_log(folder / "log.csv", until=first)
    waiting: list[Tensor] = []  # losses that the device may still be working on
    log_every = max(1, plan.steps // LOG_ROWS)
    saved = logged = time.monotonic()

    def settle(done: int) -> None:
        """Wait for the device; stop where a loss is not finite."""
        values = torch.stack(waiting).tolist() if waiting else []
        for at, value in enumerate(values, done - len(values)):
            if not math.isfinite(value):
                raise DataError(
                    f"the loss is {value} at step {at + 1}, of {_named(cases_of(stored, plan, at))}; the last checkpoint "
                    "is kept: look at these cases, or lower train.learning_rate and start again with another --output"
                )
        losses.extend(values)
        waiting.clear()

    def save(done: int) -> None:
        nonlocal saved, logged
        settle(done)
        if not team.leads:
            return
        _require_finite(stepper.network.state_dict(), done)
        write_log(folder / "log.csv", rows)
        state = {"network": stepper.network, "ema": stepper.ema, "optimizer": stepper.optimizer}
        seconds = round(before + time.monotonic() - started, 3)
        save_checkpoint(folder, step=done, **state, facts={"losses": losses, "seconds": seconds, **stepper.facts()})
        saved = logged = time.monotonic()

    def validating(done: int) -> bool:
        return validate is not None and done % plan.validate_every == 0 and done < plan.steps

    def is_row(done: int) -> bool:
        return done % log_every == 0 or validating(done) or done == plan.steps

    def add_row(done: int) -> None:
        """Close the row of ``done``. Stopped in its validation, nothing has changed: it is made again on resuming."""
        nonlocal logged
        settle(done)
        row: Row = {
            "step": done,
            "loss": round(team.mean(sum(losses) / len(losses)), 6),
            "learning_rate": float(f"{plan.learning_rate * stepper.schedule(done - 1):.6g}"),
        }
        if validate is not None and validating(done) and team.leads:
            with stop.at_once():
                row |= validation_columns(validate(stepper.ema.state))
        losses.clear()
        rows.append(row)
        if not team.leads:
            return
        on_row(row)
        if validating(done) or time.monotonic() - logged > LOG_SECONDS:
            write_log(folder / "log.csv", rows)
            logged = time.monotonic()

    done = first
    with stop_flag() as stop, ThreadPoolExecutor(1) as ahead:
        try:
            if losses and is_row(first):
                add_row(first)
            upcoming = ahead.submit(stepper.load, first)
            for step in range(first, plan.steps):
                batches = upcoming.result()
                if step + 1 < plan.steps:
                    upcoming = ahead.submit(stepper.load, step + 1)
                waiting.append(stepper.run(step, batches))
                done = step + 1
                if device.type == "cpu":
                    settle(done)
                progress("train", done, plan.steps)
                if is_row(done):
                    add_row(done)
                if number := int(team.largest(stop.signal_number or 0)):
                    stop.signal_number = number
                    raise Stopped
                if time.monotonic() - saved > CHECKPOINT_SECONDS or done == plan.steps:
                    save(done)
        except Stopped:
            save(done)
            raise Interrupted(
                f"stopped at step {done} of {plan.steps}; checkpoint saved, go on with --resume",
                stop.signal_number or 0,
            ) from None
    _require_finite(stepper.ema.state, plan.steps)
    return stepper.ema.state


def _restored(folder: Path, stepper: Stepper, team: Team) -> tuple[int, list[float]]:
    """Take up the newest checkpoint: its step, and the losses since the last row of the log. 0 and none without one."""
    if not team.leads:
        team.wait()  # the leader clears away what is not whole
    state = {"network": stepper.network, "ema": stepper.ema, "optimizer": stepper.optimizer}
    facts = load_checkpoint(folder, **state) or {"step": 0}
    if team.leads:
        team.wait()
    stepper.take(facts)
    return int(facts["step"]), list(facts.get("losses", []))


def _require_finite(state: dict[str, Tensor], step: int) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in state.values()):
        raise DataError(
            f"the weights are no longer finite at step {step}; the last checkpoint is kept: lower train.learning_rate "
            "and start again with another --output"
        )


def _named(cases: Sequence[str]) -> str:
    shown = ", ".join(cases[:8])
    return f"case{'s' * (len(cases) > 1)} {shown}{f' and {len(cases) - 8} more' if len(cases) > 8 else ''}"


def validation_columns(dice: dict[str, float]) -> Row:
    """The log's columns for mean Dice by structure; undefined ones stay empty and do not enter the mean."""
    defined = {name: round(value, 5) for name, value in dice.items() if not math.isnan(value)}
    mean = {"val_dice": round(sum(defined.values()) / len(defined), 5)} if defined else {}
    return {**mean, **{f"val_dice_{name}": value for name, value in defined.items()}}
