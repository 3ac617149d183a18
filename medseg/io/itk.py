"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr), through SimpleITK once their headers are checked."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import SimpleITK
from isal import isal_zlib

from medseg.core.errors import DataError, GeometryError, ResourceError
from medseg.core.geometry import Affine, Geometry
from medseg.core.memory import SLACK, check_room
from medseg.core.volume import LabelMap
from medseg.io.grid import check_affine
from medseg.io.itk_header import ItkHeader, read_itk_header
from medseg.io.source import IMAGE_BOMB_BYTES, PADDING_BYTES, check_packed_size, check_plain_size, open_regular, shown
from medseg.io.stored import Stored

_STEP = 2**22
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_AUTO_WINDOW = 47  # zlib or gzip wrapping, by what the stream starts with


def read_itk(
    path: Path, *, max_voxels: int, bomb_bytes: int = IMAGE_BOMB_BYTES, max_memory: int | None = None
) -> Stored:
    """The voxels of a MetaImage or NRRD file as stored, in RAS+ millimetres.

    The header is read and checked here first: sizes against the file, compressed data against its checksum, and a data
    file must lie in the header's folder. Raises DataError or GeometryError naming the file and what is wrong, ResourceError
    where it cannot fit in ``max_memory``: SimpleITK holds the voxels, and we a copy.
    """
    name = shown(path)
    header = read_itk_header(path, max_voxels=max_voxels)
    check_room(name, 2 * header.voxel_bytes + SLACK, max_memory)
    _check_voxels(header, bomb_bytes)
    return replace(stored_from_itk(name, _read(path, name)), warnings=header.warnings)


def stored_from_itk(name: str, image: Any) -> Stored:
    """The voxels of a SimpleITK ``image`` as stored, components as channels, in RAS+ millimetres.

    Raises DataError or GeometryError naming ``name`` where it is no scan.
    """
    if not isinstance(image, SimpleITK.Image):
        raise DataError(f"{name}: a {type(image).__name__} is no image; give a SimpleITK.Image")
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise DataError(f"{name}: a {image.GetDimension()}D image of shape {image.GetSize()}; a 3D scan is needed")
    affine = _ras_affine(image)
    if notes := check_affine(name, affine, "direction"):
        raise GeometryError(
            f"{name}: {notes[0].split(':')[0]}, but directions of this format stand at right angles (shear)"
        )
    array = SimpleITK.GetArrayFromImage(image)  # (K, J, I) or (K, J, I, C)
    channels = image.GetNumberOfComponentsPerPixel()
    if channels in (3, 4) and array.dtype == np.uint8:
        raise DataError(
            f"{name}: RGB colour voxels ({channels} channels of uint8 type); a scan has one number per voxel"
        )
    data = array.T if channels > 1 else array.T[np.newaxis]
    i, j, k = image.GetSize()
    return Stored(data, Geometry((i, j, k), affine))


def itk_grid(image: Any) -> Any:
    """An image of one voxel with the origin, spacing and direction of ``image``: what ``itk_label_image`` needs of it."""
    grid = SimpleITK.Image([1, 1, 1], SimpleITK.sitkUInt8)
    grid.SetSpacing(image.GetSpacing()[:3])
    grid.SetOrigin(image.GetOrigin()[:3])
    grid.SetDirection(np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:3, :3].ravel().tolist())
    return grid


def itk_label_image(label_map: LabelMap, like: Any = None) -> Any:
    """``label_map`` as a SimpleITK image, uint8 or uint16; with ``like``, an image, on exactly its grid.

    Raises GeometryError for a sheared grid, which such an image cannot hold.
    """
    geometry = label_map.geometry
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(label_map.data.T))
    if like is not None:
        image.SetSpacing(like.GetSpacing())
        image.SetOrigin(like.GetOrigin())
        image.SetDirection(like.GetDirection())
        return image
    if geometry.is_sheared:
        raise GeometryError(
            f"the label map: its voxel axes are sheared by {geometry.shear_degrees:.1f} degrees (gantry tilt), which "
            "SimpleITK cannot hold; use nibabel"
        )
    lps = _LPS_TO_RAS @ geometry.affine
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / geometry.spacing_mm).ravel().tolist())
    return image


def _ras_affine(image: Any) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    ras: Affine = _LPS_TO_RAS @ affine
    return ras


def _read(path: Path, name: str) -> Any:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{name}: the file name is not UTF-8, which ITK cannot open; rename it") from None
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return SimpleITK.ReadImage(str(path))
    except MemoryError:
        raise ResourceError(f"{name}: not enough memory to hold its voxels; free some or crop the scan") from None
    except RuntimeError as error:
        reason = re.sub(r"\(0x\w+\)|\s+", " ", str(error).split("ERROR: ")[-1])[:160].strip()
        raise DataError(f"{name}: ITK cannot read it, the file may be corrupt ({reason})") from None


def _check_voxels(header: ItkHeader, bomb_bytes: int) -> None:
    """Raise DataError unless exactly the claimed bytes lie there, deflated soundly where compressed."""
    name = shown(header.data_path)
    with open_regular(header.data_path) as file:
        size = os.fstat(file.fileno()).st_size - header.start
        if not header.compressed:
            check_plain_size(name, size, header.voxel_bytes)
            file.seek(header.start + header.voxel_bytes)
            if any(file.read(PADDING_BYTES)):  # bytes put in somewhere push voxels out at the end
                raise DataError(
                    f"{name}: trailing data beyond the {header.voxel_bytes} bytes (size) that the header claims"
                )
            return
        check_packed_size(name, size, header.voxel_bytes, bomb_bytes=bomb_bytes)
        if header.packed_bytes not in (None, size):  # by which ITK goes: of a wrong one it makes up voxels
            raise DataError(
                f"{name}: truncated or corrupt: CompressedDataSize is {header.packed_bytes} bytes, the file holds {size}; "
                "export it again"
            )
        file.seek(header.start)
        inflated = _inflated_size(file, name, header.voxel_bytes)
    if inflated < header.voxel_bytes:
        raise DataError(f"{name}: truncated: expected {header.voxel_bytes} bytes of voxels, they open to {inflated}")
    if inflated > header.voxel_bytes:
        raise DataError(f"{name}: trailing data beyond the {header.voxel_bytes} bytes (size) that the header claims")


def _inflated_size(file: BinaryIO, name: str, enough: int) -> int:
    """How many bytes the rest of ``file`` opens to, counted to a little beyond ``enough``; its checksum is verified."""
    inflater = isal_zlib.decompressobj(_AUTO_WINDOW)
    total = 0
    try:
        while not inflater.eof and total <= enough:
            packed = inflater.unconsumed_tail or file.read(_STEP)
            opened = inflater.decompress(packed, _STEP)
            if not packed and not opened:
                raise DataError(f"{name}: truncated: the compressed voxels end before their end marker and checksum")
            total += len(opened)
    except isal_zlib.error as error:
        raise DataError(f"{name}: corrupt: invalid compressed voxels or a wrong checksum (CRC): {error}") from None
    return total
