"""The layout of nnU-Net v2 (and v1): dataset.json, imagesTr/CASE_0000.ext for each channel, labelsTr/CASE.ext.

Source: nnU-Net, documentation/dataset_format.md, https://github.com/MIC-DKFZ/nnUNet.
"""

import re
from pathlib import Path
from typing import Any

from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.data.layouts.common import (
    channel_names,
    label_values,
    make_case,
    read_dataset_json,
    require_partners,
    require_unique,
)

_IGNORE = "ignore"


def nnunet(config: DataConfig) -> list[Case]:
    """nnU-Net's: ``imagesTr/CASE_0000.ext`` for each channel and ``labelsTr/CASE.ext`` in ``root``, or listed in ``dataset``.

    ``channels`` chooses among its ``channel_names`` and orders them. Raises DataError naming file and case.
    """
    root = config.path_of("root")
    file, content = root / "dataset.json", read_dataset_json(root, "nnunet")
    names = channel_names(content)
    if not names:
        raise DataError(f'{file}: no channel_names, such as {{"0": "CT"}}; layout nnunet needs them')
    chosen = config.channels or names
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ConfigError(f"data.channels names {unknown[0]!r}, but {file} has {', '.join(names)}")
    listed = content.get("dataset")
    found = _listed(root, listed, len(names)) if listed is not None else _in_folders(root, content, len(names))
    if not found:
        raise DataError(f"{file}: no training cases in imagesTr or under `dataset`")
    require_unique(found, file)
    return [
        make_case(case, [images[names.index(name)] for name in chosen], reference, config.group, channels=chosen)
        for case, (images, reference) in found.items()
    ]


def structure_values(content: dict[str, Any]) -> dict[str, int]:
    """``{name: value}`` of the structures; what is ignored in training is none, and a region has no value of its own."""
    return {name: value for name, value in label_values(content).items() if name != _IGNORE}


def not_taken_over(content: dict[str, Any]) -> list[str]:
    """What the ``labels`` of dataset.json say beyond names and values, in words: regions, and the ignored value."""
    labels = content.get("labels")
    named = labels if isinstance(labels, dict) else {}
    regions = {name: value for name, value in named.items() if isinstance(value, list) and len(value) > 1}
    said = [f"region {name} ({', '.join(map(str, values))})" for name, values in regions.items()]
    return said + ([f"ignored value {named[_IGNORE]}"] if isinstance(named.get(_IGNORE), int) else [])


def _in_folders(root: Path, content: dict[str, Any], channels: int) -> dict[str, tuple[list[Path], Path]]:
    ending = content.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise DataError(f'{root / "dataset.json"}: file_ending {ending!r} is none, such as ".nii.gz"')
    images, labels = root / "imagesTr", root / "labelsTr"
    cases: dict[str, set[int]] = {}
    for stem in _stems(images, "image", ending):
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match is None:
            raise DataError(
                f"{images / (stem + ending)}: an image's name ends in its channel, as in {stem}_0000{ending}"
            )
        cases.setdefault(match[1], set()).add(int(match[2]))
    require_partners(cases, _stems(labels, "label", ending), images, labels)
    for case, numbers in cases.items():
        if numbers != set(range(channels)):
            odd = min(numbers ^ set(range(channels)))
            what = "is missing" if odd < channels else f"is more than the {channels} that dataset.json names"
            raise DataError(f"{images}: image {case}_{odd:04d}{ending} {what}: each channel has one file")
    told = content.get("numTraining")
    if isinstance(told, int) and told != len(cases):
        raise DataError(
            f"{root / 'dataset.json'}: numTraining is {told}, but imagesTr holds {len(cases)} cases; is the dataset whole?"
        )
    return {
        case: ([images / f"{case}_{n:04d}{ending}" for n in range(channels)], labels / f"{case}{ending}")
        for case in sorted(cases)
    }


def _stems(where: Path, kind: str, ending: str) -> list[str]:
    try:
        names = [path.name for path in sorted(where.iterdir()) if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{where}: this folder of {kind}s cannot be read ({error.strerror}); set data.root") from None
    stems = [name.removesuffix(ending) for name in names if name.endswith(ending)]
    if not stems:
        raise DataError(f"{where}: no {kind}s found: no file ends in {ending}, the file_ending of dataset.json")
    return stems


def _listed(root: Path, listed: Any, channels: int) -> dict[str, tuple[list[Path], Path]]:
    file = root / "dataset.json"
    found = {}
    for case, entry in listed.items() if isinstance(listed, dict) else ():
        images, label = (entry.get("images"), entry.get("label")) if isinstance(entry, dict) else (None, None)
        if not isinstance(images, list) or not isinstance(label, str) or not all(isinstance(i, str) for i in images):
            raise DataError(f"{file}: `dataset`: {case} needs a list `images` and a `label`, got {str(entry)[:80]}")
        if len(images) != channels:
            raise DataError(f"{file}: `dataset`: {case} has {len(images)} images for {channels} channel(s)")
        found[str(case)] = ([root / image for image in images], root / label)
    return found
