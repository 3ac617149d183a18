"""Several channels from a dataset to a prediction: their names go into the model folder, and their order is watched."""

import json

import numpy as np
import pytest

import medseg
from medseg.core.errors import ConfigError, DataError
from medseg.workflows.train import train
from tests.data.laid_out_channels import TWO_CHANNELS, two_channels
from tests.data.tiny_dataset import config, pair, save

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


def test_channels_on_two_grids_are_refused_naming_both(tmp_path):
    names = two_channels(tmp_path)
    save(tmp_path / "scans" / f"{names[1]}_ADC.nii.gz", pair(51)[0][:, :, ::2])
    data = TWO_CHANNELS["folder"](tmp_path, names)
    with pytest.raises(DataError, match=r"sub-case01_ADC\.nii\.gz.*sub-case01_T2\.nii\.gz"):
        train(config(tmp_path) | {"data": data}, output=tmp_path / "run")
