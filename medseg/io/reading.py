"""One door for every scan and label map: the path decides the reader, and all of them are held to the same checks."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import order_between
from medseg.core.labels import Labels
from medseg.core.volume import LabelMap, Volume
from medseg.io.source import IMAGE_BOMB_BYTES, LABEL_BOMB_BYTES, check_regular, foreign_content, open_regular, shown
from medseg.io.stored import Stored, as_intensities, as_label_map

MAX_VOXELS = 2**31
_NIFTI = ".nii", ".nii.gz", ".hdr", ".img"
_ITK = ".mha", ".mhd", ".nrrd", ".nhdr"
_FLAT = ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif"
_READ = "NIfTI (.nii, .nii.gz, .hdr/.img), MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr) and DICOM folders"


def read_volume(path: Path, *, channels: int | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """The scan at ``path`` in stored axis order, in RAS+ millimetres.

    ``path`` is an image file, the folder of one DICOM series, or a multi-frame DICOM file. Integers and float32 keep
    their type, scaled or wider intensities become float32; a 4th axis becomes the channels. What had to be assumed is
    in ``warnings``. Raises DataError or GeometryError naming the file and what is wrong; with ``channels``, also where
    the scan has another number of them.
    """
    stored = _read(path, max_voxels, IMAGE_BOMB_BYTES)
    if channels is not None and stored.data.shape[0] != channels:
        raise DataError(
            f"{shown(path)}: {stored.data.shape[0]} channels (4th dimension: a time series or several volumes?), "
            f"expected {channels}; give one file per case with the channels that the model was trained on"
        )
    return as_intensities(shown(path), stored)


def read_volumes(paths: Sequence[Path], *, channels: int | None = None, max_voxels: int = MAX_VOXELS) -> Volume:
    """The channels of one case, one file each, in the first file's storage order.

    Raises GeometryError naming both files where a grid differs from the first, and whatever ``read_volume`` raises.
    """
    if len(paths) == 1:
        return read_volume(paths[0], channels=channels, max_voxels=max_voxels)
    volumes = [read_volume(path, max_voxels=max_voxels) for path in paths]
    first = volumes[0].geometry
    parts = []
    for path, volume in zip(paths, volumes, strict=True):
        order = order_between(volume.geometry, first)
        if order is None:
            raise GeometryError(
                f"{shown(path)}: grid {volume.geometry!r} differs from {first!r} of {shown(paths[0])}; "
                "the channels of one case must lie on one grid: resample them first"
            )
        parts.append(order.array(volume.data))
    warnings = dict.fromkeys(warning for volume in volumes for warning in volume.warnings)
    joined = Volume(np.concatenate(parts), first, tuple(warnings))
    if channels is not None and joined.channels != channels:
        raise DataError(f"{shown(paths[0])} and {len(paths) - 1} more: {joined.channels} channels, expected {channels}")
    return joined


def read_label_map(path: Path, labels: Labels | None = None, *, max_voxels: int = MAX_VOXELS) -> LabelMap:
    """The label map at ``path`` in stored axis order and the smallest unsigned type that holds its values.

    Floats that hold whole numbers are taken as such. Raises DataError for fractions, NaN, negative values, colours,
    several channels and, where ``labels`` is given, for values that it does not name.
    """
    return as_label_map(shown(path), _read(path, max_voxels, LABEL_BOMB_BYTES), labels)


def _read(path: Path, max_voxels: int, bomb_bytes: int) -> Stored:
    """Imports the reader's library only once its format is met: `import medseg.io.reading` stays cheap."""
    if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where the name is too long or the parent is barred
        return _read_dicom(path, max_voxels)
    check_regular(path)
    lower = path.name.lower()
    if lower.endswith(_NIFTI):
        from medseg.io.nifti import read_nifti

        return read_nifti(path, max_voxels=max_voxels, bomb_bytes=bomb_bytes)
    if lower.endswith(_ITK):
        from medseg.io.itk import read_itk

        return read_itk(path, max_voxels=max_voxels, bomb_bytes=bomb_bytes)
    with open_regular(path) as file:
        start = file.read(512)
    if start[128:132] == b"DICM":
        return _read_dicom(path, max_voxels)
    raise DataError(f"{shown(path)}: {_unsupported(lower, start)}")


def _read_dicom(path: Path, max_voxels: int) -> Stored:
    from medseg.io.dicom import read_dicom

    volume = read_dicom(path, max_voxels=max_voxels)
    return Stored(volume.data, volume.geometry, warnings=volume.warnings, modality=volume.modality)


def _unsupported(lower: str, start: bytes) -> str:
    if lower.endswith(".zip"):
        return "reading zip archives is not there yet; unzip it and give the folder"
    if lower.endswith(_FLAT):
        return "a 2D image; a 3D scan is needed"
    found = foreign_content(start)
    return f"it holds {found}" if found else f"unsupported file type; medseg reads {_READ}"
