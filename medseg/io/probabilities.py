"""Probability maps beside label maps: NIfTI and the like with a channel for each label, or the .npz files of nnU-Net.

``nnUNetv2_predict --save_probabilities`` writes ``<case>.npz`` beside ``<case>.nii.gz``, with one array ``probabilities``
(labels, K, J, I): SimpleITK's order of the axes, in the storage order of the label map and without a geometry of its own.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.core.case import case_id, has_image_suffix
from medseg.core.errors import DataError, GeometryError
from medseg.core.volume import LabelMap, Volume
from medseg.io.matching import FilePair
from medseg.io.reading import read_volume
from medseg.io.source import check_regular, shown

_KEYS = ("probabilities", "softmax")  # nnU-Net 2, and its first version
_MOST_CHANNELS = 1024
_ROUNDING = 0.01  # float16 of many labels


def with_probabilities(pairs: Sequence[FilePair], place: Path) -> tuple[list[FilePair], dict[str, str]]:
    """The ``pairs`` with the probability map of each from ``place``, a file or a folder; and a message for each without one.

    By case id; in a folder .npz goes first, so that label maps may lie beside it. Raises DataError where nothing is there.
    """
    if not place.exists():
        raise DataError(f"{shown(place)}: not found; give the file or folder of the probabilities")
    if not place.is_dir():
        if len(pairs) > 1:
            raise DataError(f"{shown(place)}: one file of probabilities for {len(pairs)} cases; give the folder of all")
        return [replace(pair, probabilities=place) for pair in pairs], {}
    by_id = _by_id(place)
    label_maps = {path.resolve() for pair in pairs for path in (pair.prediction, pair.reference)}
    found = {p.id: by_id[p.id] for p in pairs if p.id in by_id and by_id[p.id].resolve() not in label_maps}
    lacking = [pair.id for pair in pairs if pair.id not in found]
    listed = ", ".join(lacking[:8]) + (", ..." if len(lacking) > 8 else "")
    message = f"{shown(place)}: probabilities missing for {len(lacking)} of {len(pairs)} case(s): {listed}"
    return [replace(p, probabilities=found[p.id]) for p in pairs if p.id in found], dict.fromkeys(lacking, message)


def _by_id(folder: Path) -> dict[str, Path]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{shown(folder)}: this folder cannot be read ({error.strerror})") from None
    images = {case_id(entry): entry for entry in entries if has_image_suffix(entry.name)}
    return images | {case_id(entry.with_suffix("")): entry for entry in entries if entry.suffix.lower() == ".npz"}


def read_probabilities(path: Path, prediction: LabelMap) -> Volume:
    """The probabilities (C, I, J, K) of each label at ``path`` on the file's own grid, of .npz on that of ``prediction``.

    C labels, the background first; a single channel is the only structure's, and the background is put before it. Raises
    DataError or GeometryError where they are no probabilities, or not of this image.
    """
    volume = _read_npz(path, prediction) if path.suffix.lower() == ".npz" else read_volume(path)
    data = volume.data
    low, high = float(data.min()), float(data.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise DataError(
            f"{shown(path)}: values from {low:.4g} to {high:.4g} are no probabilities, which lie between 0 and 1; "
            "write the softmax of the logits"
        )
    if volume.channels == 1:
        data = np.concatenate([1 - data, data])
    nowhere = 0
    for k in range(data.shape[3]):  # slice by slice: memory
        total = data[..., k].sum(axis=0, dtype=np.float64)
        nothing = total == 0
        if nothing.any():  # beyond the box that early versions of nnU-Net 2 cropped to
            data[0, ..., k][nothing] = 1
            nowhere += int(np.count_nonzero(nothing))
        off = float(np.abs(total[~nothing] - 1).max(initial=0))
        if not off <= _ROUNDING:
            raise DataError(
                f"{shown(path)}: the probabilities of {data.shape[0]} channels do not sum to 1 (off by {off:.3g}); the "
                "background is the first channel, and regions that overlap (sigmoids) cannot be scored so"
            )
    if nowhere == data[0].size:
        raise DataError(f"{shown(path)}: every probability is 0; the file holds no prediction")
    notes = (f"{nowhere} voxels without any probability were taken for background",) if nowhere else ()
    return replace(volume, data=data, warnings=(*volume.warnings, *notes))


def _read_npz(path: Path, prediction: LabelMap) -> Volume:
    name, grid = shown(path), prediction.geometry
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            key = next((key for key in _KEYS if f"{key}.npy" in archive.namelist()), None)
            if key is None:
                raise DataError(f"{name}: holds no array called {' or '.join(_KEYS)}, as nnU-Net writes it")
            shape, dtype = _claimed(archive, f"{key}.npy")
        if len(shape) != 4 or shape[:0:-1] != grid.shape:
            raise GeometryError(
                f"{name}: probabilities of shape {shape} (labels, K, J, I) do not fit the prediction of shape {grid.shape}; "
                "give the file that belongs to it"
            )
        if dtype.kind != "f" or not 1 <= shape[0] <= _MOST_CHANNELS:
            raise DataError(
                f"{name}: {shape[0]} channels of type {dtype}; probabilities are floats, a channel for each label"
            )
        with np.load(path, allow_pickle=False) as arrays:
            data = arrays[key]
    except (OSError, ValueError, zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise DataError(f"{name}: cannot be read, the file may be truncated or corrupt ({error})") from None
    if not np.isfinite(data).all():
        raise DataError(f"{name}: all probabilities must be finite, some are NaN or inf")
    return Volume(data.transpose(0, 3, 2, 1).astype(np.float32, copy=False), grid)


def _claimed(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type by the header of an array, before memory is taken for it."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    return tuple(shape), dtype


def values_of_channels(channels: int, values: Sequence[int] | None, name: str) -> tuple[int, ...]:
    """The label value that each channel stands for: 0 and the ``values`` in rising order, or where they are unknown its number.

    Raises DataError where there are other than one channel for each.
    """
    if values is None:
        return tuple(range(channels))
    known = (0, *sorted(values))
    if channels != len(known):
        raise DataError(
            f"{name}: {channels} channels of probabilities for {len(known)} labels with the background "
            f"(values {', '.join(map(str, known[:12]))}); there must be one for each, in rising order of the values"
        )
    return known


def agreement(data: npt.NDArray[Any], label_map: npt.NDArray[Any], values: Sequence[int]) -> float:
    """Of the voxels that either calls no background, the part where the most probable label is that of ``label_map``; 1 if none."""
    table = np.array(values)
    same = either = 0
    for k in range(label_map.shape[2]):
        top, drawn = table[data[..., k].argmax(axis=0)], label_map[:, :, k]
        some = (top != 0) | (drawn != 0)
        either += int(np.count_nonzero(some))
        same += int(np.count_nonzero(some & (top == drawn)))
    return same / either if either else 1.0
