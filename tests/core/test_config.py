import re
from pathlib import Path

import pytest

from medseg.cli.app import run
from medseg.core.config import Config, budget_seconds, config_from, find_config, load_config
from medseg.core.errors import ConfigError
from tests.core.bad_config import ACCEPTED, BAD, GOOD

LINES = {line.split(":")[0].strip(): n for n, line in enumerate(GOOD.splitlines(), 1)}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config into an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def write(content, name="config.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def message_of(path, overrides=None):
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    "row", [row for row in BAD if row.id not in ("y-exec-dollar", "y-exec-import")], ids=lambda r: r.id
)
def test_a_bad_config_is_refused_with_its_cause_before_anything_is_done(write, capsys, tmp_path, row):
    write(row.content)
    assert run(["train", "--config", "config.yaml"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("medseg: error: config.yaml")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 500
    for hint in row.hints:
        assert re.search(hint, printed.err, re.IGNORECASE), printed.err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    "row", [row for row in BAD if row.id in ("y-exec-dollar", "y-exec-import")], ids=lambda r: r.id
)
def test_a_name_with_code_in_it_stays_a_name(write, tmp_path, row):
    assert load_config(write(row.content)).plan.architecture.name.startswith("$")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.id)
def test_an_odd_but_valid_config_is_taken(write, tmp_path, row):
    config = load_config(write(row.content))
    assert config.labels["liver"] == 1
    assert config.train.learning_rate == (0.001 if row.id == "y-lr-1e-3" else "auto")
    assert config.data.root.parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("old", "new", "key", "meant"),
    [
        ("epochs: 2", "epoch: 2", "epochs", "epochs"),
        ("loss: dice_ce", "losss: dice_ce", "loss", "loss"),
        ("modality: CT", "modalty: CT", "modality", "modality"),
        ("  batch_size: auto", "  batchsize: auto", "batch_size", "batch_size"),
        ("  spacing_mm: auto", "  spacing: auto", "spacing_mm", "spacing_mm"),
        ("root: data", "rooot: data", "data", "root"),
    ],
)
def test_a_misspelt_key_has_its_line_and_the_right_spelling(write, old, new, key, meant):
    message = message_of(write(GOOD.replace(old, new)))
    assert f"line {LINES[key]}: " in message
    assert f"did you mean {meant!r}?" in message


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("patch_size: auto", "patch_size: [0, 64, 64]", "patch_size", "plan.patch_size.0: .*1, got 0$"),
        ("spacing_mm: auto", "spacing_mm: [1, 1]", "spacing_mm", "plan.spacing_mm.2 is missing"),
        ("spacing_mm: auto", "spacing_mm: [1, 1, 1e9]", "plan", "between 0.01 and 100 mm"),
        ("learning_rate: auto", "learning_rate: -1", "learning_rate", "greater than 0, got -1$"),
        ("learning_rate: auto", "learning_rate: 0", "learning_rate", "greater than 0, got 0$"),
        ("tumour: 2", "tumour: 1", "labels", "'liver' and 'tumour' have the same value 1"),
        ("fold: 0", "fold: 9", "train", "fold 9 does not exist among 5 folds"),
        ("budget: 20m", "budget: soon", "budget", "not a time such as 90s"),
        ("budget: 20m", "budget: 1s", "budget", "between 20s and 60 days"),
        ("group: null", "group: '('", "data", "not a regular expression"),
        ("name: liver", "name: ../liver", "name", "name"),
        ("modality: CT", "modality: ct", "modality", "'CT', 'MR' or 'other'"),
        ("seed: 0", "seed: 1.5", "seed", "train.seed"),
    ],
)
def test_a_wrong_value_has_its_line_and_one_reason(write, old, new, key, words):
    message = message_of(write(GOOD.replace(old, new)))
    assert f"line {LINES[key]}: " in message
    assert message.count("; line") == 0
    assert re.search(words, message), message


def test_all_mistakes_are_told_at_once(write):
    text = GOOD.replace("epochs: 2", "epochs: x").replace("seed: 0", "seed: y").replace("device: auto", "device: z")
    message = message_of(write(text))
    assert all(f"line {LINES[key]}: " in message for key in ("epochs", "seed", "device"))


@pytest.mark.parametrize(
    ("overrides", "read"),
    [
        ({"train.budget": "5m"}, lambda c: c.train.budget == "5m"),
        ({"train.learning_rate": "1e-4"}, lambda c: c.train.learning_rate == 1e-4),
        ({"train.steps": "100"}, lambda c: c.train.steps == 100),
        ({"train.fold": "all"}, lambda c: c.train.fold == "all"),
        ({"train.fold": "3"}, lambda c: c.train.fold == 3),
        ({"plan.patch_size": "[64, 64]"}, lambda c: c.plan.patch_size == (64, 64)),
        ({"plan.architecture": "{name: unet, features: [8, 16]}"}, lambda c: c.plan.architecture.options["features"]),
        ({"labels.tumour": "7"}, lambda c: c.labels == {"background": 0, "liver": 1, "tumour": 7}),
        ({"train.epochs": "null"}, lambda c: c.train.epochs is None),
        ({"name": "yes it is"}, lambda c: c.name == "yes it is"),
    ],
)
def test_settings_are_typed_by_the_schema(write, overrides, read):
    assert read(load_config(write(GOOD), overrides))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"train.epochs": "ten"}, "train.epochs"),
        ({"train.epoch": "10"}, "did you mean 'epochs'"),
        ({"train.epochs.x": "10"}, "epochs is not a section"),
        ({"device": "gpu"}, "'gpu' is no device"),
        ({"data": "3"}, "data"),
        ({"": "3"}, "unknown key"),
        ({"labels.tumour": "1"}, "same value 1"),
        ({"name": "!!python/object/apply:os.system [x]"}, "tag"),
        ({"name": "&a [*a]"}, "holds itself"),
        ({"name": "[" * 5000 + "]" * 5000}, "nested too deep"),
        ({"data.root": "a\0b"}, "null character"),
        ({"data.root": "~nobody-of-this-name/x"}, "home"),
    ],
)
def test_a_wrong_setting_is_refused(write, overrides, words):
    assert words in message_of(write(GOOD), overrides)


def test_paths_start_at_the_file_and_those_of_settings_at_the_current_folder(write, tmp_path):
    path = write(GOOD.replace("output: null", "output: ../runs/x"), "configs/liver.yaml")
    config = load_config(path)
    assert config.data.root == tmp_path / "configs" / "data"
    assert config.output.resolve() == tmp_path / "runs" / "x"
    config = load_config(path, {"data.root": "elsewhere", "output": "here"})
    assert (config.data.root, config.output) == (tmp_path / "elsewhere", tmp_path / "here")
    assert load_config(path, {"output": "null"}).output is None
    assert load_config(path, {"data.root": "~/x"}).data.root == Path.home() / "x"


@pytest.mark.parametrize("name", ["configs/liver.yaml", "liver.yaml", "liver", "configs/liver"])
def test_a_config_is_found_as_given_or_in_configs(write, name):
    write(GOOD, "configs/liver.yaml")
    assert load_config(name).name == "liver"


def test_a_config_that_is_not_there_lists_those_that_are(write):
    for name in ("b.yaml", "a.yaml"):
        write(GOOD, f"configs/{name}")
    with pytest.raises(ConfigError, match=r"config livre\.yaml does not exist.*\(configs found: a\.yaml, b\.yaml\)"):
        find_config(Path("livre.yaml"))


def test_a_file_that_is_too_large_is_not_read_whole(write):
    assert "too large" in message_of(write(b"# " + b"x" * 2**21))


def test_keys_that_python_takes_as_one_are_duplicates(write):
    message = message_of(write(GOOD.replace("{background: 0, liver: 1, tumour: 2}", "\n  1: 0\n  true: 1")))
    assert "duplicate key 'labels.True', first on line 4" in message


def test_a_config_survives_its_own_json():
    config = config_from({"data": {"root": "x"}, "labels": {"background": 0, "liver": 1}, "modality": "MR"})
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert config.structure_labels.names == ("liver",)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("20m", 1200), ("8h", 28800), ("1h30m", 5400), ("0.5h", 1800), (" 1m5s ", 65)]
)
def test_budgets_are_read_as_people_write_them(text, seconds):
    assert budget_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", " ", "8", "h", "-1h", "1h-", "m30", "1d", "1,5h", "٣m٣", "nan"])
def test_a_budget_that_is_no_time_is_refused(text):
    with pytest.raises(ValueError, match="is not a time"):
        budget_seconds(text)


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_the_configs_that_come_with_medseg_are_valid_and_comment_every_key(path):
    assert load_config(path).name == path.stem
    keys = [line for line in path.read_text().splitlines() if re.match(r"\s*\w+:", line)]
    bare = [line for line in keys if "#" not in line and not re.match(r"(data|labels|plan|train|inference):$", line)]
    assert [line for line in bare if not re.match(r"\s+\w+: \d+$", line)] == []
