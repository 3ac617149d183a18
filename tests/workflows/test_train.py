"""From a dataset to a model folder: what is refused before anything is made, and what a finished run holds."""

import csv
import json
import re
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import medseg
from medseg.cli.app import run
from medseg.core.errors import ConfigError, DataError, OutputError
from medseg.core.plan import Plan
from medseg.data.split import split_by_patient
from medseg.workflows.train import train
from tests.data.bad_dataset import KINDS, Kind
from tests.data.tiny_dataset import LABELS, config, pair, save, tiny

BAD = {name: kind for name, kind in KINDS.items() if kind.expected == "error"}
GOOD = {name: kind for name, kind in KINDS.items() if kind.expected != "error"}


@pytest.fixture(autouse=True)
def one_thread():
    """The same bits on any machine, and no thread waits for another on networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures(monkeypatch):
    """Curves and overlays take three quarters of so short a training."""
    for name in ("save_curves", "save_overlays"):
        monkeypatch.setattr(f"medseg.workflows.train.{name}", lambda *args, **kwargs: None)


@pytest.fixture
def root(tmp_path):
    return tiny(tmp_path / "data").finish()


def written(folder: Path, content: dict) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def missing_hints(message: str, hint: str) -> list[str]:
    return [group for group in hint.split("; ") if not re.search(group.replace("/", "|"), message, re.IGNORECASE)]


def command(folder: Path, content: dict, *more: str) -> int:
    return run(["train", "--config", str(written(folder, content)), "--output", str(folder / "run"), *more])


@pytest.mark.parametrize("layout", ["msd", "folder"])
@pytest.mark.parametrize(("name", "kind"), BAD.items(), ids=BAD)
def test_a_bad_dataset_is_refused_in_words_before_anything_is_made(name: str, kind: Kind, layout, tmp_path, capsys):
    root = kind.make(tmp_path / "data")
    content = config(root, layout=layout, **kind.sections)
    path = written(tmp_path, content)
    before = tree(tmp_path)
    code = run(["train", "--config", str(path), "--output", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert code == 3
    assert out == ""
    assert err.startswith("medseg: error: ")
    assert err.count("\n") == 1
    assert "bug in medseg" not in err
    assert not missing_hints(err.replace(str(tmp_path), ""), kind.hint), err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("name", "kind"), GOOD.items(), ids=GOOD)
def test_an_odd_but_valid_dataset_trains(name: str, kind: Kind, tmp_path, capsys, no_pictures):
    content = config(kind.make(tmp_path / "data"), **kind.sections)
    assert command(tmp_path, content) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "run" / "model" / "model.json").is_file()
    assert str(tmp_path / "run" / "model") in out
    warned = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert bool(warned) == (kind.expected == "warn")
    assert not missing_hints("\n".join(warned), kind.hint)


def test_a_label_stored_flipped_trains_on_the_same_voxels(tmp_path, no_pictures):
    stores = []
    for name in ("t-good", "t-label-stored-flipped"):
        result = train(config(KINDS[name].make(tmp_path / name)), output=tmp_path / f"run {name}")
        stores.append(sorted(result.run_folder.glob("store/*/*.npy")))
    assert [file.name for file in stores[0]] == [file.name for file in stores[1]]
    for plain, flipped in zip(*stores, strict=True):
        np.testing.assert_array_equal(np.load(plain), np.load(flipped))


BAD_PARTS = {
    "optimizer name": ({"train": {"optimizer": "adamx"}}, "train.optimizer.*did you mean 'adam"),
    "optimizer option": ({"train": {"optimizer": {"name": "sgd", "momentun": 0.9}}}, "train.optimizer.*momentum"),
    "optimizer value": ({"train": {"optimizer": {"name": "sgd", "momentum": "high"}}}, "train.optimizer: sgd"),
    "loss name": ({"train": {"loss": "dyce"}}, "train.loss.*did you mean 'dice"),
    "loss option": ({"train": {"loss": {"name": "dice_ce", "weight": 2}}}, "train.loss.*weight"),
    "architecture name": ({"plan": {"architecture": "vnet"}}, "architecture.*'vnet'"),
    "too few features": ({"plan": {"architecture": {"name": "unet", "features": [4, 8]}}}, "plan.architecture"),
    "features of text": (
        {"plan": {"architecture": {"name": "unet", "features": ["a", "b", "c"]}}},
        "plan.architecture",
    ),
    "fold beyond the patients": ({"train": {"folds": 9, "fold": 7}}, "fold 7 does not exist: 4 folds"),
    "2D patch for a 3D plan": ({"plan": {"patch_size": [16, 16], "dimensions": 3}}, "patch_size"),
}


@pytest.mark.parametrize(("sections", "words"), BAD_PARTS.values(), ids=BAD_PARTS)
def test_a_config_that_cannot_be_built_is_refused_before_anything_is_made(root, tmp_path, sections, words):
    before = tree(tmp_path)
    with pytest.raises(ConfigError, match=words):
        train(config(root, **sections), output=tmp_path / "run")
    assert tree(tmp_path) == before


def test_a_finished_run_holds_what_the_design_says(root, tmp_path):
    said = []
    result = train(config(root), output=tmp_path / "run", say=said.append)
    run_folder = tmp_path / "run"
    assert result.run_folder == run_folder
    assert result.model_folder == run_folder / "model"
    assert {p.name for p in run_folder.iterdir()} >= {"config.yaml", "plan.json", "splits.json", "fold_0", "model"}
    assert {p.name for p in (run_folder / "model").iterdir()} == {"model.json", "fold_0.safetensors", "README.md"}
    plan = Plan.model_validate_json((run_folder / "plan.json").read_text())
    assert plan.steps == 2
    with (run_folder / "fold_0" / "log.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == [1, 2]
    splits = json.loads((run_folder / "splits.json").read_text())
    assert sorted(splits[0]["validation"] + splits[0]["train"]) == [f"case_{n:02d}" for n in range(4)]
    validation = {p.name for p in (run_folder / "fold_0" / "validation").iterdir()}
    assert validation >= {f"{case}_seg.nii.gz" for case in splits[0]["validation"]}
    assert validation >= {"scores.csv", "summary.json", "best.png", "worst.png"}
    assert not list(run_folder.rglob("*.tmp"))
    assert any(str(run_folder) in line for line in said)
    card = json.loads((run_folder / "model" / "model.json").read_text())
    assert card["labels"] == LABELS
    assert card["validation"]["fold_0"]["dice"] == pytest.approx(result.dice)


def test_inferring_and_evaluating_the_validation_scans_gives_the_trainings_own_figure(root, tmp_path, no_pictures):
    """Enough steps to find something; oblique scans, a plan on another spacing, values with a gap."""
    for n in range(4):
        label = np.array([0, 3, 9], np.uint8)[pair(n)[1]]
        save(root / "labelsTr" / f"case_{n:02d}.nii.gz", label)
    labels = {"background": 0, "liver": 3, "tumour": 9}
    sections = {
        "labels": labels,
        "plan": {"spacing_mm": [1.8, 1.4, 1.9]},
        "train": {"steps": 40, "learning_rate": 0.01},
    }
    result = train(config(root, **sections), output=tmp_path / "run")
    held_out = json.loads((tmp_path / "run" / "splits.json").read_text())[0]["validation"]
    (tmp_path / "references").mkdir()
    for case in held_out:
        medseg.infer(
            root / "imagesTr" / f"{case}.nii.gz",
            model=result.model_folder,
            output=tmp_path / "predictions",
            device="cpu",
        )
        (tmp_path / "references" / f"{case}.nii.gz").symlink_to(root / "labelsTr" / f"{case}.nii.gz")
        mine = nib.load(tmp_path / "predictions" / f"{case}_seg.nii.gz")
        theirs = nib.load(tmp_path / "run" / "fold_0" / "validation" / f"{case}_seg.nii.gz")
        np.testing.assert_array_equal(np.asanyarray(mine.dataobj), np.asanyarray(theirs.dataobj))
    report = medseg.evaluate(tmp_path / "predictions", tmp_path / "references", labels=labels)
    assert result.dice["liver"] > 0.3
    for name in ("liver", "tumour"):
        assert report.mean("dice", name) == pytest.approx(result.dice[name], abs=1e-4)
    rows = list(csv.DictReader((tmp_path / "run" / "fold_0" / "validation" / "scores.csv").open()))
    assert {row["case"] for row in rows} == set(held_out)


@pytest.mark.parametrize(
    ("sections", "axis"),
    [
        ({"plan": {"dimensions": 2, "patch_size": "auto", "architecture": "unet"}}, 2),
        ({"plan": {"dimensions": 2, "patch_size": [16, 16], "spacing_mm": [3.0, 1.5, 1.5]}}, 0),
    ],
    ids=["auto", "given"],
)
def test_a_2d_plan_trains_validates_and_infers(root, tmp_path, no_pictures, sections, axis):
    if axis == 2:
        sections["plan"]["architecture"] = {"name": "unet", "features": [4, 6, 8]}
    result = train(config(root, **sections), output=tmp_path / "run")
    assert result.plan.dimensions == 2
    assert result.plan.slice_axis == axis
    assert result.plan.patch_size[axis] == 1
    assert set(result.dice) == {"liver", "tumour"}
    weights = load_file(result.model_folder / "fold_0.safetensors")
    assert weights["encoder.stages.0.0.convs.0.conv.weight"].ndim == 4
    found = medseg.infer(
        root / "imagesTr" / "case_00.nii.gz", model=result.model_folder, output=tmp_path / "out", device="cpu"
    )
    assert found.label_map.data.shape == (24, 20, 16)


def test_all_trains_every_fold_into_one_model(root, tmp_path, no_pictures):
    result = train(config(root, train={"fold": "all", "folds": 3}), output=tmp_path / "run")
    assert set(result.validation) == {"fold_0", "fold_1", "fold_2"}
    weights = sorted(result.model_folder.glob("*.safetensors"))
    assert [w.stem for w in weights] == ["fold_0", "fold_1", "fold_2"]
    validated = [case.id for report in result.validation.values() for case in report.cases]
    assert sorted(validated) == [f"case_{n:02d}" for n in range(4)]
    first, second = (load_file(w) for w in weights[:2])
    assert any(not torch.equal(first[key], second[key]) for key in first)


def test_final_trains_on_every_case_and_validates_nothing(root, tmp_path, no_pictures):
    result = train(config(root, train={"fold": "final"}), output=tmp_path / "run")
    assert result.validation == {}
    assert result.dice == {}
    assert [w.stem for w in result.model_folder.glob("*.safetensors")] == ["fold_final"]
    assert "every case was training" in (result.model_folder / "README.md").read_text()


def test_final_needs_no_second_patient(tmp_path, no_pictures):
    root = tiny(tmp_path / "data", 1).finish()
    train(config(root, train={"fold": "final"}), output=tmp_path / "run")


def test_a_fold_may_be_added_to_a_finished_run(root, tmp_path, no_pictures):
    train(config(root, train={"fold": "final"}), output=tmp_path / "run")
    before = (tmp_path / "run" / "plan.json").read_bytes()
    result = train(config(root, train={"fold": 1}), output=tmp_path / "run", resume=True)
    assert sorted(w.stem for w in result.model_folder.glob("*.safetensors")) == ["fold_1", "fold_final"]
    assert (tmp_path / "run" / "plan.json").read_bytes() == before
    assert set(result.validation) == {"fold_1"}


def stop_at(step: int, number: int = signal.SIGTERM):
    """A progress listener that sends this process a signal when training reaches ``step``."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "train" and done == step:
            signal.raise_signal(number)

    return progress


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_goes_on_to_the_same_bits(root, tmp_path, monkeypatch, capsys, no_pictures, number, code):
    content = config(root, train={"steps": 6})
    whole = train(content, output=tmp_path / "whole")
    for step in (2, 5):
        with monkeypatch.context() as patch:
            patch.setattr("medseg.cli.console.silent", stop_at(step, number))
            assert command(tmp_path, content, *(["--resume"] if step > 2 else [])) == code
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
        assert command(tmp_path, content) == 143
    assert (tmp_path / "run").exists() == (stage != "check")
    assert not (tmp_path / "run" / "run.lock").exists()
    assert command(tmp_path, content, "--resume") == 0


def test_a_budget_becomes_steps_once(root, tmp_path, monkeypatch, no_pictures):
    """The first start finds a step slow, the second fast: the plan is the first one's."""
    content = config(root, train={"steps": None, "budget": "30s"})
    monkeypatch.setattr("medseg.training.fit.seconds_per_step", lambda *args, **kwargs: 5.0)
    with pytest.raises(medseg.core.errors.Interrupted):
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


def train_started(content: dict, folder: Path) -> None:
    """A run folder as a start leaves it before training."""
    from medseg.core.config import config_from
    from medseg.data.layouts import list_cases
    from medseg.training.run_folder import start_run

    checked = config_from(content)
    cases = list_cases(checked.data)
    start_run(folder, checked, split_by_patient(cases, folds=2, seed=0), cases)


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


def test_a_file_or_foreign_folder_in_the_place_of_the_run_is_left_alone(root, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="file"):
        train(config(root), output=tmp_path / "file")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    for resume in (False, True):
        with pytest.raises(OutputError):
            train(config(root), output=tmp_path / "folder", resume=resume)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["thesis.txt"]


def test_a_run_held_by_another_is_refused(root, tmp_path, capsys):
    from medseg.core.files import run_lock

    train_started(config(root), tmp_path / "run")
    with run_lock(tmp_path / "run"):
        assert command(tmp_path, config(root), "--resume") == 4
    assert "held by another run" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(root, tmp_path, capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert command(tmp_path, config(root), "--device", "cuda:7") == 5
    assert "cuda:7" in capsys.readouterr().err
    assert command(tmp_path, config(root), "--device", "tpu") == 2
    assert not (tmp_path / "run").exists()


def test_running_out_of_memory_is_told_as_such(root, tmp_path, monkeypatch, capsys):
    def greedy(*args, **kwargs):
        torch.empty(2**60)

    monkeypatch.setattr("medseg.workflows.train.fitted_plan", greedy)
    assert command(tmp_path, config(root)) == 5
    assert "out of memory" in capsys.readouterr().err


def test_settings_on_the_command_line_overrule_the_config(root, tmp_path, no_pictures):
    assert command(tmp_path, config(root), "--set", "train.steps=1", "--set", "train.seed=4", "--fold", "1", "-q") == 0
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["steps"], plan["seed"]) == (1, 4)
    assert (tmp_path / "run" / "fold_1").is_dir()
