"""One case of a dataset, before anything is read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg.core.errors import ConfigError, DataError

PICTURE_SUFFIXES = ".png", ".tif", ".tiff", ".jpg", ".jpeg"
IMAGE_SUFFIXES = (
    *(".nii.gz", ".nii", ".mha", ".mhd", ".seg.nrrd", ".nrrd", ".nhdr", ".hdr", ".img", ".zip", ".dcm"),
    *PICTURE_SUFFIXES,
)


@dataclass(frozen=True)
class Case:
    """``images``: one path per channel, or one for all. ``reference``: its label map. ``patient``: its cases never split.

    ``channels``: their names in the order of the network's input, where the dataset tells them. ``channel_grids``: what to
    do with one on another grid than the first. ``fold``: the one that validates this case, where the dataset says so.

    ``left_out``: values in the reference that the dataset names and the config does not: background in training.
    ``annotated``: names of the structures that were annotated in this case, in the order of the labels; None: all of them.
    Of any other structure the reference says nothing: its voxels are unknown, not background.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    reference: Path
    left_out: tuple[int, ...] = ()
    annotated: tuple[str, ...] | None = None
    channels: tuple[str, ...] = ()
    channel_grids: Literal["refuse", "resample"] = "refuse"
    fold: int | None = None


def strip_image_suffix(name: str) -> str:
    """``name`` without its image suffix; letter case is ignored."""
    lower = name.lower()
    return next((name[: -len(s)] for s in IMAGE_SUFFIXES if lower.endswith(s) and len(name) > len(s)), name)


def is_picture(path: Path) -> bool:
    """True for a file that is a 2D picture by its name."""
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def has_image_suffix(name: str) -> bool:
    return strip_image_suffix(name) != name


def case_id(path: Path) -> str:
    """The file or folder name without its image suffix and without a trailing ``_seg``.

    >>> case_id(Path("a/liver_12_seg.nii.gz")), case_id(Path("b/CT 3.1"))
    ('liver_12', 'CT 3.1')
    """
    name = strip_image_suffix(path.name)
    return name[:-4] if name.endswith("_seg") and len(name) > 4 else name


def patient_of(case: str, group: str | None) -> str:
    """The patient that ``group`` (a regular expression) names in a case id: its first group, else the whole match.

    Without ``group`` each case is a patient of its own. Raises DataError where ``group`` does not match.

    >>> patient_of("sub-07_scan-2", r"sub-(\\d+)")
    '07'
    """
    if group is None:
        return case
    match = re.search(group, case)
    if match is None:
        raise DataError(
            f"{case}: group {group!r} does not match this case id, so its patient is unknown; widen the group"
        )
    return (match.group(1) if match.re.groups else None) or match.group(0)


def check_group(group: str | None) -> None:
    """Raise ConfigError where ``group`` is no regular expression."""
    try:
        re.compile(group or "")
    except re.error as error:
        raise ConfigError(f"group {group!r} is not a regular expression: {error}; such as '^(sub-\\d+)'") from None


def check_channel_order(files: Sequence[Path], channels: Sequence[str]) -> None:
    """Raise ConfigError where a file's name ends in the name of another channel than that of its place.

    >>> check_channel_order([Path("p1_T2.nii"), Path("p1_ADC.nii")], ["T2", "ADC"])
    """
    for file, channel in zip(files, channels, strict=False):
        name = strip_image_suffix(file.name)
        called = max((c for c in channels if name == c or name.endswith((f"_{c}", f"-{c}"))), key=len, default=channel)
        if called != channel:
            raise ConfigError(
                f"{file} is given as channel {channel}, but is called {called}; the model's channels are "
                f"{', '.join(channels)}, in this order"
            )
