"""Export to ONNX: what another program makes of it is what medseg makes of the model."""

import json

import numpy as np
import pytest

from medseg.cli.app import run
from medseg.core.errors import ConfigError, ModelError, OutputError
from medseg.core.files import sha256_of
from medseg.data.intensity import INTENSITIES
from medseg.models.exporters import onnx_network, recipe
from medseg.workflows.export import export
from medseg.workflows.infer import infer
from tests.models.tiny_model import tiny_model, tiny_plan, write_scan

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def hippocampus(real_data):
    return sorted((real_data / "Task04_Hippocampus" / "imagesTr").glob("hippocampus_*.nii.gz"))[0]


MIRRORED = {"inference": {"mirror": [0, 2]}}
LEFT_RIGHT = {"background": 0, "part_left": 1, "part_right": 7}
REGIONS = [{"name": "whole", "structures": ["front", "back"]}, {"name": "back", "structures": ["back"]}]
CASES = {
    "one fold": ({"spacing_mm": [1.3, 1.2, 1.1], "patch_size": [24, 24, 24]}, 1, {}),
    "folds, mirrored": ({"spacing_mm": [1.5, 1.5, 1.5], "patch_size": [16, 24, 16], "labels": LEFT_RIGHT}, 2, MIRRORED),
    "regions": (
        {"patch_size": [24, 24, 24], "labels": {"background": 0, "front": 1, "back": 2}, "regions": REGIONS},
        2,
        {},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_runner_without_medseg_finds_the_same_labels_on_a_real_scan(tmp_path, hippocampus, name):
    from tests.models.onnx_runner import run_exported

    changes, folds, card = CASES[name]
    model = tiny_model(tmp_path / "model", plan=tiny_plan(**changes), folds=folds, **card)
    exported = export(model, tmp_path / "onnx")
    assert exported.difference < 1e-4
    ours = infer(hippocampus, model=model, output=tmp_path / "out", device="cpu").label_map.data
    theirs = run_exported(tmp_path / "onnx", hippocampus)
    assert len(np.unique(ours)) == 3
    assert (ours == theirs).mean() >= 0.9998
    told = json.loads((tmp_path / "onnx" / "medseg.json").read_text())
    for network in told["networks"]:
        assert sha256_of(tmp_path / "onnx" / network["file"]) == network["sha256"]


@pytest.fixture
def fake_network(monkeypatch):
    """Networks that are written in no time: what stands around them is looked at."""

    def write(file, network, plan):
        file.write_bytes(b"onnx")
        return 0.0

    monkeypatch.setattr("medseg.workflows.export.write_onnx", write)


def test_the_recipe_says_what_the_plan_and_the_settings_say(tmp_path, fake_network, capsys):
    plan = tiny_plan(labels=LEFT_RIGHT)
    model = tiny_model(tmp_path / "model", plan=plan, folds=2, licence="CC-BY-4.0", **MIRRORED)
    assert run(["export", str(model), "--output", str(tmp_path / "onnx"), "--quiet"]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "onnx" / name) for name in ("medseg.json", "network_0.onnx", "network_1.onnx")
    ]
    told = json.loads((tmp_path / "onnx" / "medseg.json").read_text())
    assert told["licence"] == "CC-BY-4.0"
    assert told["preprocess"]["spacing_mm"] == [1.0, 1.5, 2.0]
    assert told["windows"]["mirror"] == [0, 2]
    assert told["windows"]["output_swaps"] == [0, 2, 1]
    assert told["output"]["outputs"] == ["background", "part_left", "part_right"]
    assert [one["value"] for one in told["labels"]] == [0, 1, 7]
    assert told["ensemble"] == "probabilities"


def test_the_recipe_has_words_for_every_scheme_of_intensities_or_refuses_it(tmp_path, fake_network, monkeypatch):
    assert set(recipe.INTENSITIES) == set(INTENSITIES)
    steps = ["z_score", {"name": "min_max", "lower": -1.0}]
    plan = tiny_plan(intensity=[{"scheme": {"name": "in_turn", "options": {"steps": steps}}}])
    model = tiny_model(tmp_path / "model", plan=plan)
    export(model, tmp_path / "onnx")
    how = " ".join(json.loads((tmp_path / "onnx" / "medseg.json").read_text())["how"])
    assert all(f" {name}: " in how for name in INTENSITIES)
    monkeypatch.delitem(recipe.INTENSITIES, "min_max")
    with pytest.raises(ModelError, match="no words for the intensities min_max"):
        export(model, tmp_path / "other")


def test_only_an_earlier_export_is_replaced(tmp_path, fake_network):
    model = tiny_model(tmp_path / "model")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="no export, so it stays"):
        export(model, tmp_path / "mine", force=True)
    export(model, tmp_path / "onnx")
    with pytest.raises(OutputError, match="--force"):
        export(model, tmp_path / "onnx")
    export(model, tmp_path / "onnx", force=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_what_cannot_be_exported_is_refused_by_name_and_nothing_is_left(tmp_path, monkeypatch, capsys):
    model = tiny_model(tmp_path / "model")
    arguments = ["export", str(model), "--output", str(tmp_path / "onnx")]
    assert run([*arguments, "--format", "tflite"]) == 2
    assert "onnx" in capsys.readouterr().err
    assert run(["export", str(tmp_path / "nothing"), "--output", str(tmp_path / "onnx")]) == 3
    monkeypatch.setattr(onnx_network, "MOST_BYTES", 100)
    assert run(arguments) == 3
    assert "one ONNX file holds 100 at most" in capsys.readouterr().err
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'medseg\[export\]'"):
        export(model, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_logits_that_differ_are_noticed(tmp_path, monkeypatch):
    model = tiny_model(tmp_path / "model")
    write_scan(tmp_path / "scan.nii.gz")
    monkeypatch.setattr(onnx_network, "LARGEST_DIFFERENCE", -1.0)
    assert run(["export", str(model), "--output", str(tmp_path / "onnx")]) == 3
    assert not (tmp_path / "onnx").exists()
