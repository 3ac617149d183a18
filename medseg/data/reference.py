"""References as training sees them: the structures asked for, and the others that the dataset names as background."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.reading import holds_named_masks, read_label_map
from medseg.io.source import shown


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
