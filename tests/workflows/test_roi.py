"""medseg infer --roi: what it says, what it writes down, and what does not go with it."""

import json

import nibabel as nib
import numpy as np
import pytest

import medseg
from medseg.cli.app import run as command
from medseg.inference.settings import InferenceOptions
from tests.models.tiny_model import OBLIQUE, texture, tiny_model, write_scan


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model", folds=2)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan") / "liver_7.nii.gz", texture((40, 20, 16)))


def test_the_json_says_what_ran_and_the_labels_are_those_of_the_whole_scan(model, scan, tmp_path, capsys):
    base = ["infer", str(scan), "--model", str(model), "--device", "cpu", "-o"]
    assert command([*base, str(tmp_path / "whole.nii.gz")]) == 0
    assert "roi" not in json.loads((tmp_path / "whole.json").read_text())
    assert command([*base, str(tmp_path / "roi.nii.gz"), "--roi"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    manifest = json.loads((tmp_path / "roi.json").read_text())
    roi = manifest["roi"]
    assert manifest["settings"]["roi"] is True
    assert f"{roi['windows']} windows of full quality for the whole scan's {roi['whole_scan_windows']}" in said
    assert roi["first_look_windows"] == 5 * 3 * 2
    assert manifest["windows"] == roi["first_look_windows"] + roi["windows"]
    whole, found = (np.asarray(nib.load(tmp_path / f"{name}.nii.gz").dataobj) for name in ("whole", "roi"))
    low, high = np.rint(np.linalg.inv(OBLIQUE) @ np.c_[roi["corners_mm"], [1, 1]].T).T.astype(int)[:, :3]
    box = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
    np.testing.assert_array_equal(found[box], whole[box])
    assert [b - a + 1 for a, b in zip(low, high, strict=True)] == roi["shape"]


@pytest.mark.parametrize("kind", ["probabilities", "entropy"])
def test_maps_of_the_whole_scan_do_not_go_with_it(model, scan, tmp_path, capsys, kind):
    asked = [
        "infer",
        str(scan),
        "--model",
        str(model),
        "--device",
        "cpu",
        "-o",
        str(tmp_path),
        "--roi",
        f"--save-{kind}",
    ]
    assert command(asked) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"roi: {kind} cannot be saved, for nothing is computed outside the box; leave out --save-{kind}, or" in said
    assert not list(tmp_path.iterdir())


def test_it_reaches_workers_and_notebooks_and_is_a_setting_of_its_own(model, scan):
    asked = InferenceOptions(roi=True)
    assert InferenceOptions.from_json(asked.as_json()) == asked
    segmenter = medseg.Segmenter.load(model, device="cpu", roi=True)
    assert segmenter.settings.as_json()["roi"] is True
    assert segmenter(scan).roi.whole_scan_windows == 9 * 4 * 3
    assert segmenter.scout.folds == 2
    with pytest.raises(medseg.core.errors.ConfigError, match="roi 'yes': give True or False"):
        medseg.Segmenter.load(model, device="cpu", roi="yes")
