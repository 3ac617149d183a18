"""From a dataset to a model folder: what a finished run holds, and that its figures are those of infer and evaluate."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import medseg
from medseg.core.plan import Plan
from medseg.workflows.train import train
from tests.data.bad_dataset import KINDS, Kind
from tests.data.tiny_dataset import LABELS, config, pair, save, tiny
from tests.workflows.train_command import command, missing_hints

pytestmark = pytest.mark.usefixtures("one_thread")
GOOD = {name: kind for name, kind in KINDS.items() if kind.expected != "error"}


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


def test_a_structures_own_code_and_colour_go_from_the_config_into_every_output(root, tmp_path, no_pictures):
    liver = {"value": 1, "snomed": "78961009", "colour": "#010203"}
    content = config(root) | {"labels": {"background": 0, "liver": liver, "tumour": 2}}
    model = train(content, output=tmp_path / "run").model_folder
    assert json.loads((model / "model.json").read_text())["structures"] == {
        "liver": {"snomed": "78961009", "colour": "#010203"}
    }
    scan = root / "imagesTr" / "case_00.nii.gz"
    found = medseg.infer(scan, model=model, output=tmp_path / "out", also=["stats", "colour-tables", "seg-nrrd"])
    assert found.label_map.labels.structures[0].colour == "#010203"
    assert json.loads(found.outputs["stats"][0].read_text())["structures"][0]["snomed"] == "78961009"
    assert '"liver"' in found.outputs["colour-tables"][0].read_text()
    assert "1 liver 1 2 3 255" in found.outputs["colour-tables"][1].read_text()
    assert b"SCT^78961009^Spleen" in found.outputs["seg-nrrd"][0].read_bytes()


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
    scores = (tmp_path / "run" / "fold_0" / "validation" / "scores.csv").read_text()
    assert {row["case"] for row in csv.DictReader(scores.splitlines())} == set(held_out)


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
    result = train(config(root, train={"fold": "final"}), output=tmp_path / "run")
    assert (result.model_folder / "fold_final.safetensors").is_file()


def test_a_fold_may_be_added_to_a_finished_run(root, tmp_path, no_pictures):
    train(config(root, train={"fold": "final"}), output=tmp_path / "run")
    before = (tmp_path / "run" / "plan.json").read_bytes()
    result = train(config(root, train={"fold": 1}), output=tmp_path / "run", resume=True)
    assert sorted(w.stem for w in result.model_folder.glob("*.safetensors")) == ["fold_1", "fold_final"]
    assert (tmp_path / "run" / "plan.json").read_bytes() == before
    assert set(result.validation) == {"fold_1"}


def test_settings_on_the_command_line_overrule_the_config(root, tmp_path, no_pictures):
    assert command(tmp_path, config(root), "--set", "train.steps=1", "--set", "train.seed=4", "--fold", "1", "-q") == 0
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert (plan["steps"], plan["seed"]) == (1, 4)
    assert (tmp_path / "run" / "fold_1").is_dir()
