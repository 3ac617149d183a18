"""Trainings on regions, on ignored voxels and on structures that some cases do not annotate, from config to label map."""

import json
import signal

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from medseg.core.labels import Labels
from medseg.workflows.infer import infer
from medseg.workflows.train import train
from tests.data.tiny_dataset import config, tiny
from tests.workflows.train_command import command, stop_at

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")
REGIONS = {"whole": ["liver", "tumour"], "tumour": ["tumour"]}


def stored_label(made, n):
    return np.asanyarray(nib.load(made.label(n)).dataobj)


@pytest.fixture
def difficult(tmp_path):
    """Half of each second case is to be ignored; the others annotate the tumour or the liver alone."""
    made = tiny(tmp_path / "data", cases=6)
    rows = ["case,annotated"]
    for n in range(6):
        label = stored_label(made, n).copy()
        if n % 2:
            label[:, :, 8:] = 255
        else:
            label[label == (1 if n == 2 else 2)] = 0
            rows.append(f"case_{n:02d},{'tumour' if n == 2 else 'liver'}")
        nib.save(nib.Nifti1Image(label, nib.load(made.label(n)).affine), made.label(n))
    made.finish()
    (tmp_path / "data" / "annotated.csv").write_text("\n".join(rows) + "\n")
    return made


def content_of(made, regions, steps=6):
    root = made.root
    content = config(root, data={"annotated": str(root / "annotated.csv")}, train={"steps": steps}, ignore=255)
    return {**content, "regions": regions or {}}


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["softmax", "regions"])
def test_a_training_on_all_of_it_is_validated_saved_and_inferred(difficult, tmp_path, regions):
    result = train(content_of(difficult, regions), output=tmp_path / "run")
    assert set(result.dice) == {"liver", "tumour", *(["whole"] if regions else [])}
    card = json.loads((result.model_folder / "model.json").read_text())
    assert card["labels"] == {"background": 0, "liver": 1, "tumour": 2}
    assert {r["name"]: r["structures"] for r in card["plan"]["regions"]} == (regions or {})
    assert card["plan"]["ignore"] == 255
    found = infer(difficult.image(1), model=result.model_folder, output=tmp_path / "out", device="cpu")
    assert set(np.unique(found.label_map.data)) <= {0, 1, 2}
    assert found.labels.names == ("liver", "tumour")


@pytest.mark.parametrize("regions", [None, REGIONS], ids=["softmax", "regions"])
def test_a_stopped_run_goes_on_to_the_same_bits(difficult, tmp_path, monkeypatch, capsys, regions):
    content = content_of(difficult, regions)
    whole = train(content, output=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr("medseg.cli.console.silent", stop_at(3, signal.SIGTERM))
        assert command(tmp_path, content, "-q") == 143
    assert command(tmp_path, content, "-q", "--resume") == 0
    resumed = load_file(tmp_path / "run" / "model" / "fold_0.safetensors")
    for key, value in load_file(whole.model_folder / "fold_0.safetensors").items():
        assert torch.equal(resumed[key], value)


def test_validation_scores_neither_ignored_voxels_nor_what_nobody_annotated(difficult, tmp_path):
    result = train(content_of(difficult, REGIONS), output=tmp_path / "run")
    (report,) = result.validation.values()
    scored = {(s.case, s.structure): s.value for s in report.scores if s.metric == "dice"}
    held_out = {case.id for case in report.cases}
    known = {n: ["liver", "tumour", "whole"] if n % 2 else ["tumour"] if n == 2 else ["liver"] for n in range(6)}
    assert set(scored) == {(f"case_{n:02d}", s) for n in range(6) if f"case_{n:02d}" in held_out for s in known[n]}
    for (case, structure), value in scored.items():
        n = int(case[-2:])
        reference = stored_label(difficult, n)
        file = result.run_folder / "fold_0" / "validation" / f"{case}_seg.nii.gz"
        predicted = np.asanyarray(nib.load(file).dataobj)
        values = {"liver": [1], "tumour": [2], "whole": [1, 2]}[structure]
        a, b = (np.isin(x, values) & (reference != 255) for x in (predicted, reference))
        assert value == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()), nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("regions", [None, {"liver": ["liver"], "tumour": ["tumour"]}], ids=["softmax", "regions"])
def test_cases_that_annotate_one_structure_each_teach_both(tmp_path, regions):
    made = tiny(tmp_path / "data", cases=8)
    whole = [stored_label(made, n).copy() for n in range(8)]
    rows = ["case,annotated"]
    for n in range(6):  # the last two, whole, are what is measured
        label = np.where(whole[n] == 2 - n % 2, 0, whole[n]).astype(np.uint8)
        nib.save(nib.Nifti1Image(label, nib.load(made.label(n)).affine), made.label(n))
        rows.append(f"case_{n:02d},{'tumour' if n % 2 else 'liver'}")
    made.finish()
    (tmp_path / "annotated.csv").write_text("\n".join(rows) + "\n")
    content = config(
        made.root,
        data={"annotated": str(tmp_path / "annotated.csv")},
        train={"steps": 150, "fold": "final", "learning_rate": 0.02},
    )
    result = train({**content, "regions": regions or {}}, output=tmp_path / "run")
    names = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 2}).names
    for n in (0, 1):
        found = infer(made.image(n), model=result.model_folder, output=tmp_path / f"out{n}", device="cpu")
        for value, name in enumerate(names, 1):
            a, b = found.label_map.data == value, whole[n] == value
            dice = 2 * (a & b).sum() / (a.sum() + b.sum())
            assert dice > 0.7, (n, name, dice)
