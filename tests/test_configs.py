"""The shipped configs: they load, hold every key of the schema, and comment each."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from medseg.core.config import Config, DataConfig, PlanConfig, TrainConfig, load_config

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SECTIONS: dict[str, type[BaseModel]] = {"data": DataConfig, "plan": PlanConfig, "train": TrainConfig}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_is_valid(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert len(config.structure_labels.structures) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_config_shows_and_comments_every_key(path: Path) -> None:
    text = path.read_text()
    keys = [*Config.model_fields, *(key for model in SECTIONS.values() for key in model.model_fields)]
    for key in keys:
        lines = re.findall(rf"^ *{key}:.*$", text, re.MULTILINE)
        assert lines, key
        assert key in SECTIONS or any("# " in line for line in lines), key
