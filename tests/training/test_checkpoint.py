"""Two generations of checkpoints: whatever is damaged or half written, a whole one is found, and never lost."""

import json

import pytest
import torch
from torch import nn

from medseg.training.checkpoint import load_checkpoint, save_checkpoint
from medseg.training.ema import Ema
from medseg.training.optimizers import OPTIMIZERS


class Training:
    """A network of two weights with optimizer and running mean, that takes steps of its own."""

    def __init__(self, optimizer: str = "adamw", seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.network = nn.Linear(3, 2)
        self.optimizer = OPTIMIZERS[optimizer](self.network.parameters(), 1e-2)
        self.ema = Ema(self.network, 0.9)
        self.step = 0

    def train(self, steps: int) -> "Training":
        for _ in range(steps):
            generator = torch.Generator().manual_seed(self.step)
            self.network(torch.randn(4, 3, generator=generator)).square().sum().backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.ema.update(self.network, self.step)
            self.step += 1
        return self

    def save(self, folder, **facts):
        save_checkpoint(
            folder, step=self.step, network=self.network, ema=self.ema, optimizer=self.optimizer, facts=facts
        )

    def load(self, folder):
        return load_checkpoint(folder, network=self.network, ema=self.ema, optimizer=self.optimizer)

    def state(self):
        return [*self.network.state_dict().values(), *self.ema.state.values()]


def assert_same(a: Training, b: Training) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a.state(), b.state(), strict=True))


def saved(folder, *steps):
    """Checkpoints after each of ``steps`` steps."""
    training = Training()
    for step in steps:
        training.train(step - training.step).save(folder)
    return training


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_loaded_training_goes_on_as_the_saved_one(tmp_path, optimizer):
    training = Training(optimizer).train(3)
    training.save(tmp_path, losses=[0.1, 1 / 3])
    other = Training(optimizer, seed=7)
    facts = other.load(tmp_path)
    assert facts is not None
    assert (facts["step"], facts["losses"]) == (3, [0.1, 1 / 3])
    other.step = 3
    assert_same(other, training)
    assert_same(other.train(4), training.train(4))


def test_without_a_checkpoint_nothing_is_loaded(tmp_path):
    training, fresh = Training(), Training()
    assert training.load(tmp_path / "nowhere") is None
    assert_same(training, fresh)


def test_the_newest_of_two_generations_is_taken_and_no_third_is_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"checkpoint-{g}.{suffix}" for g in "ab" for suffix in ("json", "safetensors")
    ]
    assert {json.loads(p.read_text())["step"] for p in tmp_path.glob("*.json")} == {4, 5}
    assert Training().load(tmp_path)["step"] == 5


def newest(folder):
    return max(folder.glob("*.json"), key=lambda p: json.loads(p.read_text())["step"])


def one_bit(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "weights flipped by one bit": lambda record: one_bit(record.with_suffix(".safetensors")),
    "weights cut off": lambda record: record.with_suffix(".safetensors").write_bytes(b"\x08"),
    "weights missing": lambda record: record.with_suffix(".safetensors").unlink(),
    "record cut off": lambda record: record.write_text(record.read_text()[:20]),
    "record of another kind": lambda record: record.write_text('{"step": 99}'),
    "record is a list": lambda record: record.write_text("[]"),
    "record missing": lambda record: record.unlink(),
}
each_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


@each_damage
def test_a_damaged_newest_falls_back_to_the_older(tmp_path, damage):
    older = saved(tmp_path, 3)
    saved(tmp_path / "copy", 3)
    older.train(2).save(tmp_path)
    damage(newest(tmp_path))
    training = Training()
    assert training.load(tmp_path)["step"] == 3
    assert_same(training, Training().train(3))


@each_damage
def test_after_a_fall_back_the_next_checkpoint_replaces_the_damaged_one(tmp_path, damage):
    """Else a kill in the middle of it would leave no whole generation at all."""
    saved(tmp_path, 3, 5)
    damage(newest(tmp_path))
    training = Training()
    training.load(tmp_path)
    training.step = 3
    training.train(1).save(tmp_path)
    one_bit(newest(tmp_path).with_suffix(".safetensors"))
    again = Training()
    assert again.load(tmp_path)["step"] == 3
    assert_same(again, Training().train(3))


def test_with_both_damaged_it_begins_anew(tmp_path):
    saved(tmp_path, 3, 5)
    for file in tmp_path.glob("*.safetensors"):
        one_bit(file)
    assert Training().load(tmp_path) is None


def test_killed_between_weights_and_record_the_older_generation_stands(tmp_path, monkeypatch):
    saved(tmp_path, 3, 5)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("medseg.training.checkpoint.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        Training().train(8).save(tmp_path)
    assert Training().load(tmp_path)["step"] == 5
