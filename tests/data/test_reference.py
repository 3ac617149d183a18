"""A config may name some of a dataset's structures; the others are background, and a mix-up of names is an error."""

import json
from pathlib import Path

import numpy as np
import pytest

from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.data.layouts import left_out_structures
from medseg.data.reference import read_reference
from medseg.io.nifti import write_label_map

LIVER = Labels.from_mapping({"background": 0, "liver": 1, "tumour": 2})


def dataset(folder: Path, labels: dict[str, str]) -> DataConfig:
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "training": [{"image": "a", "label": "b"}]}))
    return DataConfig(root=folder)


def test_structures_that_only_the_dataset_names_are_left_out(tmp_path: Path) -> None:
    config = dataset(tmp_path, {"0": "background", "1": "liver", "2": "cancer", "3": "spleen", "9": "kidney"})
    assert left_out_structures(config, LIVER) == {"spleen": 3, "kidney": 9}


def test_a_name_with_another_value_is_not_left_out(tmp_path: Path) -> None:
    config = dataset(tmp_path, {"0": "background", "1": "liver", "5": "tumour"})
    assert left_out_structures(config, LIVER) == {}


def test_exchanged_names_are_an_error(tmp_path: Path) -> None:
    config = dataset(tmp_path, {"0": "background", "1": "Tumour", "2": "Liver"})
    with pytest.raises(ConfigError, match=r"'Tumour' is 1 in the dataset's dataset\.json, but 2"):
        left_out_structures(config, LIVER)


def test_values_left_out_become_background_and_unknown_ones_stay_an_error(tmp_path: Path) -> None:
    values = np.array([0, 1, 2, 3, 3, 1, 0, 2], np.uint8).reshape(2, 2, 2)
    path = tmp_path / "label.nii.gz"
    write_label_map(path, LabelMap(values, Geometry((2, 2, 2), np.diag([1.0, 2.0, 3.0, 1.0]))))
    found = read_reference(path, LIVER, (3,))
    assert found.data.ravel().tolist() == [0, 1, 2, 0, 0, 1, 0, 2]
    with pytest.raises(DataError, match=r"label\.nii\.gz.*value 3"):
        read_reference(path, LIVER, (9,))
