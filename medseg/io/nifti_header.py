"""What a NIfTI header claims, checked before anything is allocated. Field meanings: nifti1.h and nifti2.h of the NIfTI DFWG."""

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.quaternions import quat2mat

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import SAME_GRID_TOLERANCE, Affine, Geometry
from medseg.io.grid import check_affine, check_spacing
from medseg.io.source import foreign_content

HEADER_SIZES = 348, 540  # NIfTI-1, NIfTI-2
MAX_OFFSET = 2**26
_DTYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1"},
    **{512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_REFUSED = {
    **{0: "unknown", 1: "1-bit", 1536: "128-bit float"},
    **{32: "complex", 1792: "complex", 2048: "complex"},
    **{128: "RGB colour", 2304: "RGBA colour"},
}
_UNITS = {1: "metres", 3: "micrometres"}
# A float32 quaternion fixes a rotation near a half turn only to sqrt(2 * 2**-23) radians, because its real part is
# 1 minus the squares of the others.
_QUATERNION_RADIANS = 7e-4


@dataclass(frozen=True, eq=False)
class NiftiHeader:
    """The checked claims: voxels of ``dtype`` (I, J, K, C), i fastest, from byte ``offset``; value = voxel * slope + intercept."""

    geometry: Geometry
    channels: int
    dtype: np.dtype[Any]
    offset: int
    slope: float
    intercept: float
    single: bool
    byte_order: str
    warnings: tuple[str, ...]

    @property
    def voxel_bytes(self) -> int:
        return int(np.prod(self.geometry.shape)) * self.channels * self.dtype.itemsize


def header_size(start: bytes, name: str) -> int:
    """348 for NIfTI-1, 540 for NIfTI-2, from the first four bytes in either byte order. Raises DataError for other files."""
    if len(start) < 348:
        raise DataError(f"{name}: truncated: {len(start)} bytes are fewer than a NIfTI header (348)")
    foreign = foreign_content(start)
    if foreign:
        raise DataError(f"{name}: not a NIfTI image: it holds {foreign}")
    size = {int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")} & set(HEADER_SIZES)
    if not size:
        raise DataError(f"{name}: not a NIfTI header: it starts with neither 348 nor 540 (sizeof_hdr)")
    return size.pop()


def parse_header(raw: bytes, name: str, *, max_voxels: int) -> NiftiHeader:
    """The claims of ``raw`` (348 or 540 bytes). Raises DataError or GeometryError naming the first that cannot be true."""
    order: Literal["<", ">"] = "<" if int.from_bytes(raw[:4], "little") == len(raw) else ">"
    kind = nib.Nifti1Header if len(raw) == 348 else nib.Nifti2Header
    header = kind(raw, endianness=order, check=False).structarr
    single = _is_single(header, name)
    shape, channels = _shape(header, name, max_voxels)
    dtype = _dtype(header, name).newbyteorder(order)
    with np.errstate(invalid="ignore"):  # a signalling NaN warns when it is merely copied
        affine, warnings = _affine(header, name, shape)
    slope, intercept = _scale(header, name)
    return NiftiHeader(
        geometry=Geometry(shape, affine),
        channels=channels,
        dtype=dtype,
        offset=_offset(header, name, single, len(raw)),
        slope=slope,
        intercept=intercept,
        single=single,
        byte_order=order,
        warnings=warnings,
    )


def check_extensions(block: bytes, name: str, order: str) -> list[bytes]:
    """Contents of the extensions in ``block``, the bytes between header and voxels. Raises DataError where their sizes lie."""
    found: list[bytes] = []
    if len(block) < 4 or block[0] == 0:
        return found
    position = 4
    while position < len(block) and any(block[position:]):
        size = int(np.frombuffer(block[position : position + 4].ljust(4, b"\0"), f"{order}i4")[0])
        if size < 16 or size % 16 or position + size > len(block):
            raise DataError(
                f"{name}: header extension at byte {position} claims a size of {size} bytes, "
                f"{len(block) - position} lie before the voxels (vox_offset); the header is damaged"
            )
        found.append(block[position + 8 : position + size].rstrip(b"\0"))
        position += size
    if not found:
        raise DataError(f"{name}: the header announces an extension, but none lies before the voxels (vox_offset)")
    return found


def qform_affine(header: npt.NDArray[Any], name: str) -> Affine:
    """The qform (4, 4): method 2 of nifti1.h. pixdim[0] of 0 counts as 1. Raises GeometryError for an impossible quaternion."""
    bcd = np.array([header[f"quatern_{part}"] for part in "bcd"], float)
    norm = float(bcd @ bcd) if np.abs(bcd).max() < 2 else np.inf
    if not norm <= 1 + 1e-4:
        raise GeometryError(
            f"{name}: qform quaternion is invalid: the squares of quatern_b, c, d must sum to at most 1"
        )
    if norm > 1:
        bcd /= np.sqrt(norm)
    rotation = quat2mat(np.r_[np.sqrt(max(0.0, 1.0 - bcd @ bcd)), bcd])
    qfac = float(header["pixdim"][0])
    if qfac not in (-1, 0, 1):
        raise GeometryError(f"{name}: qform handedness (pixdim[0]) is {qfac:g}, expected -1 or 1 (0 counts as 1)")
    affine = np.eye(4)
    affine[:3, :3] = rotation * header["pixdim"][1:4].astype(float)
    if qfac < 0:
        affine[:3, 2] *= -1
    affine[:3, 3] = [header[f"qoffset_{axis}"] for axis in "xyz"]
    return affine


def _is_single(header: npt.NDArray[Any], name: str) -> bool:
    magic = bytes(header["magic"].item())
    version = 2 if header["sizeof_hdr"] == 540 else 1
    known = {1: (b"n+1", b"ni1"), 2: (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n", b"n+2", b"ni2")}[version]
    if magic not in known:
        raise DataError(
            f"{name}: not recognised as NIfTI: its magic is {magic!r}, expected 'n+{version}' or 'ni{version}'; "
            "the older Analyze format holds no orientation and is not read"
        )
    return magic[1:2] == b"+"


def _shape(header: npt.NDArray[Any], name: str, max_voxels: int) -> tuple[tuple[int, int, int], int]:
    dim = [int(n) for n in header["dim"]]
    if not 1 <= dim[0] <= 7:
        raise DataError(f"{name}: dim[0] (number of dimensions) is {dim[0]}, expected 3 or 4; the header is damaged")
    sizes = dim[1 : dim[0] + 1]
    if min(sizes) < 1:
        raise DataError(f"{name}: every size in dim must be at least 1, got shape {tuple(sizes)}")
    if dim[0] < 3:
        raise DataError(f"{name}: a {dim[0]}D image of shape {tuple(sizes)}; a 3D scan is needed (three dimensions)")
    if any(n > 1 for n in sizes[4:]):
        raise DataError(
            f"{name}: {len(sizes)}D data of shape {tuple(sizes)} (a vector or time dimension); a 3D scan is needed, "
            "or 4D with its channels"
        )
    channels = sizes[3] if len(sizes) > 3 else 1
    voxels = sizes[0] * sizes[1] * sizes[2] * channels
    if voxels > max_voxels:
        raise DataError(
            f"{name}: too large: shape {tuple(sizes)} has {voxels} voxels, the limit is {max_voxels} (--max-voxels); "
            "the size in dim may be damaged"
        )
    return (sizes[0], sizes[1], sizes[2]), channels


def _dtype(header: npt.NDArray[Any], name: str) -> np.dtype[Any]:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code not in _DTYPES:
        kind = _REFUSED.get(code, "unknown")
        raise DataError(f"{name}: voxel type {kind} (datatype {code}) is no scan; expected one number per voxel")
    dtype = np.dtype(_DTYPES[code])
    if bits != dtype.itemsize * 8:
        raise DataError(
            f"{name}: header says {bits} bits per voxel (bitpix), its type {dtype} has {dtype.itemsize * 8}"
        )
    return dtype


def _affine(header: npt.NDArray[Any], name: str, shape: tuple[int, int, int]) -> tuple[Affine, tuple[str, ...]]:
    """The sform where set, else the qform, else none is known: then voxels follow nibabel's guess, with a warning."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in (0, 2):
        raise GeometryError(
            f"{name}: spatial unit in the header is {_UNITS.get(unit, f'code {unit}')}, expected mm; convert the file"
        )
    pixdim = header["pixdim"][1:4].astype(float)
    check_spacing(name, pixdim, "pixdim")
    for code in ("qform_code", "sform_code"):
        if not 0 <= header[code] <= 5:
            raise GeometryError(f"{name}: {code} is {header[code]}, expected 0 to 5; the header is damaged")
    sform = None
    notes: list[str] = []
    if header["sform_code"] > 0:
        sform = np.eye(4)
        sform[:3] = [header[f"srow_{row}"] for row in "xyz"]
        notes = check_affine(name, sform, "sform")
    if header["qform_code"] > 0:
        qform = qform_affine(header, name)
        check_affine(name, qform, "qform")
        if sform is None:
            return qform, ()
        _check_agreement(name, shape, sform, qform)
    if sform is not None:
        lengths = np.linalg.norm(sform[:3, :3], axis=0)
        if (np.abs(lengths / pixdim - 1) > 0.01).any():
            raise GeometryError(
                f"{name}: spacing in pixdim {_mm(pixdim)} differs from that of the sform {_mm(lengths)}; "
                "one of them is wrong: write the right one into both"
            )
        return sform, tuple(notes)
    affine = np.diag([-pixdim[0], pixdim[1], pixdim[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine, ("the file holds no orientation (sform and qform are 0): left and right are a guess",)


def _check_agreement(name: str, shape: tuple[int, int, int], sform: Affine, qform: Affine) -> None:
    corners = np.array([[*corner, 1.0] for corner in product(*((0, n) for n in shape))])
    moved_mm = np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max()
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    allowed_mm = SAME_GRID_TOLERANCE * spacing.min() + _QUATERNION_RADIANS * np.linalg.norm(spacing * shape)
    if moved_mm > allowed_mm:
        raise GeometryError(
            f"{name}: qform and sform disagree: a corner of the grid moves by {moved_mm:.3g} mm between them; "
            "one of the two is wrong (or the sform affine holds a shear, which a qform cannot): set both to the true one"
        )


def _scale(header: npt.NDArray[Any], name: str) -> tuple[float, float]:
    """A slope of 0 (or NaN, as nibabel writes for none) means unscaled."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope):
        return 1.0, 0.0
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise DataError(f"{name}: intensity scale must be finite, got scl_slope {slope:g} and scl_inter {intercept:g}")
    return slope, intercept


def _offset(header: npt.NDArray[Any], name: str, single: bool, size: int) -> int:
    offset = float(header["vox_offset"])
    least = size + 4 if single else 0
    if not least <= offset <= MAX_OFFSET or offset != int(offset):
        raise DataError(f"{name}: vox_offset (where the voxels start) is {offset:g}; the header ends at byte {least}")
    if offset % 16:
        raise DataError(f"{name}: vox_offset {offset:g} is no multiple of 16; the header is damaged")
    return int(offset)


def _mm(values: npt.NDArray[np.float64]) -> str:
    return "(" + ", ".join(f"{v:.5g}" for v in values) + ") mm"
