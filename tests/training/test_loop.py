"""The loop: the same bits however often it is stopped, a complete log, and no way past a loss that is not finite."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medseg.core.errors import DataError, Interrupted, ModelError
from medseg.training import loop
from medseg.training.loop import train_loop, validation_columns
from tests.training.stored_cases import quick_plan, stored_cases

CPU = torch.device("cpu")
OPTIMIZERS = {"adamw": "adamw", "sgd": "sgd", "sgd without momentum": {"name": "sgd", "momentum": 0.0}}


def fake_dice(state: dict[str, torch.Tensor]) -> dict[str, float]:
    """A figure that changes with every bit of the weights."""
    return {"liver": float(sum(value.double().sum() for value in state.values())), "tumour": math.nan}


def trained(folder, plan, stored, *, stops=(), number=signal.SIGTERM, validate=fake_dice):
    """Train to the end, stopped after each of ``stops`` steps on the way."""
    left = list(stops)

    def progress(stage, done, total):
        if left and done == left[0]:
            signal.raise_signal(number)

    while left:
        with pytest.raises(Interrupted, match=f"stopped at step {left[0]} of {plan.steps}") as caught:
            train_loop(plan, stored, folder=folder, device=CPU, validate=validate, progress=progress)
        assert caught.value.exit_code == 128 + number
        left.pop(0)
    return train_loop(plan, stored, folder=folder, device=CPU, validate=validate)


def assert_same_bits(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert torch.equal(ours[key], value), key


@pytest.fixture(scope="module", params=OPTIMIZERS.values(), ids=OPTIMIZERS)
def unbroken(request, tmp_path_factory):
    """A plan, its stored cases, the weights of a training that was never stopped, and its log."""
    folder = tmp_path_factory.mktemp("unbroken")
    plan = quick_plan(optimizer=request.param, schedule="warmup_cosine")
    stored = stored_cases(folder / "store", plan)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as every test here; a fixture of the module begins before the one that says so
    whole = trained(folder / "whole", plan, stored)
    torch.set_num_threads(threads)
    return plan, stored, whole, (folder / "whole" / "log.csv").read_bytes()


@pytest.mark.parametrize("stops", [[1], [4], [7], [8], [1, 2, 3, 4, 5, 6, 7, 8]], ids=str)
def test_stopped_anywhere_and_resumed_it_ends_with_the_same_bits_and_log(tmp_path, unbroken, stops):
    plan, stored, whole, log = unbroken
    assert_same_bits(trained(tmp_path / "run", plan, stored, stops=stops, number=signal.SIGINT), whole)
    assert (tmp_path / "run" / "log.csv").read_bytes() == log


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"dimensions": 2, "slice_axis": 2, "patch_size": [8, 8, 1]},
        {"architecture": "resenc"},
        {"loss": "dice_focal"},
    ],
    ids=str,
)
def test_so_it_is_in_every_kind_of_training(tmp_path, changes):
    if changes.get("dimensions") == 2:
        options = quick_plan().architecture.options
        flat = {**options, "kernel_sizes": [[3, 3]] * 2, "strides": [[1, 1], [2, 2]]}
        changes |= {"architecture": {"name": "unet", "options": flat}, "mirror_axes": [0, 1]}
    if changes.get("architecture") == "resenc":
        options = dict(quick_plan().architecture.options)
        del options["convs_per_stage"]
        changes["architecture"] = {"name": "resenc_unet", "options": {**options, "blocks_per_stage": [1, 1]}}
    plan = quick_plan(steps=5, **changes)
    stored = stored_cases(tmp_path / "store", plan)
    assert_same_bits(trained(tmp_path / "run", plan, stored, stops=[2, 4]), trained(tmp_path / "whole", plan, stored))


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path):
    plan = quick_plan(steps=3)
    stored = stored_cases(tmp_path / "store", plan)
    first = trained(tmp_path / "a", plan, stored)
    torch.manual_seed(99)
    np.random.default_rng().random()
    assert_same_bits(trained(tmp_path / "b", plan, stored), first)
    other = trained(tmp_path / "c", plan.model_copy(update={"seed": 1}), stored)
    assert any(not torch.equal(other[key], value) for key, value in first.items())


def test_a_finished_training_is_given_back_as_it_is(tmp_path):
    plan = quick_plan(steps=3)
    stored = stored_cases(tmp_path / "store", plan)
    first = trained(tmp_path / "run", plan, stored)
    before = (tmp_path / "run" / "log.csv").stat().st_mtime_ns
    assert_same_bits(trained(tmp_path / "run", plan, stored), first)
    assert (tmp_path / "run" / "log.csv").stat().st_mtime_ns == before


def test_the_log_has_a_row_for_each_interval_and_the_figures_of_each_validation(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOG_ROWS", 4)
    plan = quick_plan(steps=11)  # a row every 2 steps, at each validation (3, 6, 9) and at the end
    stored = stored_cases(tmp_path / "store", plan)
    told = []
    train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=fake_dice, on_row=told.append)
    rows = list(csv.DictReader((tmp_path / "run" / "log.csv").read_text().splitlines()))
    assert [int(row["step"]) for row in rows] == [2, 3, 4, 6, 8, 9, 10, 11]
    assert [row["step"] for row in rows if row["val_dice"]] == ["3", "6", "9"]
    assert [row["step"] for row in told] == [int(row["step"]) for row in rows]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    rates = [float(row["learning_rate"]) for row in rows]
    wanted = [5e-3 * (1 - (int(row["step"]) - 1) / 11) ** 0.9 for row in rows]  # poly, at the step that was made
    assert rates == pytest.approx(wanted, rel=1e-5)


def test_an_undefined_dice_enters_neither_mean_nor_log():
    assert validation_columns({"a": 0.5, "b": math.nan, "c": 1.0}) == {
        "val_dice": 0.75,
        "val_dice_a": 0.5,
        "val_dice_c": 1.0,
    }
    assert validation_columns({"a": math.nan}) == {}


def test_a_loss_that_is_not_finite_is_an_error_and_the_last_good_checkpoint_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    plan = quick_plan()
    stored = stored_cases(tmp_path / "store", plan)
    run = loop.Stepper.run

    def poisoned(self, step, batch):
        loss = run(self, step, batch)
        return loss * math.nan if step == 4 else loss

    monkeypatch.setattr(loop.Stepper, "run", poisoned)
    with pytest.raises(DataError, match=r"loss is nan at step 5, of cases 2, 1; .*lower train\.learning_rate"):
        train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None)
    monkeypatch.setattr(loop.Stepper, "run", run)
    assert_same_bits(trained(tmp_path / "run", plan, stored), trained(tmp_path / "whole", plan, stored))


def test_weights_that_are_not_finite_after_the_last_step_are_an_error(tmp_path, monkeypatch):
    plan = quick_plan(steps=2)
    stored = stored_cases(tmp_path / "store", plan)
    update = loop.Stepper.run

    def poisoned(self, step, batch):
        loss = update(self, step, batch)
        if step == 1:
            next(iter(self.ema.state.values())).fill_(math.inf)
        return loss

    monkeypatch.setattr(loop.Stepper, "run", poisoned)
    with pytest.raises(DataError, match="weights are no longer finite"):
        train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    plan = quick_plan(steps=2)
    stored = stored_cases(tmp_path / "store", plan)
    trained(tmp_path / "run", plan, stored)
    options = {**plan.architecture.options, "features": [4, 12]}
    other = quick_plan(steps=2, architecture={"name": "unet", "options": options})
    with pytest.raises(ModelError, match="does not fit"):
        trained(tmp_path / "run", other, stored)


def test_signal_handlers_are_as_before_afterwards(tmp_path):
    plan = quick_plan(steps=2)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    trained(tmp_path / "run", plan, stored_cases(tmp_path / "store", plan), stops=[1])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_interrupt_leaves_at_once(tmp_path):
    plan = quick_plan(steps=4)
    stored = stored_cases(tmp_path / "store", plan)

    def twice(stage, done, total):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None, progress=twice)
    assert_same_bits(trained(tmp_path / "run", plan, stored), trained(tmp_path / "whole", plan, stored))


CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from medseg.training import loop
from tests.training.stored_cases import quick_plan, stored_cases
loop.CHECKPOINT_SECONDS = 0.0
folder, plan = Path(sys.argv[1]), quick_plan(steps=int(sys.argv[2]))
try:
    loop.train_loop(plan, stored_cases(folder / "store", plan), folder=folder, device=torch.device("cpu"), validate=None)
except loop.Interrupted as stop:
    sys.exit(stop.exit_code)
"""


KILL, TERM = signal.SIGKILL, signal.SIGTERM


@pytest.mark.parametrize("signals", [[KILL], pytest.param([KILL, KILL, TERM], marks=pytest.mark.slow)], ids=str)
def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path, signals):
    """kill -9 while every step writes a checkpoint, perhaps once more, then to the end."""
    plan = quick_plan(steps=300)
    stored = stored_cases(tmp_path / "store", plan)
    random = np.random.default_rng()  # truly random: every run of the tests tries other moments
    folder = tmp_path / "run"
    steps = [0]
    for number in signals:
        child = subprocess.Popen([sys.executable, "-c", CHILD, folder, "300"], cwd=Path(__file__).parents[2])
        until = time.monotonic() + 240
        while newest(folder) < steps[-1] + 5 and time.monotonic() < until:
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.1))
        child.send_signal(number)
        code = child.wait(120)
        assert code == (128 + number if number == signal.SIGTERM else -number)
        steps.append(newest(folder))
    assert steps == sorted(set(steps))
    assert steps[-1] < 300
    assert_same_bits(
        trained(folder, plan, stored, validate=None), trained(tmp_path / "whole", plan, stored, validate=None)
    )
    assert (folder / "log.csv").read_bytes() == (tmp_path / "whole" / "log.csv").read_bytes()


def newest(folder) -> int:
    """The step of the newest checkpoint whose record can be read."""
    return max((json.loads(file.read_text())["step"] for file in folder.glob("checkpoint-*.json")), default=0)
