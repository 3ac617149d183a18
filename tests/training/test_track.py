"""TensorBoard: what its own reader finds is what log.csv says; without the package, one clear line."""

import csv

import pytest
import torch

from medseg.core.config import config_from
from medseg.core.errors import ConfigError
from medseg.training import parts
from medseg.training.parts import require_parts
from medseg.workflows.train import train
from tests.data.tiny_dataset import config, tiny


def test_the_scalars_are_those_of_the_log(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed (pip install 'medseg[track]')")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = {"steps": 4, "tensorboard": True, "validate_every": 2, "validation_cases": 1}
    train(config(tiny(tmp_path / "data").finish(), train=settings), output=tmp_path / "run")
    read = EventAccumulator(str(tmp_path / "run" / "fold_0"))
    read.Reload()
    with (tmp_path / "run" / "fold_0" / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    losses = [(event.step, event.value) for event in read.Scalars("loss")]
    assert losses == [(int(row["step"]), pytest.approx(float(row["loss"]), rel=1e-5)) for row in rows]
    assert [event.step for event in read.Scalars("val_dice")] == [2]
    assert read.Scalars("val_dice")[0].value == pytest.approx(float(rows[1]["val_dice"]), abs=1e-5)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    asked = config_from(config(tmp_path, train={"tensorboard": True}))
    with pytest.raises(ConfigError, match=r"needs the package tensorboard: pip install 'medseg\[track\]'"):
        require_parts(asked, torch.device("cpu"))
