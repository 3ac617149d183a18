"""`medseg phantom`: a Decathlon dataset, whole or not at all."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.core.errors import ConfigError, OutputError
from medseg.data.phantom import make_phantom
from medseg.workflows import phantom as workflow
from medseg.workflows.phantom import write_msd

ALL = {"background": 0, "liver": 1, "tumour": 2, "spleen": 3, "kidney_left": 4, "kidney_right": 5}


def run(*arguments: str | Path) -> int:
    from medseg.cli.app import run

    return run(["phantom", *map(str, arguments)])


def files_of(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "msd"
    assert run("--layout", "msd", "--output", folder, "--cases", "2", "--test", "1", "--seed", "11") == 0
    return folder


def test_dataset_json_names_every_file(dataset: Path) -> None:
    content = json.loads((dataset / "dataset.json").read_text())
    named = {path for pair in content["training"] for path in pair.values()} | set(content["test"])
    named |= {path.replace("imagesTs", "labelsTs") for path in content["test"]}
    assert {f"./{f}" for f in files_of(dataset)} == named | {"./dataset.json", "./volumes.csv"}
    assert content["training"][0] == {
        "image": "./imagesTr/phantom_000.nii.gz",
        "label": "./labelsTr/phantom_000.nii.gz",
    }
    assert content["test"] == ["./imagesTs/phantom_002.nii.gz"]
    assert (content["numTraining"], content["numTest"]) == (2, 1)
    assert content["modality"] == {"0": "CT"}
    assert content["labels"] == {str(value): name for name, value in ALL.items()}
    assert content["tensorImageSize"] == "3D"


def test_nibabel_reads_back_what_was_made(dataset: Path) -> None:
    for part, case in (("Tr", 0), ("Tr", 1), ("Ts", 2)):
        phantom = make_phantom(11, case=case)
        image = nib.load(dataset / f"images{part}" / f"phantom_{case:03d}.nii.gz")
        label_map = nib.load(dataset / f"labels{part}" / f"phantom_{case:03d}.nii.gz")
        assert image.get_data_dtype() == np.int16
        assert label_map.get_data_dtype() == np.uint8
        assert label_map.header["intent_code"] == 1002
        assert image.header.get_xyzt_units()[0] == "mm"
        np.testing.assert_array_equal(np.asanyarray(image.dataobj), phantom.volume.data[0])
        np.testing.assert_array_equal(np.asanyarray(label_map.dataobj), phantom.label_map.data)
        for scan in (image, label_map):
            np.testing.assert_allclose(scan.affine, phantom.volume.geometry.affine, rtol=0, atol=1e-3)


def test_volumes_csv_holds_the_true_volumes(dataset: Path) -> None:
    with (dataset / "volumes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["structure"]) for r in rows] == [
        (f"phantom_{n:03d}", s) for n in range(3) for s in list(ALL)[1:]
    ]
    truth = make_phantom(11, case=2).true_volumes_ml
    for row in rows[-5:]:
        assert float(row["volume_ml"]) == pytest.approx(truth[row["structure"]], abs=6e-4)
    for row in rows:
        part = "Ts" if row["case"] == "phantom_002" else "Tr"
        label_map = nib.load(dataset / f"labels{part}" / f"{row['case']}.nii.gz")
        voxels = np.count_nonzero(np.asanyarray(label_map.dataobj) == ALL[row["structure"]])
        counted = voxels * abs(np.linalg.det(label_map.affine[:3, :3])) / 1000
        assert counted == pytest.approx(float(row["volume_ml"]), rel=0.08 if row["structure"] == "tumour" else 0.03)


def test_the_same_seed_writes_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    write_msd(tmp_path / "again", cases=2, test=1, seed=11)
    assert files_of(tmp_path / "again") == files_of(dataset)
    for name in files_of(dataset):
        assert (tmp_path / "again" / name).read_bytes() == (dataset / name).read_bytes(), name


def test_liver_writes_the_labels_of_task03_liver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--output", tmp_path / "liver", "--cases", "1", "--structures", "liver", "-q") == 0
    assert capsys.readouterr().out == ""
    content = json.loads((tmp_path / "liver" / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "liver", "2": "tumour"}
    assert content["test"] == []
    assert not (tmp_path / "liver" / "imagesTs").exists()
    values = np.unique(np.asanyarray(nib.load(tmp_path / "liver" / "labelsTr" / "phantom_000.nii.gz").dataobj))
    assert values.tolist() == [0, 1, 2]


def test_the_last_lines_say_what_lies_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--output", tmp_path / "new", "--cases", "1", "--seed", "4") == 0
    printed = capsys.readouterr()
    assert f"1 training and 0 test phantom CT scans (seed 4) in {tmp_path / 'new'}" in printed.out
    assert "1 liver, 2 tumour, 3 spleen, 4 kidney_left, 5 kidney_right" in printed.out
    assert str(tmp_path / "new" / "volumes.csv") in printed.out
    assert printed.err == ""  # no bar away from a terminal


def test_an_existing_folder_is_kept_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_msd(tmp_path / "d", cases=1, seed=1)
    before = (tmp_path / "d" / "volumes.csv").read_text()
    assert run("--output", tmp_path / "d", "--cases", "1", "--seed", "2") == 4
    assert f"{tmp_path / 'd'}: exists and is not empty" in capsys.readouterr().err
    assert (tmp_path / "d" / "volumes.csv").read_text() == before
    assert run("--output", tmp_path / "d", "--cases", "1", "--seed", "2", "--force") == 0
    assert (tmp_path / "d" / "volumes.csv").read_text() != before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_msd(tmp_path / "empty", cases=1)
    assert (tmp_path / "empty" / "dataset.json").is_file()


def test_force_never_replaces_what_is_no_phantom_dataset(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="replaces phantom datasets only"):
        write_msd(tmp_path, cases=1, force=True)
    (tmp_path / "dataset.json").write_text('{"name": "Liver"}')
    with pytest.raises(OutputError, match="replaces phantom datasets only"):
        write_msd(tmp_path, cases=1, force=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_or_the_working_folder_is_no_place_for_a_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        write_msd(tmp_path / "file", cases=1)
    monkeypatch.chdir(tmp_path)
    for here in (".", tmp_path, tmp_path.parent):
        with pytest.raises(OutputError, match="the folder you are in"):
            write_msd(here, cases=1, force=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cases", "0"], "--cases is 0; give a number of training scans from 1 to 1000"),
        (["--cases", "1001"], "--cases is 1001"),
        (["--cases", "999", "--test", "2"], "--test is 2; give 0 to 1"),
        (["--cases", "1", "--test", "-1"], "--test is -1"),
        (["--seed", "-3"], "--seed is -3"),
        (["--layout", "bids"], "--layout is 'bids'"),
        (["--structures", "heart"], "'heart' is none of all, liver"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run("--output", tmp_path / "new", *options) == ConfigError.exit_code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_crash_leaves_no_half_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_msd(tmp_path / "old", cases=1, seed=1)
    before = (tmp_path / "old" / "volumes.csv").read_text()

    def broken(*_: object, **__: object) -> str:
        raise RuntimeError("power cut")

    monkeypatch.setattr(workflow, "write_json", broken)
    for folder in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(RuntimeError, match="power cut"):
            write_msd(folder, cases=1, seed=2, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "volumes.csv").read_text() == before


def test_progress_counts_every_case(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    dataset = write_msd(tmp_path / "d", cases=2, test=1, progress=lambda stage, done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert dataset.training == ("phantom_000", "phantom_001")
    assert dataset.test == ("phantom_002",)
    assert dataset.true_volumes_ml["phantom_002"].keys() == ALL.keys() - {"background"}
