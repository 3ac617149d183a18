"""The layout of the Medical Segmentation Decathlon: dataset.json, imagesTr, labelsTr; channels are an image's 4th axis.

Source: Antonelli 2022, doi:10.1038/s41467-022-30695-9.
"""

from pathlib import Path
from typing import Any

from medseg.core.case import Case, case_id
from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.data.layouts.common import channel_names, make_case, read_dataset_json, require_unique


def msd(config: DataConfig) -> list[Case]:
    """The Decathlon's: the cases that ``root/dataset.json`` lists under ``training``; channels are an image's 4th axis.

    Raises DataError naming file and case.
    """
    root = config.path_of("root")
    content = read_dataset_json(root, "msd")
    listed, channels = _training(root, content), channel_names(content)
    if config.channels not in (None, channels):
        raise ConfigError(
            f"data.channels is {list(config.channels or ())}, but the images of layout msd hold {list(channels)}, all of "
            "them and in this order; leave data.channels out"
        )
    names = [case_id(Path(entry["image"])) for entry in listed]
    require_unique(names, root / "dataset.json")
    return [
        make_case(name, [root / entry["image"]], root / entry["label"], config.group, channels=channels)
        for name, entry in zip(names, listed, strict=True)
    ]


def _training(root: Path, content: dict[str, Any]) -> list[dict[str, str]]:
    file, listed = root / "dataset.json", content.get("training")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{file}: no training cases: the list `training` is empty or missing")
    for entry in listed:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise DataError(f"{file}: each training case needs `image` and `label`, got {str(entry)[:80]}")
    return listed
