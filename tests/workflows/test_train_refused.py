"""What `medseg train` refuses, in words, before anything is made."""

import pytest
import torch

from medseg.cli.app import run
from medseg.core.errors import ConfigError, OutputError
from medseg.data.layouts import LAYOUTS
from medseg.workflows.train import train
from tests.data.bad_dataset import KINDS, Kind
from tests.data.tiny_dataset import config
from tests.workflows.train_command import command, missing_hints, tree, written

pytestmark = pytest.mark.usefixtures("one_thread")
BAD = {name: kind for name, kind in KINDS.items() if kind.expected == "error"}


LAID_OUT = [
    pytest.param(name, kind, layout, id=f"{name}-{layout}")
    for name, kind in BAD.items()
    for layout in LAYOUTS
    if (name, layout) not in [("t-duplicate-id", "nnunet"), ("t-duplicate-id", "bids")]  # two suffixes cannot be there
]


@pytest.mark.parametrize(("name", "kind", "layout"), LAID_OUT)
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


BAD_PARTS = {
    "optimizer name": ({"train": {"optimizer": "adamx"}}, "train.optimizer.*did you mean 'adam"),
    "optimizer option": ({"train": {"optimizer": {"name": "sgd", "momentun": 0.9}}}, "train.optimizer.*momentum"),
    "optimizer value": ({"train": {"optimizer": {"name": "sgd", "momentum": "high"}}}, "train.optimizer: sgd"),
    "loss name": ({"train": {"loss": "dyce"}}, "train.loss.*did you mean 'dice"),
    "loss option": ({"train": {"loss": {"name": "dice_ce", "weight": 2}}}, "train.loss.*weight"),
    "architecture name": ({"plan": {"architecture": "vnet"}}, "architecture.*'vnet'"),
    "too few features": ({"plan": {"architecture": {"name": "unet", "features": [4]}}}, "plan.architecture"),
    "too many features": (
        {"plan": {"architecture": {"name": "unet", "features": [4] * 9}}},
        "plan.architecture.*features has 9 entries",
    ),
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


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
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
