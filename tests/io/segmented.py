"""Finished segmentations to write further outputs of, made in memory."""

from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.io.scan import Scan
from medseg.io.segmentation import Segmentation

LABELS = Labels.from_mapping({"background": 0, "liver": 1, "kidney_left": 2, "tumour": 5, "spleen": 300})
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.4, -0.3, 0.2) @ np.diag([-0.8, 1.3, 2.5]), [12.0, -30.0, 907.5]
)
SHAPE = (13, 11, 7)


def blocks(labels: Labels = LABELS, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A block for each structure but the last, all off the middle, so that any flip, swap or shift shows."""
    data = np.zeros(shape, labels.dtype)
    for n, value in enumerate(labels.values[:-1]):
        data[1 + 2 * n : 4 + 2 * n, n + 1 : n + 5, n : n + 2] = value
    return data


def segmentation(place: Path, labels: Labels = LABELS, affine: np.ndarray = OBLIQUE) -> Segmentation:
    data = blocks(labels)
    grid = Geometry(SHAPE, affine)
    scan = np.random.default_rng(0).integers(-1000, 1000, (1, *SHAPE)).astype(np.int16)
    return Segmentation(LabelMap(data, grid, labels), labels, Scan(Volume(scan, grid)), place, "tiny")


def written(contents: dict[Path, bytes]) -> list[Path]:
    """Put the files on the disk as core.files would; their paths."""
    for path, content in contents.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return list(contents)
