"""What a step does beside the network: precisions, passes, clipping, the running mean, and losses that are not finite."""

import math
import signal

import pytest
import torch

from medseg.core.config import config_from
from medseg.core.errors import ConfigError, DataError, Interrupted
from medseg.core.files import sha256_of
from medseg.data.loader import cases_of, load_batch
from medseg.training import loop
from medseg.training.loop import train_loop
from medseg.training.parts import require_parts
from medseg.training.step import Stepper
from tests.data.tiny_dataset import config
from tests.training.stored_cases import quick_plan, stored_cases

CPU = torch.device("cpu")
SGD = {"name": "sgd", "momentum": 0.9}


@pytest.fixture
def plain(monkeypatch):
    """Patches as they are: the draws of augmentation belong to a batch as a whole."""

    def cut(images, references, plan, draw, swaps):
        start = [(outer - inner) // 2 for outer, inner in zip(images.shape[2:], plan.patch_size, strict=True)]
        inside = tuple(slice(s, s + n) for s, n in zip(start, plan.patch_size, strict=True))
        return images[(..., *inside)].contiguous(), references[(slice(None), *inside)].to(torch.int64)

    monkeypatch.setattr("medseg.training.step.augment", cut)


def largest_difference(ours, theirs):
    return max(float((ours[key].double() - theirs[key].double()).abs().max()) for key in theirs)


def test_passes_of_a_step_make_the_step_of_one_large_batch(tmp_path, plain):
    at_once = quick_plan(batch_size=6, optimizer=SGD)
    stored = stored_cases(tmp_path / "store", at_once)
    wanted = train_loop(at_once, stored, folder=tmp_path / "once", device=CPU, validate=None)
    for accumulate in (2, 3):
        plan = quick_plan(batch_size=6 // accumulate, accumulate=accumulate, optimizer=SGD)
        found = train_loop(plan, stored, folder=tmp_path / str(accumulate), device=CPU, validate=None)
        assert largest_difference(found, wanted) < 1e-5
    other = train_loop(
        quick_plan(batch_size=3, optimizer=SGD), stored, folder=tmp_path / "o", device=CPU, validate=None
    )
    assert largest_difference(other, wanted) > 1e-3  # what the tolerance above can tell apart


def test_the_parts_of_a_step_are_the_patches_of_its_large_batch(tmp_path):
    whole = quick_plan(batch_size=6)
    stored = stored_cases(tmp_path / "store", whole)
    for passes, processes in ((3, 1), (1, 2), (1, 3)):
        plan = quick_plan(batch_size=6 // passes // processes, accumulate=passes, processes=processes)
        for step in (0, 5):
            expected = load_batch(stored, whole, step, (16, 16, 16))
            parts = [load_batch(stored, plan, step, (16, 16, 16), part=n) for n in range(passes * processes)]
            assert torch.equal(
                torch.cat([torch.from_numpy(p.images) for p in parts]), torch.from_numpy(expected.images)
            )
            assert cases_of(stored, plan, step) == cases_of(stored, whole, step)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.02), ("fp16", 0.005)])
def test_half_precision_trains_as_f32_does_within_its_digits(tmp_path, precision, tolerance):
    plan = quick_plan(optimizer=SGD)
    stored = stored_cases(tmp_path / "store", plan)
    losses = {}
    for name in ("f32", precision):
        stepper = Stepper(plan.model_copy(update={"precision": name}), stored, CPU)
        losses[name] = [float(stepper.run(step, stepper.load(step))) for step in range(plan.steps)]
        assert all(value.dtype == torch.float32 for value in stepper.network.state_dict().values())
    assert losses[precision] == pytest.approx(losses["f32"], abs=tolerance)
    assert losses[precision] != losses["f32"]


@pytest.mark.parametrize("optimizer", ["adamw", SGD], ids=str)
def test_a_step_in_fp16_whose_gradient_overflows_changes_nothing_and_halves_the_scale(tmp_path, optimizer):
    plan = quick_plan(precision="fp16", optimizer=optimizer)
    stepper = Stepper(plan, stored_cases(tmp_path / "store", plan), CPU)
    stepper.take({"loss_scale": {**stepper.facts()["loss_scale"], "scale": 2.0**60}})
    before = {key: value.clone() for key, value in stepper.network.state_dict().items()}
    assert math.isfinite(stepper.run(0, stepper.load(0)))
    assert all(torch.equal(value, before[key]) for key, value in stepper.network.state_dict().items())
    assert stepper.facts()["loss_scale"]["scale"] == 2.0**59


def test_the_scale_of_fp16_goes_on_where_it_was(tmp_path):
    plan = quick_plan(precision="fp16")
    stored = stored_cases(tmp_path / "store", plan)
    whole = train_loop(plan, stored, folder=tmp_path / "whole", device=CPU, validate=None)

    def stop(stage, done, total):
        if done == 3:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Interrupted):
        train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None, progress=stop)
    resumed = train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None)
    assert largest_difference(resumed, whole) == 0.0


def test_fp16_on_the_cpu_is_refused(tmp_path):
    asked = config_from(config(tmp_path, train={"precision": "fp16"}))
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        require_parts(asked, CPU)


def test_the_gradient_is_clipped_to_its_norm(tmp_path):
    """Plain SGD moves the weights by rate times gradient, so by no more than rate times the largest norm."""
    moved = {}
    sgd = {"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}
    for clip in (1e-3, 12.0, None):
        plan = quick_plan(optimizer=sgd, learning_rate=0.5, schedule="constant", clip=clip)
        stepper = Stepper(plan, stored_cases(tmp_path / "store", plan), CPU)
        before = {key: value.double().clone() for key, value in stepper.network.state_dict().items()}
        stepper.run(0, stepper.load(0))
        after = stepper.network.state_dict()
        moved[clip] = math.sqrt(sum(float(((after[key] - before[key]) ** 2).sum()) for key in before))
    assert moved[1e-3] == pytest.approx(0.5e-3, rel=1e-3)
    assert moved[None] == pytest.approx(moved[12.0])
    assert moved[None] > 0.05


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_the_running_mean_keeps_the_share_it_was_asked_to(tmp_path, keep):
    plan = quick_plan(ema=keep)
    stepper = Stepper(plan, stored_cases(tmp_path / "store", plan), CPU)
    key = next(iter(stepper.network.state_dict()))
    mean = stepper.ema.state[key].clone()
    for step in range(20):
        stepper.run(step, stepper.load(step))
        share = min(keep, (1 + step) / (10 + step))
        mean = mean * share + stepper.network.state_dict()[key] * (1 - share)
    torch.testing.assert_close(stepper.ema.state[key], mean)


def test_a_loss_that_is_not_finite_names_the_cases_of_its_batch(tmp_path, monkeypatch):
    """NaN comes from one case's voxels: the step is the first that sees it, and the checkpoint one of a step before."""
    plan = quick_plan(steps=30, batch_size=1)
    stored = stored_cases(tmp_path / "store", plan)
    first = next(step for step in range(30) if cases_of(stored, plan, step) == ["1"])
    poison = load_batch

    def poisoned(*args, **kwargs):
        batch = poison(*args, **kwargs)
        if cases_of(stored, plan, args[2]) == ["1"]:
            batch.images[:] = math.nan
        return batch

    monkeypatch.setattr("medseg.training.step.load_batch", poisoned)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(DataError, match=rf"loss is nan at step {first + 1}, of case 1; the last checkpoint is kept"):
        train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None)
    kept = loop._restored(tmp_path / "run", stepper := Stepper(plan, stored, CPU), loop.ALONE)
    assert kept[0] == first
    assert all(bool(torch.isfinite(value).all()) for value in stepper.network.state_dict().values())


def test_weights_that_are_not_finite_never_reach_a_checkpoint(tmp_path, monkeypatch):
    plan = quick_plan(steps=4)
    stored = stored_cases(tmp_path / "store", plan)
    update = Stepper.run

    def poisoned(self, step, batches):
        loss = update(self, step, batches)
        if step == 2:
            next(iter(self.network.parameters())).data.fill_(math.inf)
        return loss

    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(Stepper, "run", poisoned)
    with pytest.raises(DataError, match="weights are no longer finite at step 3; the last checkpoint is kept"):
        train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=None)
    monkeypatch.setattr(Stepper, "run", update)
    assert loop._restored(tmp_path / "run", Stepper(plan, stored, CPU), loop.ALONE)[0] == 2


@pytest.mark.parametrize("times", [1, 2])
def test_a_stop_during_a_validation_is_obeyed_at_once_and_the_validation_made_again(tmp_path, times):
    """The signal comes inside the validation of step 3, which then never returns."""
    plan = quick_plan(steps=8, validate_every=3)
    stored = stored_cases(tmp_path / "store", plan)
    seen = []

    def stopped(state):
        seen.append(len(seen))
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not obeyed")

    def dice(state):
        return {"liver": float(sum(value.double().sum() for value in state.values()))}

    for _ in range(times):
        with pytest.raises(Interrupted, match="stopped at step 3 of 8"):
            train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=stopped)
    assert len(seen) == times
    ours = train_loop(plan, stored, folder=tmp_path / "run", device=CPU, validate=dice)
    whole = train_loop(plan, stored, folder=tmp_path / "whole", device=CPU, validate=dice)
    assert largest_difference(ours, whole) == 0.0
    assert sha256_of(tmp_path / "run" / "log.csv") == sha256_of(tmp_path / "whole" / "log.csv")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own parts
def test_a_compiled_step_is_the_plain_one(tmp_path):
    plan = quick_plan(optimizer=SGD, steps=4)
    stored = stored_cases(tmp_path / "store", plan)
    plain = train_loop(plan, stored, folder=tmp_path / "plain", device=CPU, validate=None)
    compiled = quick_plan(optimizer=SGD, steps=4, compile=True)
    ours = train_loop(compiled, stored, folder=tmp_path / "compiled", device=CPU, validate=None)
    assert largest_difference(ours, plain) < 1e-5
