"""A folder of images and a folder of label maps, matched by case id; channels are folders, or ends of file names."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import DataError
from medseg.data.layouts.common import files_by_id, make_case, require_partners

_NUMBERED = re.compile(r"(.+)_(\d{4})")


def folder(config: DataConfig) -> list[Case]:
    """One case for each image file, or folder of DICOM files, in ``images``; its label map has the same id in ``labels``.

    Several channels: ``images`` is a folder for each (``{T2: DIR, ADC: DIR}``), or holds files that end in the names that
    ``channels`` lists (``case_T2``), or in numbers of four digits (``case_0000``, ``case_0001``). A label may also be a
    DICOM segmentation or RT structure set, or a folder of one mask per structure.
    """
    folders = config.images if isinstance(config.images, dict) else {"": Path(config.images or "")}
    where, place = next(iter(folders.values())), config.path_of("labels")
    found = {channel: files_by_id(each, "image", folders=True) for channel, each in folders.items()}
    labels = files_by_id(place, "label")
    if isinstance(config.images, dict):
        channels, images = tuple(folders), _of_folders(found, folders)
    else:
        channels = config.channels or _numbers(found[""], labels)
        images = _by_ending(found[""], channels, where)
    require_partners(images, labels, where, place)
    return [
        make_case(name, paths, labels[name], config.group, channels=channels)
        for name, paths in images.items()
        if name in labels
    ]


def _of_folders(found: Mapping[str, Mapping[str, Path]], folders: Mapping[str, Path]) -> dict[str, list[Path]]:
    """The image of each channel for each case: every folder holds the same ids."""
    everyone = sorted(set().union(*found.values()))
    for channel, images in found.items():
        lost = [name for name in everyone if name not in images]
        if lost:
            raise DataError(
                f"{folders[channel]}: image of channel {channel} missing for {', '.join(lost[:5])} ({len(lost)} in all)"
            )
    return {name: [images[name] for images in found.values()] for name in everyone}


def _by_ending(found: Mapping[str, Path], channels: Sequence[str], where: Path) -> dict[str, list[Path]]:
    """The images by what stands before ``_<channel>`` in their ids, in the order of ``channels``; without any, by id."""
    if not channels:
        return {name: [path] for name, path in found.items()}
    endings = [f"_{channel}" for channel in channels]
    cases = sorted({name.removesuffix(ending) for ending in endings for name in found if name.endswith(ending)})
    if not cases:
        there = ", ".join(list(found)[:3])
        raise DataError(
            f"{where}: no image file's name ends in {' or '.join(endings)} (data.channels); there are {there}"
        )
    for case in cases:
        lost = [case + ending for ending in endings if case + ending not in found]
        if lost:
            raise DataError(f"{case}: image missing: no {lost[0]} in {where}; each channel has one file")
    return {case: [found[case + ending] for ending in endings] for case in cases}


def _numbers(found: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[str, ...]:
    """The channel numbers where all images have one and no label does, as nnU-Net names its files; else none."""
    matches = [_NUMBERED.fullmatch(name) for name in found]
    if any(match is None for match in matches) or set(found) & set(labels):
        return ()
    return tuple(sorted({match[2] for match in matches if match}))
