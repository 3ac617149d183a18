"""Several channels from a dataset to a prediction: their names go into the model folder, and their order is watched."""

import json

import nibabel as nib
import numpy as np
import pytest

import medseg
from medseg.core.errors import ConfigError, DataError, GeometryError
from medseg.io.reading import read_volumes
from medseg.io.scan import ReadOptions
from medseg.workflows.train import train
from tests.data.laid_out_channels import TWO_CHANNELS, two_channels
from tests.data.tiny_dataset import AFFINE, config, pair, save

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_models_channels_have_names_and_files_in_another_order_are_refused(tmp_path, no_pictures):
    data = TWO_CHANNELS["nnunet"](tmp_path / "data", two_channels(tmp_path / "data"))
    content = config(tmp_path) | {"data": data, "modality": "MR"}
    model = train(content, output=tmp_path / "run").model_folder
    plan = json.loads((model / "model.json").read_text())["plan"]
    assert (plan["channels"], plan["channel_names"]) == (2, ["T2", "ADC"])
    assert "medseg infer scan_T2.nii.gz scan_ADC.nii.gz --channels" in (model / "README.md").read_text()
    scans = [save(tmp_path / f"p1_{name}.nii.gz", pair(n)[0]) for n, name in enumerate(("T2", "ADC"))]
    both = save(tmp_path / "both.nii.gz", np.stack([pair(n)[0] for n in (0, 1)], -1))
    options = {"model": model, "output": tmp_path / "out", "device": "cpu"}
    apart, together = medseg.infer(scans, **options), medseg.infer(both, **options)
    np.testing.assert_array_equal(apart.label_map.data, together.label_map.data)
    with pytest.raises(ConfigError, match=r"p1_ADC.*is given as channel T2, but is called ADC"):
        medseg.infer(scans[::-1], **options, force=True)
    with pytest.raises(DataError, match="expected 2"):
        medseg.infer(scans[0], **options, force=True)


def test_a_channel_on_another_grid_is_resampled_where_asked_in_training_and_inference(tmp_path, no_pictures):
    """ADC stored with half the slices, where T2 has all: as a reader that knows the world would put them together."""
    names = two_channels(tmp_path)
    thick = AFFINE @ np.diag([1, 1, 2, 1])
    for n, name in enumerate(names):
        save(tmp_path / "scans" / f"{name}_ADC.nii.gz", pair(n + 50)[0][:, :, ::2], thick)
    data = TWO_CHANNELS["folder"](tmp_path, names) | {"channel_grids": "resample"}
    said = []
    result = train(config(tmp_path) | {"data": data}, output=tmp_path / "run", say=said.append)
    assert any("channel 2 is resampled onto the grid of channel 1" in line for line in said)
    scans = [tmp_path / "scans" / f"{names[0]}_{channel}.nii.gz" for channel in ("T2", "ADC")]
    read = read_volumes(scans, options=ReadOptions(channel_grids="resample")).data
    np.testing.assert_array_equal(read[0], pair(0)[0])
    np.testing.assert_allclose(read[1][:, :, ::2], pair(50)[0][:, :, ::2], atol=0.05)  # their own slices stay
    np.testing.assert_allclose(  # and one between two is their mean
        read[1][:, :, 1], (pair(50)[0][:, :, 0].astype(float) + pair(50)[0][:, :, 2]) / 2, atol=0.05
    )
    held_out = json.loads((tmp_path / "run" / "splits.json").read_text())[0]["validation"][0]
    pairs = [tmp_path / "scans" / f"{held_out}_{channel}.nii.gz" for channel in ("T2", "ADC")]
    found = medseg.infer(pairs, model=result.model_folder, output=tmp_path / "out", device="cpu")
    validated = nib.load(tmp_path / "run" / "fold_0" / "validation" / f"{held_out}_seg.nii.gz")
    np.testing.assert_array_equal(found.label_map.data, np.asanyarray(validated.dataobj))
    assert any("resampled onto the grid" in warning for warning in found.warnings)


def test_channels_that_lie_apart_are_no_case(tmp_path):
    away = AFFINE.copy()
    away[:3, 3] += 500
    paths = [save(tmp_path / "a.nii.gz", pair(0)[0]), save(tmp_path / "b.nii.gz", pair(1)[0], away)]
    with pytest.raises(GeometryError, match=r"b\.nii\.gz: lies nowhere on the grid of .*a\.nii\.gz"):
        read_volumes(paths, options=ReadOptions(channel_grids="resample"))


def test_channels_on_two_grids_are_refused_naming_both(tmp_path):
    names = two_channels(tmp_path)
    save(tmp_path / "scans" / f"{names[1]}_ADC.nii.gz", pair(51)[0][:, :, ::2])
    data = TWO_CHANNELS["folder"](tmp_path, names)
    with pytest.raises(DataError, match=r"sub-case01_ADC\.nii\.gz.*sub-case01_T2\.nii\.gz"):
        train(config(tmp_path) | {"data": data}, output=tmp_path / "run")
