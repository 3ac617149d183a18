"""nibabel's images in memory: to voxels and their geometry, and label maps as images of their kind."""

import zlib
from typing import Any

import nibabel as nib
import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap
from medseg.io.grid import check_affine
from medseg.io.label_table import ECODE, table_to_xml
from medseg.io.nifti import label_header
from medseg.io.nifti_header import HEADER_SIZES, parse_header
from medseg.io.stored import Stored


def stored_from_nibabel(name: str, image: Any, *, max_voxels: int) -> Stored:
    """The voxels of a nibabel ``image`` as stored, a 4th axis as the channels, on exactly ``image.affine``.

    A NIfTI image is held to what its file would be held to. Raises DataError or GeometryError where it is no scan.
    """
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise DataError(f"{name}: a {type(image).__name__} holds no voxels on a grid; give a NIfTI image")
    nifti = isinstance(image, nib.Nifti1Pair)
    if isinstance(image, nib.AnalyzeImage) and not nifti:
        raise DataError(f"{name}: the Analyze format holds no orientation; give a NIfTI image")
    if image.affine is None:
        raise GeometryError(f"{name}: the image has no affine; give it one: Nifti1Image(data, affine)")
    shape = tuple(int(n) for n in image.shape)
    if not nifti and len(shape) not in (3, 4):
        raise DataError(f"{name}: a {len(shape)}D image of shape {shape}; a 3D scan is needed, or 4D with its channels")
    warnings = _nifti_warnings(name, image, max_voxels) if nifti else tuple(check_affine(name, image.affine, "its"))
    proxy = image.dataobj
    try:
        raw = proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else np.asanyarray(proxy)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{name}: its voxels could not be read ({error})") from None
    grid = Geometry((shape[0], shape[1], shape[2]), image.affine)
    data = np.moveaxis(raw.reshape(*grid.shape, -1), -1, 0)
    scaled = hasattr(proxy, "get_unscaled")
    slope, intercept = (float(proxy.slope), float(proxy.inter)) if scaled else (1.0, 0.0)
    return Stored(data, grid, slope, intercept, warnings)


def _nifti_warnings(name: str, image: Any, max_voxels: int) -> tuple[str, ...]:
    """What the checks of a NIfTI file remark on the header that ``image`` would be written with."""
    header = image.__class__(image.dataobj, image.affine, image.header).header
    if not nib.is_proxy(image.dataobj):
        try:
            header.set_data_dtype(image.dataobj.dtype)  # the array counts, not the type that it would be saved in
        except nib.spatialimages.HeaderDataError:
            raise DataError(
                f"{name}: voxels of type {image.dataobj.dtype} are no scan; give integers or floats"
            ) from None
        header["scl_slope"], header["scl_inter"] = np.nan, np.nan
    header["vox_offset"] = header.single_vox_offset if header.is_single else 0
    return parse_header(header.binaryblock, name, max_voxels=max_voxels).warnings


def nibabel_grid(image: Any) -> Any:
    """The class, affine, shape and header of ``image`` without its voxels: what ``nibabel_label_image`` needs of it."""
    kind = image.__class__ if isinstance(image, nib.Nifti1Pair) else nib.Nifti1Image
    header = image.header if isinstance(image, nib.Nifti1Pair) else None
    return kind(np.broadcast_to(np.uint8(0), image.shape[:3]), image.affine, header)


def nibabel_label_image(label_map: LabelMap, like: Any = None) -> Any:
    """``label_map`` as a NIfTI image in memory: intent label, the structures' names in its header.

    With ``like``, a NIfTI image, its class, affine, codes and units are that image's own.
    """
    made = label_header("the label map", label_map)
    data = np.asarray(label_map.data, made.get_data_dtype())
    if like is None:
        kind = nib.Nifti1Image if made.sizeof_hdr == HEADER_SIZES[0] else nib.Nifti2Image
        return kind(data, label_map.geometry.affine, made)
    header = like.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_intent("label")
    header["scl_slope"], header["scl_inter"], header["cal_min"], header["cal_max"] = np.nan, np.nan, 0, 0
    header.extensions.clear()
    if label_map.labels:
        header.extensions.append(nib.nifti1.Nifti1Extension(ECODE, table_to_xml(label_map.labels)))
    return like.__class__(data, like.affine, header)
