"""The shipped configs: they load, hold every key of the schema, and comment each."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from medseg.core.config import Config, PlanConfig, TrainConfig, load_config
from medseg.core.config_data import DataConfig
from medseg.core.config_inference import InferenceConfig
from medseg.data.layouts import LAYOUTS

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SHOWN_IN_THE_DOCUMENTATION = {"table", "channels", "channel_grids", "derivative", "reference"}  # docs/datasets.md
SECTIONS: dict[str, type[BaseModel]] = {
    "data": DataConfig,
    "plan": PlanConfig,
    "train": TrainConfig,
    "inference": InferenceConfig,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert config.structure_labels.structures


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_shows_and_comments_every_key(path: Path) -> None:
    text = path.read_text()
    keys = [*Config.model_fields, *(key for model in SECTIONS.values() for key in model.model_fields)]
    for key in (key for key in keys if key not in SHOWN_IN_THE_DOCUMENTATION):
        lines = re.findall(rf"^ *{key}:.*$", text, re.MULTILINE)
        assert lines, key
        assert key in SECTIONS or any("# " in line for line in lines), key


def test_every_key_of_the_data_section_and_every_layout_is_in_the_documentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text()
    for key in DataConfig.model_fields:
        assert f"`{key}`" in text, key
    for layout in LAYOUTS:
        assert f"layout: {layout}" in text, layout
