"""The loop: batch, step, log, validate, checkpoint. It reads straight down."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from medseg.core.errors import DataError, Interrupted
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.data.store import StoredCase
from medseg.training.checkpoint import load_checkpoint, save_checkpoint
from medseg.training.interrupt import stop_flag
from medseg.training.log import Row, read_log, write_log
from medseg.training.step import Stepper

CHECKPOINT_SECONDS = 180.0
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
) -> dict[str, Tensor]:
    """Train from step 0, or from the newest checkpoint in ``folder``; return the running mean of the weights.

    Stopped at any moment and started again, it ends with the same bits (CPU, same threads). Raises Interrupted after
    saving a checkpoint when SIGINT or SIGTERM came, and DataError when loss or weights are no longer finite.
    """
    stepper = Stepper(plan, stored, device)
    facts = load_checkpoint(folder, network=stepper.network, ema=stepper.ema, optimizer=stepper.optimizer) or {
        "step": 0
    }
    first = int(facts["step"])
    rows = read_log(folder / "log.csv", until=first)
    losses: list[float] = list(facts.get("losses", []))
    log_every = max(1, plan.steps // LOG_ROWS)
    saved = time.monotonic()

    def save(step: int) -> None:
        state = {"network": stepper.network, "ema": stepper.ema, "optimizer": stepper.optimizer}
        save_checkpoint(folder, step=step, **state, facts={"losses": losses})

    with stop_flag() as stop, ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(stepper.load, first)
        for step in range(first, plan.steps):
            batch = upcoming.result()
            if step + 1 < plan.steps:
                upcoming = ahead.submit(stepper.load, step + 1)
            losses.append(float(stepper.run(step, batch)))
            done = step + 1
            progress("train", done, plan.steps)
            if not math.isfinite(losses[-1]):
                raise DataError(f"the loss is {losses[-1]} at step {done}; lower train.learning_rate and start again")
            validating = validate is not None and (done % plan.validate_every == 0 and done < plan.steps)
            if done % log_every == 0 or validating or done == plan.steps:
                row: Row = {
                    "step": done,
                    "loss": round(sum(losses) / len(losses), 6),
                    "learning_rate": float(f"{plan.learning_rate * stepper.schedule(step):.6g}"),
                }
                losses.clear()
                if validate is not None and validating:
                    row |= validation_columns(validate(stepper.ema.state))
                rows.append(row)
                on_row(row)
                write_log(folder / "log.csv", rows)
            if stop.signal_number is not None:
                save(done)
                raise Interrupted(
                    f"stopped at step {done} of {plan.steps}; checkpoint saved, go on with --resume", stop.signal_number
                )
            if time.monotonic() - saved > CHECKPOINT_SECONDS or done == plan.steps:
                save(done)
                saved = time.monotonic()
    if not all(bool(torch.isfinite(value).all()) for value in stepper.ema.state.values()):
        raise DataError("the weights are no longer finite; lower train.learning_rate and start again")
    return stepper.ema.state


def validation_columns(dice: dict[str, float]) -> Row:
    """The log's columns for mean Dice by structure; undefined ones stay empty and do not enter the mean."""
    defined = {name: round(value, 5) for name, value in dice.items() if not math.isnan(value)}
    mean = {"val_dice": round(sum(defined.values()) / len(defined), 5)} if defined else {}
    return {**mean, **{f"val_dice_{name}": value for name, value in defined.items()}}
