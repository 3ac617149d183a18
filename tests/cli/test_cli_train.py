import re

import pytest
import torch

from medseg.cli.app import run
from tests.core.bad_config import BAD, GOOD


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current folder with a good config in it and a dataset folder that holds nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(GOOD)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.fixture
def train(here, capsys):
    """``medseg train`` in this process: exit code and the one line of its error; nothing may have been created."""

    def train(*arguments):
        before = sorted(here.rglob("*"))
        code = run(["train", *map(str, arguments)])
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "Traceback" not in printed.err
        assert sorted(here.rglob("*")) == before
        if "Usage:" in printed.err or "requires an argument" in printed.err:
            return code, printed.err
        assert printed.err.startswith("medseg: error: "), printed.err
        assert printed.err.count("\n") == 1, printed.err
        return code, printed.err.removeprefix("medseg: error: ")

    return train


def test_a_config_that_is_not_there_is_exit_2_and_lists_those_that_are(here, train):
    (here / "configs").mkdir()
    (here / "configs" / "liver.yaml").write_text(GOOD)
    code, message = train("--config", "livre.yaml")
    assert code == 2
    assert message.startswith("config livre.yaml does not exist")
    assert "liver.yaml" in message


@pytest.mark.parametrize("arguments", [[], ["--config"], ["--config", "config.yaml", "--nope"]])
def test_wrong_usage_is_exit_2(train, arguments):
    assert train(*arguments)[0] == 2


@pytest.mark.parametrize("root", ["/nowhere/data", "nowhere"])
def test_a_dataset_that_is_not_there_is_exit_3(train, root):
    code, message = train("--config", "config.yaml", "--set", f"data.root={root}")
    assert code == 3
    assert "nowhere" in message
    assert re.search("exist|found", message)


def test_a_dataset_folder_without_a_dataset_is_exit_3(train):
    code, message = train("--config", "config.yaml")
    assert code == 3
    assert "dataset.json" in message


@pytest.mark.parametrize("how", ["option", "setting", "default"])
def test_an_existing_run_folder_is_exit_4_before_the_data_are_looked_at(here, train, how):
    folder = "runs/liver" if how == "default" else "mine"
    (here / folder).mkdir(parents=True)
    (here / folder / "config.yaml").write_text("name: x")
    given = {"option": ["--output", "mine"], "setting": ["--set", "output=mine"], "default": []}[how]
    code, message = train("--config", "config.yaml", "--set", "data.root=/nowhere", *given)
    assert code == 4
    assert folder in message
    assert "--resume" in message


def test_a_file_in_the_run_folders_place_is_exit_4(here, train):
    (here / "mine").write_text("x")
    code, message = train("--config", "config.yaml", "--output", "mine")
    assert code == 4
    assert "is a file, not a folder" in message
    assert train("--config", "config.yaml", "--output", "mine/below")[0] == 4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD, "was started with another config"),
        ("name: [", "cannot be read"),
        ("", "another config|cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_resuming_a_run_of_another_or_a_damaged_config_is_exit_4(here, train, content, words):
    (here / "mine").mkdir()
    (here / "mine" / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    code, message = train("--config", "config.yaml", "--output", "mine", "--resume", "--set", "train.seed=7")
    assert code == 4
    assert re.search(words, message), message


def test_resuming_what_is_no_run_is_exit_4(here, train):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.docx").write_text("x")
    code, message = train("--config", "config.yaml", "--output", "mine", "--resume")
    assert code == 4
    assert "no medseg run" in message


@pytest.mark.parametrize("word", ["gpu", "cpu:1", "cuda:x"])
def test_an_unknown_device_is_exit_2(train, word):
    code, message = train("--config", "config.yaml", "--device", word)
    assert code == 2
    assert "choose auto, cpu, cuda or cuda:N" in message


def test_a_gpu_that_is_not_there_is_exit_5(train, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, message = train("--config", "config.yaml", "--device", "cuda:99")
    assert code == 5
    assert "device cuda:99" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "train.budget"], "expected KEY=VALUE"),
        (["--set", "=3"], "expected KEY=VALUE"),
        (["--set", "train.epoch=3"], "did you mean 'epochs'"),
        (["--set", "train.epochs=ten"], "train.epochs"),
        (["--fold", "9"], "fold 9 does not exist among 5 folds"),
        (["--fold", "some"], "is no fold"),
        (["--set", "plan.architecture=unett"], "architecture: unknown 'unett'; did you mean 'unet'"),
        (["--set", "train.loss=dise"], "loss: unknown 'dise'; did you mean 'dice'"),
        (["--set", "train.loss={name: dice_ce, wieght: 1}"], "unknown option 'wieght'"),
        (["--set", "train.optimizer=sdg"], "optimizer: unknown 'sdg'; did you mean 'sgd'"),
    ],
)
def test_a_wrong_setting_is_exit_2_before_the_data_are_looked_at(train, arguments, words):
    code, message = train("--config", "config.yaml", "--set", "data.root=/nowhere", *arguments)
    assert code == 2
    assert words in message


@pytest.mark.parametrize(
    "row", [row for row in BAD if row.id in ("y-exec-dollar", "y-exec-import")], ids=lambda r: r.id
)
def test_a_name_with_code_in_it_is_an_unknown_name(here, train, row):
    (here / "odd.yaml").write_bytes(row.content)
    code, message = train("--config", "odd.yaml")
    assert code == 2
    for hint in row.hints:
        assert re.search(hint, message, re.IGNORECASE), message
