"""The predicted Dice from scan to table: what the network expects is that of its probabilities; nothing without a calibration."""

import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest

import medseg
from medseg.cli.app import run as command
from medseg.inference.predicted import deciding
from medseg.inference.settings import InferenceSettings
from tests.models.tiny_model import texture, tiny_model, tiny_plan, tiny_states, write_scan

MEASURED = [0.3 + 0.03 * n for n in range(19)]
"""Where 0.5 was expected: of 19 patients the smallest and the largest limit the interval, and the tenth lies in its middle."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Untrained; its tumour was validated on too few patients. The scan's grid is the plan's, so nothing is interpolated."""
    scans = {"liver": [[(0.5, dice)] for dice in MEASURED], "tumour": [[(0.5, 0.6)]] * 4}
    told = {"settings": deciding(InferenceSettings(), 1), "measured_on": "4 phantoms", "scans": {"fold_0": scans}}
    folder = tmp_path_factory.mktemp("model") / "model"
    return tiny_model(folder, plan=tiny_plan(patch_size=[16, 16, 16]), inference={"predicted_dice": [told]})


def soft_dice(out, value):
    """Of the probabilities that were saved, by numpy."""
    shares = np.asarray(nib.load(out / "probabilities" / "scan_seg.nii.gz").dataobj, np.float64)[..., value]
    mask = np.asarray(nib.load(out / "scan_seg.nii.gz").dataobj) == value
    return 2 * shares[mask].sum() / (mask.sum() + shares.sum())


def odds_moved(expected, measured):
    odds = expected / (1 - expected) * measured / (1 - measured)
    return odds / (1 + odds)


def test_the_table_the_manifest_and_the_review_have_it(model, tmp_path, capsys):
    scan, out = write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out"
    out.mkdir()
    asked = ["infer", str(scan), "--model", str(model), "-o", str(out), "--device", "cpu", "--save-probabilities"]
    assert command(asked) == 0
    told = capsys.readouterr()
    manifest = json.loads((out / "scan_seg.json").read_text())
    predicted = manifest["predicted_dice"]
    liver, tumour = (predicted["structures"][name] for name in ("liver", "tumour"))
    expected = soft_dice(out, 1)
    assert liver["expected"] == pytest.approx(expected, abs=2e-4)
    wanted = [odds_moved(expected, MEASURED[n]) for n in (0, 9, 18)]
    assert [liver["low"], liver["dice"], liver["high"]] == pytest.approx(wanted, abs=3e-4)
    assert tumour["expected"] == pytest.approx(soft_dice(out, 2), abs=2e-4)
    assert (tumour["low"], tumour["why"]) == (None, "an interval needs 9 patients, validation had 4")
    assert (predicted["level"], predicted["calibration"]["patients"]) == (0.9, {"liver": 19, "tumour": 4})
    assert predicted["calibration"]["unlike"] == []
    assert f"{liver['dice']:.2f}" in told.err + told.out
    assert f"{liver['low']:.2f} to {liver['high']:.2f}" in told.err + told.out
    assert manifest["review"]
    (reason,) = manifest["review_reasons"]
    assert reason.startswith(f"liver: predicted Dice {liver['dice']:.2f}, 90% interval {liver['low']:.2f} to")


def test_a_notebook_shows_it_and_only_where_there_is_a_calibration(model, tmp_path):
    found = medseg.Segmenter.load(model, device="cpu")(write_scan(tmp_path / "scan.nii.gz"))
    assert 0 < found.predicted_dice["liver"].low < found.predicted_dice["liver"].dice < 1
    assert f"<td>{found.predicted_dice['liver']}</td>" in found._repr_html_()
    plain = tiny_model(tmp_path / "plain", plan=tiny_plan())
    without = medseg.Segmenter.load(plain, device="cpu")(write_scan(tmp_path / "scan.nii.gz"))
    assert without.predicted_dice == {}
    assert "predicted Dice" not in without._repr_html_()


def test_a_structure_that_is_not_found_has_none_and_says_so(tmp_path, capsys):
    plan = tiny_plan()
    states = tiny_states(plan)
    states["fold_0"]["decoder.seg_layers.0.bias"][1] -= 1000
    scans = {name: [[(0.5, dice)] for dice in MEASURED] for name in ("liver", "tumour")}
    told = {"settings": deciding(InferenceSettings(), 1), "measured_on": "phantoms", "scans": {"fold_0": scans}}
    folder = tiny_model(tmp_path / "model", plan=plan, states=states, inference={"predicted_dice": [told]})
    scan = write_scan(tmp_path / "scan.nii.gz")
    assert command(["infer", str(scan), "--model", str(folder), "--device", "cpu"]) == 0
    assert "not found in this scan" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "scan_seg.json").read_text())
    structures = manifest["predicted_dice"]["structures"]
    assert manifest["volumes_ml"]["liver"] == 0
    assert structures["liver"] == {
        **{"dice": None, "low": None, "high": None, "expected": None},
        "why": "not found in this scan",
    }
    assert structures["tumour"]["dice"] > 0


def test_other_settings_than_those_of_the_calibration_are_said(model, tmp_path, capsys):
    scan, out = write_scan(tmp_path / "scan.nii.gz"), tmp_path / "out"
    out.mkdir()
    asked = ["infer", str(scan), "--model", str(model), "-o", str(out), "--device", "cpu", "--overlap", "0.25"]
    assert command(asked) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "predicted Dice was calibrated with overlap 0.5; with overlap 0.25 its interval may hold less often" in said
    assert json.loads((out / "scan_seg.json").read_text())["predicted_dice"]["calibration"]["unlike"] == ["overlap"]


def test_a_cohort_has_it_in_its_table(model, tmp_path):
    for n in range(2):
        write_scan(tmp_path / "scans" / f"{n}.nii.gz", texture(seed=n))
    out = tmp_path / "out"
    assert command(["infer", str(tmp_path / "scans"), "--model", str(model), "-o", str(out), "--device", "cpu"]) == 0
    with (out / "results.csv").open() as file:
        rows = {row["case"]: row for row in csv.DictReader(file)}
    for case in json.loads((out / "results.json").read_text())["cases"]:
        told, row = case["predicted_dice"], rows[case["case"]]
        assert told == json.loads((out / f"{case['case']}_seg.json").read_text())["predicted_dice"]["structures"]
        assert row["predicted_dice_liver"] == str(told["liver"]["dice"])
        assert row["predicted_dice_low_liver"] == str(told["liver"]["low"])
        assert not math.isnan(float(row["predicted_dice_high_liver"]))
        assert (row["predicted_dice_tumour"] != "", row["predicted_dice_low_tumour"]) == (True, "")
