"""Fine-tuning through the workflow: what the plan follows, and that a resumed run does not start afresh."""

import json

import pytest
import torch
from safetensors.torch import load_file

from medseg.core.errors import ConfigError, ModelError
from medseg.core.plan import Plan
from medseg.workflows.train import train
from tests.data.tiny_dataset import config
from tests.models.tiny_model import tiny_model, tiny_plan
from tests.workflows.train_command import command, stop_at

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")


@pytest.fixture
def model(tmp_path):
    window = {"scheme": {"name": "ct_window", "options": {"lower": -50, "upper": 150, "mean": 60, "sd": 30}}}
    return tiny_model(tmp_path / "model", plan=tiny_plan(modality="CT", spacing_mm=[2.0, 2.0, 2.5], intensity=[window]))


def asked(root, model, **sections):
    plan = {"patch_size": "auto", "architecture": "unet"} | sections.pop("plan", {})
    return config(root, plan=plan, train={"init": str(model), **sections.pop("train", {})}, **sections)


def plan_of(folder):
    return Plan.model_validate(json.loads((folder / "plan.json").read_text()))


def test_grid_network_and_intensities_follow_the_model_and_say_so(root, tmp_path, model):
    lines = []
    found = train(asked(root, model, labels={"background": 0, "tumour": 2}), output=tmp_path / "run", say=lines.append)
    before = tiny_plan()
    assert found.plan.architecture == before.architecture
    assert (found.plan.spacing_mm, found.plan.patch_size) == ((2.0, 2.0, 2.5), (8, 8, 8))
    assert found.plan.intensity[0].scheme.options == {"lower": -50, "upper": 150, "mean": 60, "sd": 30}
    for key in ("architecture", "spacing_mm", "patch_size", "intensity"):
        assert found.plan.reasons[key] == "of the model that training starts from, tiny"
    assert found.plan.reasons["init"].startswith("tiny, sha256 ")
    assert str(tmp_path) not in (found.model_folder / "model.json").read_text()
    assert any("tensors taken whole; in the heads the channels of tumour" in line for line in lines)


def test_what_the_config_gives_stays_and_another_modality_is_measured(root, tmp_path, model):
    content = asked(root, model, plan={"patch_size": [15, 9, 12], "spacing_mm": [3, 3, 3]}, modality="MR")
    plan = train(content, output=tmp_path / "run").plan
    assert (plan.spacing_mm, plan.patch_size) == ((3.0, 3.0, 3.0), (16, 10, 12))  # up to the strides of the model
    assert plan.intensity[0].scheme.name == "z_score"
    assert "has 1 channel(s) of CT, this dataset 1 of MR" in plan.reasons["intensity"]


def test_training_begins_with_the_weights_of_the_model(root, tmp_path, model):
    content = asked(root, model, train={"steps": 1, "learning_rate": 1e-9, "ema": 0.0})
    found = train(content, output=tmp_path / "run")
    trained = load_file(found.model_folder / "fold_0.safetensors")
    for key, value in load_file(model / "fold_0.safetensors").items():
        torch.testing.assert_close(trained[key], value, rtol=0, atol=1e-6)


def test_a_resumed_run_keeps_its_first_weights_without_the_model(root, tmp_path, model, monkeypatch):
    content = asked(root, model, train={"steps": 4})
    whole = train(content, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("medseg.cli.console.silent", stop_at(2))
        assert command(tmp_path, content, "-q") == 143
    model.rename(tmp_path / "gone")
    assert command(tmp_path, content, "-q", "--resume") == 0
    resumed = load_file(tmp_path / "run" / "model" / "fold_0.safetensors")
    for key, value in load_file(whole.model_folder / "fold_0.safetensors").items():
        assert torch.equal(resumed[key], value), key


def test_what_does_not_fit_is_refused_before_anything_is_written(root, tmp_path, model):
    with pytest.raises(ConfigError, match=r"plan.dimensions is 2, but .* is 3D"):
        train(asked(root, model, plan={"dimensions": 2}), output=tmp_path / "run")
    with pytest.raises(ModelError, match="tensors do not fit"):
        train(asked(root, model, plan={"architecture": {"name": "unet", "features": [4, 16]}}), output=tmp_path / "run")
    with pytest.raises(ModelError, match="does not exist"):
        train(asked(root, tmp_path / "nothing"), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
