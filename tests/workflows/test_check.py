"""`medseg check` on every kind of dataset and config of the policy, and what it says beyond it."""

import json
import re

import nibabel as nib
import numpy as np
import pytest

from medseg.cli.app import run
from medseg.core.yaml import parse_yaml
from medseg.workflows.check import check
from medseg.workflows.train import train
from tests.core.bad_config import ACCEPTED, BAD, GOOD
from tests.data.bad_dataset import KINDS, Kind
from tests.data.tiny_dataset import AFFINE, SHAPE, config, pair, save, tiny
from tests.workflows.train_command import missing_hints, tree, written


@pytest.mark.parametrize("layout", ["msd", "folder"])
@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS)
def test_every_kind_of_dataset_is_judged_as_the_policy_says(name: str, kind: Kind, layout, tmp_path, capsys):
    content = config(kind.make(tmp_path / "data"), layout=layout, **kind.sections)
    path = written(tmp_path, content)
    before = tree(tmp_path)
    code = run(["check", "--config", str(path)])
    out, err = capsys.readouterr()
    assert tree(tmp_path) == before
    assert "Traceback" not in err
    if kind.expected == "error":
        assert code == 3
        assert err.count("\n") == 1
        assert err.startswith("medseg: error: ")
        assert not missing_hints(err.replace(str(tmp_path), ""), kind.hint), err
        assert "not fit for training" in out
    else:
        assert (code, err) == (0, "")
        assert out.endswith(": fit for training\n")
        assert kind.expected == "ok" or not missing_hints(" ".join(out.replace("│", " ").split()), kind.hint), out


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.id)
def test_every_bad_config_is_refused_with_its_cause(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path / "data").finish()
    (tmp_path / "config.yaml").write_bytes(row.content)
    before = tree(tmp_path)
    code = run(["check", "--config", "config.yaml"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("medseg: error: ")
    assert err.count("\n") == 1
    for hint in row.hints:
        assert re.search(hint, err, re.IGNORECASE), err
    assert tree(tmp_path) == before


@pytest.mark.parametrize("row", ACCEPTED, ids=lambda row: row.id)
def test_every_odd_but_valid_config_is_taken(row, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = re.search(rb"root: ('?)(.+?)\1, ", row.content)
    assert found
    made = tiny(tmp_path / found[2].decode())
    made.finish()
    if row.id == "y-labels-gap":  # the tumour is nowhere
        for n in range(4):
            save(made.label(n), np.minimum(pair(n)[1], 1))
        names = made.root / "dataset.json"
        names.write_text(names.read_text().replace('"2": "tumour"', '"9": "tumour"'))
    (tmp_path / "config.yaml").write_bytes(row.content)
    assert run(["check", "--config", "config.yaml"]) == 0
    assert ("'tumour' is in no case" in capsys.readouterr().out) == (row.id == "y-labels-gap")


def codes(found, severity="error"):
    return {one.code for one in found.findings if one.severity == severity}


def test_everything_wrong_is_told_at_once(tmp_path):
    made = tiny(tmp_path / "data", 6)
    image, label = pair(0)
    broken = image.astype(np.float32)
    broken[3:5, 4, 5] = np.nan
    save(made.image(0), broken)
    other = label.astype(np.int16)
    other[0, 0, 0] = -1
    save(made.label(0), other)
    moved = AFFINE.copy()
    moved[0, 3] += 10
    save(made.label(1), pair(1)[1], moved)
    made.image(2).write_bytes(made.image(3).read_bytes())
    made.label(4).write_bytes(b"nothing")
    found = check(config(made.finish()))
    assert codes(found) == {"not-finite", "label-negative", "affine", "identical-images", "label-unreadable"}
    words = " ".join(one.message for one in found.findings)
    assert "2 NaN" in words
    assert "i 3-4, j 4, k 5" in words
    assert "10 mm away (10, 0, 0)" in words
    assert [one.id for one in found.cases if not one.usable] == ["case_00", "case_01", "case_02", "case_03", "case_04"]


def test_without_labels_the_block_to_paste_makes_the_config_whole(tmp_path, capsys):
    root = tiny(tmp_path / "data").finish()
    content = config(root)
    del content["labels"]
    path = written(tmp_path, content)
    assert run(["check", "--config", str(path)]) == 2
    out = capsys.readouterr().out
    block = out[out.index("labels:\n") :].split("\n\n")[0]
    assert block == "labels:\n  background: 0\n  liver: 1\n  tumour: 2"
    path.write_text(path.read_text() + block + "\n")
    assert run(["check", "--config", str(path)]) == 0


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "liver": 1}, {"background": 0, "liver": 1, "structure_2": 2, "structure_7": 7}),
        ({"liver": 1, "tumour": 2}, {"background": 0, "liver": 1, "tumour": 2, "structure_7": 7}),
        (None, {"background": 0, "structure_1": 1, "structure_2": 2, "structure_7": 7}),
        ("nonsense", {"background": 0, "structure_1": 1, "structure_2": 2, "structure_7": 7}),
        ({"background": 0, "a": 1, "b": 1}, {"background": 0, "structure_1": 1, "structure_2": 2, "structure_7": 7}),
    ],
)
def test_labels_that_do_not_fit_are_completed_from_the_values_found(tmp_path, labels, expected):
    made = tiny(tmp_path / "data")
    label = pair(1)[1]
    label[0, 0, 0] = 7
    save(made.label(1), label)
    made.finish()
    (tmp_path / "data" / "dataset.json").unlink()
    content = config(made.root, layout="folder", labels=labels)
    found = check(content)
    (tmp_path / "block.yaml").write_text(found.labels_block)
    assert parse_yaml(tmp_path / "block.yaml").content == {"labels": expected}


def test_names_come_from_a_table_beside_the_dataset_that_names_every_value(tmp_path):
    root = tiny(tmp_path / "data").finish()
    (root / "dataset.json").unlink()
    (root / "a.json").write_text(json.dumps({"total": {"1": "spleen"}}))
    (root / "b.json").write_text(json.dumps({"part": {"1": "no", "2": 'left "kidney": x'}}))
    content = config(root, layout="folder", labels=None)
    found = check(content)
    assert found.labels == {"background": 0, "no": 1, 'left "kidney": x': 2}
    assert "b.json (part)" in found.names_from
    (tmp_path / "block.yaml").write_text(found.labels_block)
    assert parse_yaml(tmp_path / "block.yaml").content == {"labels": found.labels}


def test_json_is_complete_and_nothing_else_is_on_stdout(tmp_path, capsys):
    made = tiny(tmp_path / "data")
    save(made.label(), np.zeros(SHAPE, np.uint8))
    path = written(tmp_path, config(made.finish()))
    assert run(["check", "--config", str(path), "--json", "--output", str(tmp_path / "found.json")]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == ""
    assert json.loads((tmp_path / "found.json").read_text()) == found
    assert found["format"] == 1
    assert found["exit_code"] == 0
    assert found["counts"]["warning"] == 1
    assert {
        "code": "empty-label",
        "severity": "warning",
        "cases": ["case_00"],
        "message": "the label holds no structure",
    } in (found["findings"])
    first = found["cases"][1]
    assert first["shape"] == list(SHAPE)
    voxels = int((pair(1)[1] == 1).sum())
    assert first["volumes_ml"]["liver"] == pytest.approx(voxels * 1.5 * 1.25 * 2 / 1000, rel=1e-4)


def test_storage_order_alone_is_a_remark(tmp_path):
    root = KINDS["t-label-stored-flipped"].make(tmp_path / "data")
    found = check(config(root))
    (remark,) = [one for one in found.findings if one.code == "storage-order"]
    assert remark.severity == "info"
    assert len(remark.cases) == 4


def cut(made, n, source, box, offset_mm):
    """Case ``n`` becomes ``box`` of case ``source``, put elsewhere in the world."""
    affine = AFFINE.copy()
    affine[:3, 3] += offset_mm
    image, label = pair(source)
    save(made.image(n), image[box], affine)
    save(made.label(n), label[box], affine)


def test_a_part_of_another_scan_is_found_wherever_it_lies_and_never_split_from_it(tmp_path):
    made = tiny(tmp_path / "data", 8)
    cut(made, 5, 2, np.s_[2:-2, 1:-1, 3:-3], (246.0, 0, 0))
    path = written(tmp_path, config(made.finish(), train={"folds": 8, "fold": 0}))
    found = check(path)
    (leak,) = [one for one in found.findings if one.code == "same-scan"]
    assert leak.cases == ("case_02", "case_05")
    assert leak.severity == "warning"
    assert re.search(r"would lie in folds \d and \d, which would leak", leak.message)


def test_a_pair_on_the_wrong_sides_is_found(tmp_path):
    made = tiny(tmp_path / "data")
    for n in range(4):
        label = np.zeros(SHAPE, np.uint8)
        label[3:6, 8:12, 5:9], label[18:21, 8:12, 5:9] = (1, 2) if n != 2 else (2, 1)  # x grows to the right: RAS
        save(made.label(n), label)
    made.finish()
    content = config(made.root, layout="folder", labels={"background": 0, "kidney_left": 1, "kidney_right": 2})
    (swapped,) = [one for one in check(content).findings if one.code == "sides-swapped"]
    assert swapped.cases == ("case_02",)


def test_what_lies_far_from_the_rest_is_named(tmp_path):
    made = tiny(tmp_path / "data", 10)
    label = pair(3)[1]
    label[label == 1] = 0
    label[0, 0, 0] = 1  # a liver of one voxel
    save(made.label(3), label)
    save(made.image(6), pair(6)[0] + 1024)  # no Hounsfield units
    stretched = AFFINE @ np.diag([1, 1, 2.0, 1])
    save(made.image(8), pair(8)[0], stretched)
    save(made.label(8), pair(8)[1], stretched)
    odd = {one.code: one for one in check(config(made.finish())).findings if one.code.startswith("outlier")}
    assert odd["outlier-volume"].cases == ("case_03",)
    assert odd["outlier-intensity"].cases == ("case_06",)
    assert odd["outlier-spacing"].cases == ("case_08",)
    assert "case_08 4 (z " in odd["outlier-spacing"].message


def test_the_check_needs_no_labels_where_structures_have_names(tmp_path):
    made = tiny(tmp_path / "data")
    made.finish()
    for n in range(4):
        folder = made.root / "masks" / f"case_{n:02d}"
        folder.mkdir(parents=True)
        for value, name in ((1, "liver"), (2, "tumour")):
            nib.save(nib.Nifti1Image((pair(n)[1] == value).astype(np.uint8), AFFINE), folder / f"{name}.nii.gz")
    content = config(made.root, layout="folder", labels=None)
    content["data"]["labels"] = str(made.root / "masks")
    found = check(content)
    assert found.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert codes(found) == {"labels"}


def test_the_schema_of_a_good_config_names_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(GOOD)
    found = check("config.yaml")
    assert codes(found) == {"layout"}
    assert "does not exist" in found.problem


def test_files_that_are_missing_do_not_hide_the_rest(tmp_path):
    made = tiny(tmp_path / "data", 7)
    for n in (0, 1):
        made.label(n).unlink()
    made.image(2).unlink()
    save(made.label(3), np.full(SHAPE, 9, np.uint8))
    for layout in ("msd", "folder"):
        found = check(config(made.finish(), layout=layout))
        lost = {case: one.message for one in found.errors if one.code == "layout" for case in one.cases}
        assert set(lost) == {"case_00", "case_01", "case_02"}
        assert "label missing" in lost["case_00"]
        assert "image missing" in lost["case_02"]
        assert [one.cases for one in found.errors if one.code == "label-values"] == [("case_03",)]
        assert [one.id for one in found.cases if one.usable] == ["case_04", "case_05", "case_06"]
    copied = check(config(made.root), fix=tmp_path / "new").fixed
    assert copied.left_out == 4


def test_names_that_clash_do_not_hide_the_rest(tmp_path):
    made = tiny(tmp_path / "data", 4)
    made.cases[1] = dict(made.cases[0])
    save(made.label(3), np.full(SHAPE, 9, np.uint8))
    found = check(config(made.finish()))
    assert codes(found) == {"layout", "label-values"}
    assert [one.id for one in found.cases] == ["case_02", "case_03"]


def test_training_says_what_is_one_scan_and_keeps_it_in_one_fold(tmp_path):
    made = tiny(tmp_path / "data", 5)
    cut(made, 4, 1, np.s_[:, :, 2:-2], (246.0, 0, 0))
    said = []
    train(config(made.finish(), train={"folds": 4, "fold": 0}), output=tmp_path / "run", say=said.append)
    splits = json.loads((tmp_path / "run" / "splits.json").read_text())
    assert any("case_01, case_04 show one scan" in line for line in said)
    for split in splits["folds"] if isinstance(splits, dict) else splits:
        assert ("case_01" in split["train"]) == ("case_04" in split["train"])


def test_names_that_the_dataset_contradicts_are_replaced_by_its_own(tmp_path):
    root = tiny(tmp_path / "data").finish()
    found = check(config(root, labels={"background": 0, "liver": 2, "tumour": 1}))
    assert codes(found) == {"labels"}
    assert found.exit_code == 2
    assert found.labels_block == "labels:\n  background: 0\n  liver: 1\n  tumour: 2"
