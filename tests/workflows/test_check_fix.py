"""`medseg check --fix`: what can be put right is, by the rules stated; the rest is left out and said; originals stay."""

import csv
import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from medseg.cli.app import run
from medseg.core.errors import DataError, OutputError
from medseg.core.files import sha256_of
from medseg.workflows.check import check
from tests.data.bad_dataset import KINDS
from tests.data.tiny_dataset import AFFINE, SHAPE, config, pair, save, tiny
from tests.workflows.train_command import tree, written


def voxels(path):
    return np.asanyarray(nib.load(path).dataobj)


def outcomes(folder):
    return {one["id"]: one for one in json.loads((folder / "fix.json").read_text())["cases"]}


def shifted(voxel_count):
    """AFFINE, moved by so many voxels along i."""
    affine = AFFINE.copy()
    affine[:3, 3] += voxel_count * affine[:3, 0]
    return affine


@pytest.fixture
def fixed(tmp_path):
    """The copy of a dataset in which one case each is wrong in one way, and the hashes of its files before."""
    made = tiny(tmp_path / "data", 10)
    image = pair(0)[0].astype(np.float32)
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    save(made.image(0), image)
    image = pair(1)[0].astype(np.float32)
    image[tuple(np.argwhere(pair(1)[1] == 1)[0])] = np.nan
    save(made.image(1), image)
    save(made.label(2), pair(2)[1].astype(np.float32))
    save(made.label(3), pair(3)[1].astype(np.float32) - np.float32(0.009) * (pair(3)[1] == 2))
    save(made.label(4), pair(4)[1].astype(np.float32) + np.float32(0.02) * (pair(4)[1] == 2))
    save(made.label(5), pair(5)[1], shifted(0.45))
    save(made.label(6), pair(6)[1], shifted(0.55))
    shutil.copy(made.image(7), made.image(8))
    path = written(tmp_path, config(made.finish()))
    before = {file: sha256_of(file) for file in made.root.rglob("*") if file.is_file()}
    assert run(["check", "--config", str(path), "--fix", str(tmp_path / "new"), "-q"]) == 1  # some are left out
    assert {file: sha256_of(file) for file in before} == before
    return made, tmp_path / "new"


def test_each_case_becomes_what_the_rules_say(fixed):
    _, new = fixed
    assert {case: one["outcome"] for case, one in outcomes(new).items()} == {
        "case_00": "changed",
        "case_01": "left out",
        "case_02": "changed",
        "case_03": "changed",
        "case_04": "left out",
        "case_05": "changed",
        "case_06": "left out",
        "case_07": "unchanged",
        "case_08": "dropped",
        "case_09": "unchanged",
    }
    why = {case: " ".join(one["why"]) for case, one in outcomes(new).items()}
    assert "1 NaN or infinite voxel(s) lie inside structures" in why["case_01"]
    assert "at most 0.5 are put right" in why["case_06"]
    assert "the label is another" in why["case_08"]
    assert sorted(path.name for path in (new / "labels").iterdir()) == [
        f"case_{n:02d}.nii.gz" for n in (0, 2, 3, 5, 7, 9)
    ]


def test_voxels_are_right_and_untouched_files_byte_for_byte(fixed):
    made, new = fixed
    expected = pair(0)[0].astype(np.float32)
    expected[0, 0, :3] = np.delete(expected.ravel(), [0, 1, 2]).min()
    np.testing.assert_array_equal(voxels(new / "images" / "case_00.nii.gz"), expected)
    for n in (2, 3, 5):
        label = nib.load(new / "labels" / f"case_{n:02d}.nii.gz")
        assert label.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asanyarray(label.dataobj), pair(n)[1])
        np.testing.assert_allclose(label.affine, nib.load(made.image(n)).affine, atol=1e-5)
    for name in ("images/case_07.nii.gz", "labels/case_07.nii.gz", "images/case_02.nii.gz"):
        original = made.root / name.replace("images", "imagesTr").replace("labels", "labelsTr")
        assert (new / name).read_bytes() == original.read_bytes()
    for one in outcomes(new).values():
        for file in one["files"]:
            assert sha256_of(new / file["to"]) == file["sha256_after"]
            assert sha256_of(Path(file["from"])) == file["sha256_before"]


def test_the_copy_is_fit_for_training_as_its_data_block_names_it(fixed, tmp_path, capsys):
    made, new = fixed
    content = config(made.root)
    path = written(tmp_path, content)
    assert run(["check", "--config", str(path), "--fix", str(tmp_path / "again")]) == 1
    out = capsys.readouterr().out
    content["data"] = yaml.safe_load(out[out.index("data:\n") :])["data"]
    assert content["data"] == {"layout": "csv", "table": str(tmp_path / "again" / "cases.csv")}
    assert check(content).problem == ""
    assert (new / "cases.csv").read_bytes() == (tmp_path / "again" / "cases.csv").read_bytes()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.expected == "error"])
def test_no_kind_of_bad_dataset_gives_a_copy_that_fails_the_check(name, tmp_path, capsys):
    kind = KINDS[name]
    content = config(kind.make(tmp_path / "data"), **kind.sections)
    path = written(tmp_path, content)
    before = tree(tmp_path)
    code = run(["check", "--config", str(path), "--fix", str(tmp_path / "new")])
    assert "Traceback" not in capsys.readouterr().err
    if code not in (0, 1):
        assert code in (2, 3)
        assert tree(tmp_path) == before
        return
    content["data"] = {"layout": "csv", "table": str(tmp_path / "new" / "cases.csv")}
    assert check(content).problem == ""


def test_a_flip_is_never_put_right(tmp_path):
    """A thin volume, stored in one slice: turned round, it lies within a voxel of itself."""
    made = tiny(tmp_path / "data")
    for n in range(4):
        save(made.image(n), pair(n)[0][:, :, 8:9])
        save(made.label(n), pair(n)[1][:, :, 8:9])
    mirrored = AFFINE @ np.diag([-1.0, 1, 1, 1])
    mirrored[:3, 3] = (AFFINE @ [SHAPE[0] - 1, 0, 0, 1])[:3]  # the same box, left and right exchanged
    moved = mirrored.copy()
    moved[:3, 3] += 0.3 * AFFINE[:3, 0]
    save(made.label(2), pair(2)[1][::-1, :, 8:9], moved)
    new = tmp_path / "new"
    check(config(made.finish()), fix=new)
    assert (
        outcomes(new)["case_02"]["outcome"] == "changed"
    )  # storage order and affine agree: the same place in the world
    label, image = (nib.load(new / kind / "case_02.nii.gz") for kind in ("labels", "images"))
    np.testing.assert_allclose(label.affine, image.affine, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(label.dataobj), pair(2)[1][:, :, 8:9])
    save(made.label(2), pair(2)[1][:, :, 8:9], np.diag([-1.0, 1, 1, 1]) @ AFFINE)
    check(config(made.root), fix=tmp_path / "flip")
    assert outcomes(tmp_path / "flip")["case_02"]["outcome"] == "left out"


def test_parts_of_one_scan_are_one_patient_in_the_copy(tmp_path):
    made = tiny(tmp_path / "data")
    image, label = pair(1)
    save(made.image(3), image[:, :, 2:-2], shifted(100))
    save(made.label(3), label[:, :, 2:-2].astype(np.float32), shifted(100))
    assert check(config(made.finish()), fix=tmp_path / "new").fixed
    with (tmp_path / "new" / "cases.csv").open() as file:
        patients = {row["case"]: row["patient"] for row in csv.DictReader(file)}
    assert patients == {"case_00": "case_00", "case_01": "case_01", "case_02": "case_02", "case_03": "case_01"}


def test_values_that_the_labels_leave_out_become_background_and_it_is_said(tmp_path):
    made = tiny(tmp_path / "data")
    found = check(config(made.finish(), labels={"background": 0, "liver": 1}), fix=tmp_path / "new")
    assert found.exit_code == 0
    assert "label values 2, which labels leave out" in found.fixed.lines[0]
    np.testing.assert_array_equal(voxels(tmp_path / "new" / "labels" / "case_00.nii.gz"), pair(0)[1] == 1)


def test_several_channels_become_a_file_each(tmp_path):
    made = tiny(tmp_path / "data")
    for n in range(4):
        save(made.image(n), np.stack([pair(n)[0], pair(n + 4)[0]], -1))
    names = made.finish() / "dataset.json"
    names.write_text(json.dumps(json.loads(names.read_text()) | {"modality": {"0": "T2", "1": "ADC"}}))
    save(made.label(0), pair(0)[1].astype(np.float32))
    check(config(made.root), fix=tmp_path / "new")
    for channel, n in (("T2", 0), ("ADC", 4)):
        np.testing.assert_array_equal(voxels(tmp_path / "new" / "images" / f"case_00_{channel}.nii.gz"), pair(n)[0])


def test_a_folder_that_holds_something_is_refused_before_anything_is_read(tmp_path):
    made = tiny(tmp_path / "data")
    made.finish()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        check(config(made.root), fix=tmp_path / "mine", progress=lambda *what: pytest.fail("it was read"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    (tmp_path / "empty").mkdir()
    assert check(config(made.root), fix=tmp_path / "empty").exit_code == 0


def test_where_nothing_can_be_kept_nothing_is_written(tmp_path):
    made = tiny(tmp_path / "data")
    for n in range(4):
        save(made.label(n), pair(n)[1], shifted(5))
    made.finish()
    before = tree(tmp_path)
    with pytest.raises(DataError, match="none of 4 cases can be put right"):
        check(config(made.root), fix=tmp_path / "new")
    assert tree(tmp_path) == before


def test_channels_on_other_grids_are_written_as_they_were_laid_on_the_first(tmp_path):
    made = tiny(tmp_path / "data")
    made.finish()
    for n in range(4):
        save(made.root / "other" / f"case_{n:02d}.nii.gz", pair(n + 4)[0], shifted(1))
    content = config(made.root, layout="folder")
    channels = {"T2": str(made.root / "imagesTr"), "ADC": str(made.root / "other")}
    content["data"] |= {"images": channels, "channel_grids": "resample"}
    assert check(content, fix=tmp_path / "new").exit_code == 0
    images = [nib.load(tmp_path / "new" / "images" / f"case_00_{name}.nii.gz") for name in channels]
    np.testing.assert_allclose(images[0].affine, images[1].affine, atol=1e-5)
    np.testing.assert_allclose(np.asanyarray(images[1].dataobj)[1:], pair(4)[0][:-1], atol=0.01)  # one voxel along i
