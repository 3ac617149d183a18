"""A BIDS dataset: images in sub-XX[/ses-YY]/anat and the like, label maps in derivatives; each subject is a patient.

Source: the BIDS specification, https://bids-specification.readthedocs.io, chapters on MRI and on imaging derivatives.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medseg.core.case import Case, has_image_suffix, strip_image_suffix
from medseg.core.config_data import DataConfig
from medseg.core.errors import DataError
from medseg.data.layouts.common import make_case, require_partners, require_unique
from medseg.data.layouts.table import read_table, require_cell

# Entities that tell how a derivative was made, and not from which scan.
_DERIVED = re.compile(r"_(space|res|den|seg|label|desc|atlas)-[^_]+")
_REFERENCE = "dseg"
_SUBJECT = re.compile(r"sub-[^_]+")


def bids(config: DataConfig) -> list[Case]:
    """One case for each BIDS scan, ``sub-01_ses-02`` of ``sub-01_ses-02_T1w.nii.gz``, its label map below ``derivatives``.

    A case is what comes before the channel in the names of its images. ``channels`` are ends of names (``T1w``,
    ``acq-tra_T2w``; the longest counts). Its label map ends in ``reference`` (``dseg`` where nothing is said) and lies
    below ``derivatives/``, or its folder ``derivative``. Raises DataError naming the case.
    """
    root, channels = config.path_of("root"), config.channels or ()
    if not root.is_dir():
        raise DataError(f"{root}: this dataset folder does not exist; set data.root")
    cases: dict[str, dict[str, Path]] = {}
    for path in (image for subject in sorted(root.glob("sub-*")) for image in _images_below(subject)):
        name = strip_image_suffix(path.name)
        channel = max((c for c in channels if name.endswith(f"_{c}")), key=len, default=None)
        if channel is None:
            continue
        found = cases.setdefault(name.removesuffix(f"_{channel}"), {})
        if channel in found:
            raise DataError(f"{name}: duplicate image: {found[channel]} and {path} are both of channel {channel}")
        found[channel] = path
    if not cases:
        raise DataError(f"{root}: no images found: no file in sub-*/ ends in _{' or _'.join(channels)} (data.channels)")
    require_unique(cases, root)
    for case, images in cases.items():
        lost = [channel for channel in channels if channel not in images]
        if lost:
            raise DataError(f"{case}: image missing: no {case}_{lost[0]} beside {next(iter(images.values()))}")
    place, labels = _labels(config, cases)
    require_partners(cases, labels, root, place)
    whole = [(case, [images[c] for c in channels]) for case, images in sorted(cases.items()) if case in labels]
    return [_case(case, images, labels[case], config) for case, images in whole]


def _case(name: str, images: list[Path], reference: Path, config: DataConfig) -> Case:
    subject = _SUBJECT.match(name)
    patient = subject[0] if subject else None
    return make_case(name, images, reference, config.group, channels=config.channels or (), patient=patient)


def _labels(config: DataConfig, cases: dict[str, dict[str, Path]]) -> tuple[Path, dict[str, Path]]:
    """Where label maps were looked for, and the one of each case, or of a scan that is no case under its own name."""
    place = config.path_of("root") / "derivatives" / (config.derivative or "")
    if not place.is_dir():
        raise DataError(f"{place}: label missing for every case: this folder does not exist; set data.derivative")
    case_of = {case: case for case in cases}
    for case, images in cases.items():
        for channel, path in images.items():
            name = strip_image_suffix(path.name)
            case_of[name] = case
            case_of[name.removesuffix(f"_{channel.rpartition('_')[2]}")] = case  # an acq- that is part of the channel
    found: dict[str, Path] = {}
    ending = f"_{config.reference or _REFERENCE}"
    for path in _images_below(place):
        name = strip_image_suffix(path.name)
        if not name.endswith(ending) or not name.startswith("sub-"):
            continue
        source = name.removesuffix(ending)
        case = case_of.get(source) or case_of.get(_DERIVED.sub("", source), source)
        if case in found:
            raise DataError(
                f"{case}: label is ambiguous: {found[case]} and {path}; choose with data.derivative: FOLDER or "
                "data.reference: desc-manual_dseg"
            )
        found[case] = path
    if not found:
        raise DataError(f"{place}: no labels found: no file below it ends in {ending} (data.reference)")
    return place, found


def table_values(config: DataConfig) -> dict[str, int]:
    """``{name: value}`` of the tables ``*dseg.tsv`` below the label maps' folder (columns index, name); empty without any.

    Raises DataError where two of them give one name, or one value, to different things.
    """
    place = config.path_of("root") / "derivatives" / (config.derivative or "")
    found: dict[str, int] = {}
    names: dict[int, str] = {}
    for content, file in sorted({file.read_bytes(): file for file in place.rglob("*dseg.tsv")}.items()):
        for row in read_table(file, ("index", "name")) if content.strip() else ():
            index, name = require_cell(file, row, "index"), require_cell(file, row, "name")
            if not index.isdecimal():
                raise DataError(f"{file}, line {row.line}: index {index!r} is no number")
            if found.setdefault(name, int(index)) != int(index) or names.setdefault(int(index), name) != name:
                raise DataError(
                    f"{file}, line {row.line}: {name!r} is {index}, but another dseg.tsv below {place} says otherwise; "
                    "choose one folder with data.derivative"
                )
    return found


def _images_below(place: Path) -> Iterator[Path]:
    """Every image file below ``place``, in the order of names; links to folders are not followed."""
    for folder, folders, names in os.walk(place, onerror=_barred):
        folders.sort()
        yield from (
            Path(folder) / name for name in sorted(names) if has_image_suffix(name) and not name.startswith(".")
        )


def _barred(error: OSError) -> None:
    raise DataError(f"{error.filename}: this folder cannot be read ({error.strerror})")
