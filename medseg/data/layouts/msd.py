"""The layout of the Medical Segmentation Decathlon: dataset.json, imagesTr, labelsTr.

Source: Antonelli 2022, doi:10.1038/s41467-022-30695-9.
"""

import json
from pathlib import Path
from typing import Any

from medseg.core.case import Case, case_id
from medseg.core.config import DataConfig
from medseg.core.errors import DataError
from medseg.data.layouts.common import make_case, require_unique


def msd(config: DataConfig) -> list[Case]:
    """The cases that ``root/dataset.json`` lists under ``training``. Raises DataError naming file and case."""
    root = config.folder_of("root")
    listed = _training(root)
    names = [case_id(Path(entry["image"])) for entry in listed]
    require_unique(names, root / "dataset.json")
    return [
        make_case(name, (root / entry["image"],), root / entry["label"], config.group)
        for name, entry in zip(names, listed, strict=True)
    ]


def named_labels(config: DataConfig) -> dict[str, int]:
    """``{name: value}`` as ``root/dataset.json`` says it (``{"1": "liver"}``); empty where it says nothing that fits."""
    labels = _read(config.folder_of("root")).get("labels")
    if not isinstance(labels, dict):
        return {}
    return {name: int(value) for value, name in labels.items() if isinstance(name, str) and str(value).isdecimal()}


def _read(root: Path) -> dict[str, Any]:
    if not root.exists():
        raise DataError(f"{root}: this dataset folder does not exist; set data.root")
    file = root / "dataset.json"
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{root}: no dataset.json found; layout msd needs one (or use `layout: folder`)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def _training(root: Path) -> list[dict[str, str]]:
    file, listed = root / "dataset.json", _read(root).get("training")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{file}: no training cases: the list `training` is empty or missing")
    for entry in listed:
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("image", "label")):
            raise DataError(f"{file}: each training case needs `image` and `label`, got {str(entry)[:80]}")
    return listed
