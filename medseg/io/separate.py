"""One NIfTI mask per structure in a folder beside the label map, as TotalSegmentator and many tools after it expect."""

import re
import unicodedata
from pathlib import Path

import numpy as np

from medseg.core.labels import Labels, Structure, told_apart
from medseg.core.volume import LabelMap
from medseg.io.nifti import label_map_bytes
from medseg.io.segmentation import Segmentation

_LONGEST = 100
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # names that Windows keeps for devices


def mask_paths(place: Path, labels: Labels) -> tuple[Path, ...]:
    """``<place>/<structure>.nii.gz`` for each structure, in the labels' order."""
    return tuple(place / f"{name}.nii.gz" for name in file_names(labels))


def masks(segmentation: Segmentation) -> dict[Path, bytes]:
    """A uint8 mask of 0 and 1 on the label map's grid for each structure, also for one that has no voxel."""
    found = segmentation.label_map
    paths = mask_paths(segmentation.place, segmentation.labels)
    contents = {}
    for path, structure in zip(paths, segmentation.labels.structures, strict=True):
        only = Labels((Structure(structure.name, 1, structure.colour),), segmentation.labels.background)
        mask = (found.data == structure.value).astype(np.uint8)
        contents[path] = label_map_bytes(path, LabelMap(mask, found.geometry, only))
    return contents


def file_names(labels: Labels) -> tuple[str, ...]:
    """A file name for each structure of letters, digits and ``. _ -``, no two alike in any letter case.

    >>> file_names(Labels.from_mapping({"background": 0, "Niere, links": 1, "../liver": 2}))
    ('Niere_links', 'liver')
    """
    names = [_safe(structure.name) or "structure" for structure in labels.structures]
    return tuple(told_apart(names, labels.values))


def _safe(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).strip("._-")[:_LONGEST]
    return f"structure_{safe}" if _RESERVED.fullmatch(safe) else safe
