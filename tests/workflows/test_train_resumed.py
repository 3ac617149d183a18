"""A run that was stopped goes on as if it had not been, and one of another config does not go on."""

import csv
import json
import re
import signal

import pytest
import torch
from safetensors.torch import load_file

from medseg.core.errors import DataError, Interrupted, OutputError
from medseg.core.lock import run_lock
from medseg.workflows.train import train
from tests.data.tiny_dataset import config, tiny
from tests.workflows.train_command import command, stop_at, train_started, tree

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_to_the_same_bits(root, tmp_path, monkeypatch, capsys, no_pictures, number, code):
    content = config(root, train={"steps": 6})
    whole = train(content, output=tmp_path / "whole")
    for step in (2, 5):
        with monkeypatch.context() as patch:
            patch.setattr("medseg.cli.console.silent", stop_at(step, number))
            assert command(tmp_path, content, "-q", *(["--resume"] if step > 2 else [])) == code
        assert f"stopped at step {step} of 6" in capsys.readouterr().err
        assert not (tmp_path / "run" / "run.lock").exists()
        assert not (tmp_path / "run" / "model").exists()
    assert command(tmp_path, content, "--resume") == 0
    resumed = load_file(tmp_path / "run" / "model" / "fold_0.safetensors")
    for key, value in load_file(whole.model_folder / "fold_0.safetensors").items():
        assert torch.equal(resumed[key], value)
    with (
        (tmp_path / "run" / "fold_0" / "log.csv").open() as ours,
        (whole.run_folder / "fold_0" / "log.csv").open() as his,
    ):
        losses = [[(row["step"], row["loss"], row["learning_rate"]) for row in csv.DictReader(f)] for f in (ours, his)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("stage", ["check", "preprocess", "final validation"])
def test_sigterm_outside_the_loop_leaves_no_lock_and_the_run_can_go_on(root, tmp_path, monkeypatch, stage, no_pictures):
    def progress(name: str, done: int, total: int) -> None:
        if name == stage:
            signal.raise_signal(signal.SIGTERM)

    content = config(root)
    with monkeypatch.context() as patch:
        patch.setattr("medseg.cli.console.silent", progress)
        assert command(tmp_path, content, "-q") == 143
    assert (tmp_path / "run").exists() == (stage != "check")
    assert not (tmp_path / "run" / "run.lock").exists()
    assert command(tmp_path, content, "--resume") == 0


def test_a_budget_becomes_steps_once(root, tmp_path, monkeypatch, no_pictures):
    """The first start finds a step slow, the second fast: the plan is the first one's."""
    content = config(root, train={"steps": None, "budget": "30s"})
    monkeypatch.setattr("medseg.training.fit.seconds_per_step", lambda *args, **kwargs: 5.0)
    with pytest.raises(Interrupted):
        train(content, output=tmp_path / "run", progress=stop_at(1))
    before = (tmp_path / "run" / "plan.json").read_bytes()
    steps = json.loads(before)["steps"]
    assert 2 <= steps <= 6  # 30 s, less what came before, at 5 s a step
    assert json.loads(before)["reasons"]["steps"].startswith("budget 30s")
    monkeypatch.setattr("medseg.training.fit.seconds_per_step", lambda *args, **kwargs: 0.001)
    result = train(content, output=tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "plan.json").read_bytes() == before
    assert result.plan.steps == steps


def test_an_existing_run_is_left_alone_without_resume(root, tmp_path, capsys, no_pictures):
    content = config(root)
    assert command(tmp_path, content) == 0
    before = {path: path.stat().st_mtime_ns for path in tree(tmp_path / "run")}
    capsys.readouterr()
    assert command(tmp_path, content) == 4
    assert "exists" in (message := capsys.readouterr().err)
    assert "--resume" in message
    assert {path: path.stat().st_mtime_ns for path in tree(tmp_path / "run")} == before


CHANGES = {
    "train.seed": {"train": {"seed": 3}},
    "train.steps": {"train": {"steps": 3}},
    "labels.tumour": {"labels": {"background": 0, "liver": 1, "tumour": 2, "cyst": 3}},
    "plan.architecture.options.features": {"plan": {"architecture": {"name": "unet", "features": [4, 6, 10]}}},
    "modality": {"modality": "MR"},
}


@pytest.mark.parametrize(("key", "sections"), CHANGES.items(), ids=CHANGES)
def test_another_config_is_not_resumed_and_its_key_is_named(root, tmp_path, key, sections):
    run_folder = tmp_path / "run"
    train_started(config(root), run_folder)
    if key == "labels.tumour":
        key = "labels.cyst"
    with pytest.raises(OutputError, match=re.escape(f"another config: {key} was")):
        train(config(root, **sections), output=run_folder, resume=True)


def test_the_splits_of_the_run_hold_not_those_of_today(root, tmp_path, no_pictures):
    """A user may edit splits.json of a run that has not begun; a resumed run never deals its cases anew."""
    train_started(config(root), tmp_path / "run")
    wanted = [{"train": ["case_01", "case_02", "case_03"], "validation": ["case_00"]}]
    (tmp_path / "run" / "splits.json").write_text(json.dumps(wanted))
    result = train(config(root), output=tmp_path / "run", resume=True)
    assert [case.id for case in result.validation["fold_0"].cases] == ["case_00"]
    assert json.loads((tmp_path / "run" / "splits.json").read_text()) == wanted


def test_a_case_that_came_or_went_since_the_start_is_named(root, tmp_path):
    train_started(config(root), tmp_path / "run")
    made = tiny(root, 5)
    made.finish()
    with pytest.raises(DataError, match="gained 'case_04'"):
        train(config(root), output=tmp_path / "run", resume=True)
    made.cases = made.cases[:3]
    made.finish()
    with pytest.raises(DataError, match="'case_03', which is not in the dataset"):
        train(config(root), output=tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", ["", "- 1", "a: [", "\0"], ids=["empty", "list", "broken", "nul"])
def test_a_damaged_config_of_a_run_is_named_not_resumed(root, tmp_path, content):
    train_started(config(root), tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(OutputError, match="run"):
        train(config(root), output=tmp_path / "run", resume=True)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"train": []}]'])
def test_damaged_splits_of_a_run_are_named(root, tmp_path, content):
    train_started(config(root), tmp_path / "run")
    (tmp_path / "run" / "splits.json").write_text(content)
    with pytest.raises(DataError, match=r"splits\.json"):
        train(config(root), output=tmp_path / "run", resume=True)


def test_a_run_held_by_another_is_refused(root, tmp_path, capsys):
    train_started(config(root), tmp_path / "run")
    with run_lock(tmp_path / "run"):
        assert command(tmp_path, config(root), "--resume") == 4
    assert "held by another run" in capsys.readouterr().err
