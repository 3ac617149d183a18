"""DICOM series with a known mask on them, for the tests of what refers to a series."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from medseg.core.labels import Labels
from medseg.core.volume import LabelMap
from medseg.io.dicom import read_dicom
from medseg.io.segmentation import Segmentation

_PATIENT = (
    *("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
    "ReferringPhysicianName",
)
LABELS = Labels.from_mapping({"background": 0, "liver": 1, "kidney_left": 2, "lost": 5})


def blobs(shape: tuple[int, int, int], seed: int = 0) -> npt.NDArray[np.uint8]:
    """A label map with a shell around a hole, parts that touch at corners only, single voxels, and voxels on the border."""
    rng = np.random.default_rng(seed)
    data = np.zeros(shape, np.uint8)
    i, j, k = np.indices(shape)
    middle = (np.array(shape) - 1) / 2
    radius = np.sqrt(sum(((x - c) / (n / 2.5)) ** 2 for x, c, n in zip((i, j, k), middle, shape, strict=True)))
    data[(radius < 1) & (radius > 0.5)] = 1
    data[(radius < 0.2)] = 2
    data[(rng.random(shape) < 0.05)] = 2
    data[0, :3, 1] = data[-1, -1, :] = 1
    return data


def segmentation(folder: Path, place: Path, data: npt.NDArray[Any] | None = None) -> Segmentation:
    """A mask on the series in ``folder``."""
    scan = read_dicom(folder)
    geometry = scan.volume.geometry
    values = blobs(geometry.shape) if data is None else data
    return Segmentation(LabelMap(values, geometry, LABELS), LABELS, scan, place, "tiny")


def segments(
    sources: Sequence[Dataset],
    label_map: npt.NDArray[np.uint8],
    kind: str,
    names: Mapping[int, str],
    **how: Any,
) -> hd.seg.Segmentation:
    """``label_map`` (I, J, K) as highdicom writes it, one segment for each value of ``names``; planes as ``sources``."""
    descriptions = [
        hd.seg.SegmentDescription(n, name, codes.SCT.Tissue, codes.SCT.Tissue, "MANUAL")
        for n, name in enumerate(names.values(), 1)
    ]
    masks = np.stack([label_map == value for value in names], -1).transpose(2, 1, 0, 3)
    if kind == "LABELMAP":
        pixels: npt.NDArray[Any] = (masks * np.arange(1, len(names) + 1)).sum(-1).astype(np.uint8)
    else:
        pixels = masks * np.float32(0.7) if kind == "FRACTIONAL" else masks.astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for source in sources:
            for keyword in _PATIENT:
                setattr(source, keyword, getattr(source, keyword, None) or "")
        return hd.seg.Segmentation(
            sources,
            pixels,
            kind,
            descriptions,
            series_instance_uid=hd.UID(),
            series_number=9,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="none",
            manufacturer_model_name="none",
            software_versions="1",
            device_serial_number="1",
            **how,
        )


def sources_of(made: Segmentation) -> list[Dataset]:
    """The files of the series in the order of the volume's planes."""
    return [dcmread(frame.path) for frame in made.scan.frames]
