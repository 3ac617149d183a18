"""References as training sees them: the structures asked for, and the others that the dataset names as background."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.reading import holds_named_masks, read_label_map
from medseg.io.source import shown


def counted_channels(
    channels: npt.NDArray[np.uint8 | np.uint16], labels: Labels, annotated: Sequence[str] | None
) -> tuple[npt.NDArray[np.uint8 | np.uint16], int]:
    """``channels`` of a case with 0 for what does not count, and the number of voxels to be ignored.

    Ignored voxels do not count, nor do structures that the case does not annotate.
    """
    if annotated is None and labels.ignore is None:
        return channels, 0
    kept = [n * known for n, known in enumerate(labels.annotated_channels(annotated))]
    table = np.array([*kept, 0], labels.channel_dtype)
    return table[channels], int(np.count_nonzero(channels == labels.channels))


def read_reference(path: Path, labels: Labels, left_out: Sequence[int] = (), like: Geometry | None = None) -> LabelMap:
    """The label map at ``path`` with the values ``left_out`` set to 0; a DICOM object is laid on the image's grid ``like``.

    Raises DataError naming the file where a value is neither in ``labels`` nor left out.
    """
    if not left_out or holds_named_masks(path):
        return read_label_map(path, labels, like=like)
    found = read_label_map(path)
    data = np.where(np.isin(found.data, left_out), found.data.dtype.type(0), found.data)
    try:
        labels.to_channels(data)
    except DataError as error:
        raise DataError(f"{shown(path)}: {error}") from None
    return replace(found, data=data, labels=labels)
