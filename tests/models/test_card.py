"""The model folder knows itself: what model.json and README.md say of a training, and that older folders still load."""

import json
import re

import pytest
import yaml

from medseg.core.files import sha256_of
from medseg.models.bundle import load_model
from medseg.models.card import model_readme
from medseg.models.model_json import read_card
from medseg.workflows.train import train
from tests.data.tiny_dataset import config, tiny
from tests.models.tiny_model import tiny_model


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("card")
    content = config(tiny(place / "data").finish(), train={"steps": 3}) | {"licence": "CC-BY-4.0"}
    return train(content, output=place / "run")


def test_the_model_folder_says_how_it_was_made(trained):
    card = read_card(trained.model_folder)
    assert card.licence == "CC-BY-4.0"
    told = card.training["fold_0"]
    assert (told["cases"], told["validation_cases"], told["steps"]) == (2, 2, 3)
    assert 0 < told["seconds"] < trained.seconds
    assert "CPU threads" in told["machine"]
    assert told["splits_sha256"] == sha256_of(trained.run_folder / "splits.json")
    assert card.weights["fold_0.safetensors"] == sha256_of(trained.model_folder / "fold_0.safetensors")
    assert card.fingerprint.cases == 4
    assert card.validation["fold_0"]["dice"] == pytest.approx(trained.dice)
    assert set(card.validation["fold_0"]["dice_interval"]) == {"liver", "tumour"}


def test_the_readme_says_use_limits_training_validation_and_citation(trained):
    text = (trained.model_folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "CC-BY-4.0"
    for heading in ("Intended use and limits", "Training", "Validation, fold 0", "Citation"):
        assert f"\n## {heading}\n" in text
    assert "| licence | CC-BY-4.0 |" in text
    assert re.search(r"\| fold 0 \| 2 cases, \d\.\d min on ", text)  # a busy machine takes longer
    assert "medseg infer scan.nii.gz --model THIS_FOLDER" in text
    assert f"| liver | {trained.dice['liver']:.4f} |" in text
    assert "case_0" not in text  # an id may tell who it was


def test_a_name_is_text_also_in_the_readme(tmp_path):
    card = read_card(tiny_model(tmp_path / "model"))
    text = model_readme(card.model_copy(update={"name": "a|b <script>", "licence": 'x: "y"'}))
    assert "# a\\|b \\<script\\>" in text
    assert yaml.safe_load(text.split("---")[1])["license"] == 'x: "y"'


def test_a_model_folder_of_plan_version_1_still_loads(tmp_path):
    """What version 2 added is absent there: plan fields, and how it was trained."""
    folder = tiny_model(tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    content["plan"]["format_version"] = 1
    for key in ("accumulate", "processes", "clip", "compile"):
        del content["plan"][key]
    content.pop("training", None)
    content.pop("licence", None)
    (folder / "model.json").write_text(json.dumps(content))
    model = load_model(folder)
    assert (model.plan.patches_per_step, model.plan.clip, model.plan.compile) == (model.plan.batch_size, 12.0, False)
    assert "not stated" in model_readme(model.card)
