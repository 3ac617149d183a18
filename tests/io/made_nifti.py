"""NIfTI files made byte by byte, with a bright voxel at a known place in the world."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (24, 20, 16)
MARKER = (5, 12, 9)
ANGLE = np.radians(20)
ROTATION = np.array(
    [[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1.0]],
)
SPACING = np.array([1.5, 1.25, 3.0])
OBLIQUE = nib.affines.from_matvec(ROTATION * SPACING, [-31.0, 17.5, 240.25])
STRAIGHT = nib.affines.from_matvec(np.diag(SPACING), [-31.0, 17.5, 240.25])


@dataclass(frozen=True)
class Made:
    """A file and the world position (mm) of its brightest voxel; None where only nibabel's own reading tells it."""

    path: Path
    marker_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Kind:
    """``expected`` error, ok or warn; ``hint``: groups separated by ``; `` of words separated by ``/``."""

    expected: str
    hint: str
    make: Callable[[Path], Made]


def scan(shape: tuple[int, ...] = SHAPE, marker: tuple[int, ...] = MARKER, dtype: Any = np.int16) -> np.ndarray:
    data = np.random.default_rng(0).integers(0, 90, shape).astype(dtype)
    data[marker] = 120
    return data


def at(affine: np.ndarray, index: tuple[int, ...] = MARKER) -> tuple[float, float, float]:
    x, y, z = nib.affines.apply_affine(affine, index[:3])
    return float(x), float(y), float(z)


def encoded(
    data: np.ndarray | None = None, affine: np.ndarray | None = OBLIQUE, kind: Any = nib.Nifti1Image, **fields: Any
) -> bytes:
    """A .nii file with both forms set (code 1) and then ``fields`` of the header overwritten; slices as ``pixdim_1``."""
    image = kind(scan() if data is None else data, affine, dtype=(scan() if data is None else data).dtype)
    if affine is not None:
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        image.header.set_xyzt_units("mm", "sec")
    raw = bytearray(image.to_bytes())
    return overwrite(raw, type(image.header), **fields)


def overwrite(raw: bytearray | bytes, header_type: Any = nib.Nifti1Header, **fields: Any) -> bytes:
    size = header_type.template_dtype.itemsize
    header = np.frombuffer(bytes(raw[:size]), header_type.template_dtype).copy()[0]
    for field, value in fields.items():
        name, _, index = field.rpartition("_")
        if index.isdigit():
            header[name][int(index)] = value
        else:
            header[field] = value
    return header.tobytes() + bytes(raw[size:])


def plain(content: Callable[[], bytes], *, name: str = "scan.nii", marker: Any = None) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        (folder / name).write_bytes(content())
        return Made(folder / name, marker)

    return make
