"""What can be put right about a case without guessing, as new voxels; everything else is left alone and said."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import DataError, MedsegError
from medseg.core.geometry import Geometry, order_between
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.data.grids import difference, nearest_order
from medseg.data.reference import read_reference
from medseg.io.reading import holds_named_masks, read_stored, read_volumes
from medseg.io.scan import ReadOptions
from medseg.io.source import shown
from medseg.io.stored import Stored, exact_values

LARGEST_SHIFT = 0.5  # voxels that a corner of the label may miss the image's, to be laid onto it
CLEARLY_OTHER = 1.0  # voxels that any other storage order must miss it at least: else it may be a flip
LARGEST_FRACTION = 0.01  # that a label value may miss a whole number
_EXACT = 1e-3  # voxels: what the float32 of a header rounds
_WHOLE_FILES = (".nii.gz", ".nii", ".mha", ".nrrd", ".png", ".tif", ".tiff", ".jpg", ".jpeg")


@dataclass(frozen=True, eq=False)
class Repaired:
    """``image`` and ``label`` as they can be trained on; ``changes`` say what is not as it was, in words.

    ``new_image`` and ``new_label`` are True where the file cannot be copied as it is.
    """

    image: Volume
    label: LabelMap
    changes: tuple[str, ...]
    new_image: bool
    new_label: bool


def repair(case: Case, labels: Labels, *, channels: int | None = None) -> Repaired:
    """``case`` put right. Raises MedsegError saying why it cannot be: what would have to be guessed is refused.

    Done are: label values that are whole numbers but stored as floats, or within 0.01 of them; a label grid that misses the
    image's by half a voxel at most where no flip comes near; NaN and infinite voxels outside every structure, which become
    the channel's minimum; values that the config leaves out, which become background as they are in training.
    """
    changes: list[str] = []
    image, bad = _image(case, channels)
    label, new_label = _label(case, labels, image.geometry, changes)
    label, moved = _laid_on(label, image, changes)
    if bad is not None:
        image = _filled(case, image, label, bad, changes)
    regridded = case.channel_grids == "resample" and len(case.images) > 1
    return Repaired(
        image=image,
        label=label,
        changes=tuple(changes),
        new_image=bad is not None or regridded or not all(_is_whole_file(path) for path in case.images),
        new_label=new_label or moved or not _is_whole_file(case.reference),
    )


def _is_whole_file(path: Path) -> bool:
    """Whether ``path`` is one file of a format that can be copied by itself."""
    return path.is_file() and path.name.lower().endswith(_WHOLE_FILES)


def _image(case: Case, channels: int | None) -> tuple[Volume, npt.NDArray[np.bool_] | None]:
    """The image, and where it is not finite; None where it is everywhere."""
    expected = len(case.channels) or channels
    try:
        options = ReadOptions(channel_grids=case.channel_grids)
        return read_volumes(case.images, channels=expected, options=options), None
    except MedsegError:
        stored = read_stored(case.images)
        values = exact_values(stored)
        bad = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        if not bad.any() or (expected is not None and len(values) != expected) or np.all(bad, axis=(1, 2, 3)).any():
            raise
        return Volume(values, stored.geometry, stored.warnings, stored.modality), bad


def _label(case: Case, labels: Labels, grid: Geometry, changes: list[str]) -> tuple[LabelMap, bool]:
    """The label map with values of ``labels`` alone, and whether it is another than the file's."""
    if holds_named_masks(case.reference):
        changes.append("the label's structures, which had names, became the values of one label map")
        return read_reference(case.reference, labels, case.left_out, grid), True
    stored = read_stored((case.reference,))
    if stored.data.shape[0] != 1 or not (stored.data.dtype.kind == "f" or stored.scaled):
        found = read_reference(case.reference, labels, case.left_out)
        return found, _left_out(case, stored, changes)
    values = exact_values(stored)[0].astype(np.float64)
    whole = np.rint(values)
    away = np.abs(values - whole)
    if not np.isfinite(values).all() or away.max() > LARGEST_FRACTION:
        read_reference(case.reference, labels, case.left_out)  # raises, and says it best
    if away.max() > 0:
        changes.append(
            f"{np.count_nonzero(away)} label value(s) up to {away.max():.2g} away from a whole number were rounded"
        )
    else:
        changes.append(f"label values, whole numbers stored as {stored.data.dtype}, are stored as integers")
    _left_out(case, stored, changes)
    kept = np.where(np.isin(whole, case.left_out), 0, whole) if case.left_out else whole
    try:
        if whole.min() < 0:
            raise DataError(f"label value {whole.min():g} is negative")
        data = labels.to_values(labels.to_channels(kept.astype(np.int64)))
    except DataError as error:
        raise DataError(f"label {shown(case.reference)}: {error}") from None
    return LabelMap(data, stored.geometry, labels, stored.warnings), True


def _left_out(case: Case, stored: Stored, changes: list[str]) -> bool:
    """Whether the label holds values that the config leaves out."""
    there = [value for value in case.left_out if (stored.data == value).any()]
    if there:
        changes.append(f"label values {', '.join(map(str, there))}, which labels leave out, became background")
    return bool(there)


def _laid_on(label: LabelMap, image: Volume, changes: list[str]) -> tuple[LabelMap, bool]:
    """``label`` on the image's own grid where it lies within the tolerance; whether that moved it."""
    order = order_between(label.geometry, image.geometry)
    if order is not None and image.geometry.corner_shift(order.geometry(label.geometry)) <= _EXACT:
        return label, False
    nearest = nearest_order(label.geometry, image.geometry)
    said = difference(image.geometry, label.geometry)
    if nearest is None:
        raise DataError(
            f"the label's shape {label.geometry.shape} is not the image's {image.geometry.shape}: resample one"
        )
    order, shift, other = nearest
    if shift > LARGEST_SHIFT or other < CLEARLY_OTHER:
        raise DataError(
            f"the label's affine differs from the image's: {said}; a corner misses by {shift:.3g} voxels, at most "
            f"{LARGEST_SHIFT} are put right, and never where it could be a flip"
        )
    changes.append(f"the label, {shift:.2g} voxels beside the image's grid ({said}), was given the image's affine")
    return LabelMap(order.array(label.data), image.geometry, label.labels, label.warnings), True


def _filled(case: Case, image: Volume, label: LabelMap, bad: npt.NDArray[np.bool_], changes: list[str]) -> Volume:
    order = order_between(label.geometry, image.geometry)
    inside = order.array(label.data) != 0 if order else np.ones(image.geometry.shape, bool)
    if (bad & inside).any():
        count = int(np.count_nonzero(bad & inside))
        raise DataError(
            f"{count} NaN or infinite voxel(s) lie inside structures of {case.id}: what they were is not known"
        )
    data: npt.NDArray[Any] = image.data.copy()
    for channel, wrong in zip(data, bad, strict=True):
        channel[wrong] = channel[~wrong].min()
    changes.append(
        f"{np.count_nonzero(bad)} NaN or infinite voxel(s), all outside every structure, became the image's minimum"
    )
    return replace(image, data=data)
