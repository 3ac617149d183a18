import json
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from medseg.cli.evaluate import evaluate
from medseg.core.errors import MedsegError

pytestmark = pytest.mark.usefixtures("blank_figures")
AFFINE = np.diag([-1.5, -1.5, 3.0, 1.0])
AFFINE[:3, 3] = [60.0, 50.0, -100.0]

app = typer.Typer()
app.command()(evaluate)


@app.callback()
def _several_verbs() -> None:
    """Keeps ``evaluate`` a command of its own."""


class Done:
    """Exit code, stdout and stderr (with the message of the error, as cli.app prints it) of one command."""

    def __init__(self, *arguments):
        result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
        if isinstance(result.exception, MedsegError):
            self.code, self.message = result.exception.exit_code, str(result.exception)
        elif result.exception is None or isinstance(result.exception, SystemExit):
            self.code, self.message = result.exit_code, result.stderr
        else:
            raise result.exception
        self.out, self.err = result.stdout, result.stderr


def save(path, data, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def boxes(dtype=np.uint8):
    data = np.zeros((20, 18, 10), dtype)
    data[3:12, 4:14, 2:8] = 1
    data[5:8, 6:9, 3:6] = 2
    return data


def turned(data, affine, flips, permutation=(0, 1, 2)):
    """``data`` stored in another order at the same place, by nibabel."""
    ornt = np.array([[permutation.index(axis), -1 if flips[axis] else 1] for axis in range(3)])
    image = nib.Nifti1Image(data, affine).as_reoriented(ornt)
    return np.asarray(image.dataobj), image.affine


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"labels": {"background": 0, "liver": 1, "tumour": 2}}))
    return path


def shifted_affine(millimetres):
    affine = AFFINE.copy()
    affine[0, 3] += millimetres
    return affine


def _write_perfect(p, r):
    save(p / "x.nii.gz", boxes())
    save(r / "x.nii.gz", boxes())


def _write(kind: str, p: Path, r: Path) -> None:
    """The files of one kind of BADINPUTS.md, group evaluate, in folders ``p`` and ``r``."""
    save(p / "x.nii.gz", boxes())
    save(r / "x.nii.gz", boxes())
    data = boxes()
    rng = np.random.default_rng(0)
    empty, one_voxel = np.zeros_like(data), np.zeros_like(data)
    one_voxel[4, 5, 3] = 1
    predictions = {
        "e-stored-flipped": lambda: turned(data, AFFINE, (True, False, True)),
        "e-stored-permuted": lambda: turned(data, AFFINE, (False, True, False), (2, 0, 1)),
        "e-header-mirrored": lambda: (data, np.diag([-1.0, 1.0, 1.0, 1.0]) @ AFFINE),
        "e-affine-shift": lambda: (data, shifted_affine(4.0)),
        "e-spacing": lambda: (data, AFFINE @ np.diag([1.0, 1.0, 1.2, 1.0])),
        "e-shape": lambda: (data[:-1], AFFINE),
        "e-4d-one": lambda: (data[..., None], AFFINE),
        "e-float": lambda: (data.astype(np.float32), AFFINE),
        "e-probabilities": lambda: (rng.random(data.shape, np.float32), AFFINE),
        "e-nan": lambda: (np.where(data == 2, np.nan, data).astype(np.float32), AFFINE),
        "e-negative": lambda: (data.astype(np.int16) - (data == 2) * np.int16(3), AFFINE),
        "e-empty-pred": lambda: (empty, AFFINE),
        "e-empty-both": lambda: (empty, AFFINE),
        "e-unknown-label": lambda: (np.where(data == 2, 5, data).astype(np.uint8), AFFINE),
        "e-one-voxel": lambda: (one_voxel, AFFINE),
    }
    if kind in predictions:
        save(p / "x.nii.gz", *predictions[kind]())
    if kind in ("e-empty-ref", "e-empty-both"):
        save(r / "x.nii.gz", empty)
    if kind == "e-missing-pred":
        save(r / "y.nii.gz", data)
    if kind == "e-missing-ref":
        save(p / "y.nii.gz", data)
    if kind == "e-truncated":
        raw = (p / "x.nii.gz").read_bytes()
        (p / "x.nii.gz").write_bytes(raw[: len(raw) // 2])
    if kind == "e-duplicate":
        save(p / "x.nii", data)
    if kind == "e-no-files":
        (p / "x.nii.gz").unlink()


GOOD = (
    "e-perfect", "e-stored-flipped", "e-stored-permuted", "e-4d-one", "e-float", "e-empty-pred", "e-empty-ref",
    "e-empty-both", "e-one-voxel",
)  # fmt: skip
BAD = {
    "e-header-mirrored": ["affine|orientation|geometry"],
    "e-affine-shift": ["affine|origin|geometry"],
    "e-spacing": ["affine|spacing|geometry"],
    "e-shape": ["shape|size"],
    "e-probabilities": ["integer|probab|value"],
    "e-nan": ["nan|finite"],
    "e-negative": ["-1|negative|label"],
    "e-unknown-label": ["label", "5"],
    "e-missing-pred": ["missing|no prediction"],
    "e-missing-ref": ["missing|no reference"],
    "e-truncated": ["truncat|corrupt|incomplete"],
    "e-duplicate": ["duplicate|ambiguous"],
    "e-no-files": ["empty|no "],
    "e-same-folder": ["same folder|identical"],
}


@pytest.mark.parametrize("kind", GOOD)
def test_good_input_is_scored(kind, tmp_path, labels):
    p, r, out = tmp_path / "p", tmp_path / "r", tmp_path / "out"
    _write(kind, p, r)
    done = Done(p, r, "--labels", labels, "--output", out)
    assert done.code == 0, done.message
    lines = (line.split(",") for line in (out / "scores.csv").read_text().splitlines())
    rows = {(structure, metric): value for _, structure, metric, value, _ in lines}
    expected = {"e-empty-pred": "0.0", "e-empty-ref": "0.0", "e-empty-both": "", "e-one-voxel": None}.get(kind, "1.0")
    if expected is not None:
        assert rows["liver", "dice"] == rows["tumour", "dice"] == expected
    else:
        assert float(rows["liver", "dice"]) == 2 / (1 + 9 * 10 * 6 - 3 * 3 * 3)
    states = {"e-empty-pred": "missed", "e-empty-ref": "spurious", "e-empty-both": "undefined"}
    if kind in states:
        summaries = json.loads((out / "summary.json").read_text())["summaries"]
        assert [s[states[kind]] for s in summaries if s["metric"] == "dice"] == [1, 1]


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_refused_in_one_line_with_nothing_written(kind, tmp_path, labels):
    p, r, out = tmp_path / "p", tmp_path / "r", tmp_path / "out"
    _write(kind, p, r)
    done = Done(p, p if kind == "e-same-folder" else r, "--labels", labels, "--output", out)
    assert done.code == 3
    for pattern in BAD[kind]:
        assert re.search(pattern, done.message, re.IGNORECASE), done.message
    assert str(r if kind == "e-missing-ref" else p) in done.message
    assert "\n" not in done.message
    assert not out.exists()
    assert done.out == ""


def test_all_kinds_of_the_policy_are_here(real_data):
    policy = (real_data.parent / "BADINPUTS.md").read_text()
    assert set(re.findall(r"^\| (e-[\w-]+)", policy, re.MULTILINE)) == {*GOOD, *BAD}


def test_table_shows_means_and_counts_within_120_columns(tmp_path, labels):
    _write("e-empty-pred", tmp_path / "p", tmp_path / "r")
    save(tmp_path / "p" / "z.nii.gz", boxes())
    save(tmp_path / "r" / "z.nii.gz", boxes())
    done = Done(tmp_path / "p", tmp_path / "r", "--labels", labels)
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 120
    row = next(line for line in done.out.splitlines() if line.strip().startswith("tumour"))
    assert row.split()[1:] == ["0.5000", "[0.0000,", "1.0000]*", "0.5000", "[0.2500,", "0.7500]", "2", "0", "1", "0"]
    for word in ("dice", "mean_iou", "pixel_accuracy", "reference_volume_ml", "undefined", "spurious"):
        assert word in done.out


def test_json_is_one_object_on_stdout(tmp_path, labels):
    _write_perfect(tmp_path / "p", tmp_path / "r")
    done = Done(tmp_path / "p", tmp_path / "r", "--labels", labels, "--json", "--output", tmp_path / "out")
    assert json.loads(done.out)["means"]["dice"] == 1.0
    assert "wrote" in done.err


def test_quiet_says_nothing(tmp_path):
    _write_perfect(tmp_path / "p", tmp_path / "r")
    done = Done(tmp_path / "p", tmp_path / "r", "-q", "--output", tmp_path / "out")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert (tmp_path / "out" / "scores.csv").exists()


def test_skip_bad_scores_the_rest_prints_it_and_exits_with_1(tmp_path):
    _write("e-missing-pred", tmp_path / "p", tmp_path / "r")
    done = Done(tmp_path / "p", tmp_path / "r", "--skip-bad", "--output", tmp_path / "out")
    assert done.code == 1
    assert "prediction missing" in done.message
    assert "dice" in done.out
    assert (tmp_path / "out" / "scores.csv").exists()


def test_structures_found_nowhere_are_named_once_and_not_listed_as_rows(tmp_path):
    _write_perfect(tmp_path / "p", tmp_path / "r")
    table = tmp_path / "colours.txt"
    table.write_text("0 air 0 0 0 0\n1 liver 1 2 3 0\n2 [red]tumour 1 2 3 0\n9 spleen 1 2 3 0\n")
    done = Done(tmp_path / "p", tmp_path / "r", "--labels", table)
    assert "in no prediction and no reference: spleen" in done.out
    assert done.out.count("spleen") == 1
    assert "[red]tumour" in done.out


def test_missing_folder_and_labels_file_are_named(tmp_path):
    _write_perfect(tmp_path / "p", tmp_path / "r")
    assert Done(tmp_path / "none", tmp_path / "r").code == 3
    done = Done(tmp_path / "p", tmp_path / "r", "--labels", tmp_path / "none.json")
    assert done.code == 3
    assert "none.json" in done.message


def test_an_output_that_is_a_file_is_exit_4(tmp_path):
    _write_perfect(tmp_path / "p", tmp_path / "r")
    (tmp_path / "out").write_text("")
    assert Done(tmp_path / "p", tmp_path / "r", "--output", tmp_path / "out").code == 4


def test_the_verb_imports_nothing_heavy():
    code = "import medseg.cli.evaluate, sys; print(*{'rich', 'numpy', 'nibabel', 'yaml'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "numpy" not in found
    assert "nibabel" not in found


def test_options_choose_metrics_tolerances_lesions_and_the_rule_for_missed(tmp_path, labels):
    _write("e-empty-pred", tmp_path / "p", tmp_path / "r")
    options = ("--metrics", "dice,hd95, nsd", "--tolerance", "1", "--tolerance", "liver=3", "--lesions", "tumour")
    done = Done(tmp_path / "p", tmp_path / "r", "--labels", labels, "--json", "--missed", "undefined", *options)
    assert done.code == 0, done.message
    report = json.loads(done.out)
    assert report["settings"]["metrics"] == ["dice", "nsd", "hd95"]
    assert report["settings"]["tolerance_mm"] == {"default": 1.0, "liver": 3.0}
    assert report["settings"]["lesions"] == ["tumour"]
    means = {(s["structure"], s["metric"]): s["mean"] for s in report["summaries"]}
    assert means["liver", "hd95"] is None
    assert means["tumour", "lesion_f1"] == 0.0


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (("--metrics", "dise"), "no metric is called 'dise'; choose from dice"),
        (("--metrics", ","), "no metric is chosen"),
        (("--tolerance", "liver=far"), "--tolerance 'liver=far': give millimetres"),
        (("--tolerance", "1", "--tolerance", "2"), "given twice"),
        (("--boundary", "liver=far"), "--boundary 'liver=far': give millimetres"),
        (("--boundary", "0"), "boundary 0.0 mm: give a number of millimetres above 0"),
        (("--boundary", "livre=1"), "--boundary: no structure is called 'livre'"),
        (("--tolerance", "livre=1"), "no structure is called 'livre'; there are: liver, tumour"),
        (("--lesions", "nodule"), "no structure is called 'nodule'"),
        (("--missed", "ignore"), "choose diagonal or undefined"),
        (("--lesion-iou", "2"), "at most 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_exit_2(tmp_path, labels, options, pattern):
    _write_perfect(tmp_path / "p", tmp_path / "r")
    done = Done(tmp_path / "p", tmp_path / "r", "--labels", labels, *options)
    assert done.code == 2
    assert re.search(pattern, done.message), done.message


def test_resampled_predictions_are_counted_under_the_table(tmp_path):
    _write("e-affine-shift", tmp_path / "p", tmp_path / "r")
    done = Done(tmp_path / "p", tmp_path / "r", "--resample")
    assert done.code == 0, done.message
    assert "1 prediction(s) resampled onto the reference's grid, nearest voxel" in done.out
