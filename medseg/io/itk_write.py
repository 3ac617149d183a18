"""MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) written: voxels in their own type, compressed, the affine in full precision.

https://docs.itk.org/en/latest/learn/metaio.html and http://teem.sourceforge.net/nrrd/format.html
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal import igzip, isal_zlib

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Affine, Geometry
from medseg.io.source import shown

_LEVEL = 1
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_META_TYPES = {
    **{"i1": "CHAR", "u1": "UCHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT"},
    **{"i8": "LONG_LONG", "u8": "ULONG_LONG", "f4": "FLOAT", "f8": "DOUBLE"},
}


def itk_files(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> dict[Path, bytes]:
    """The content of ``path`` for ``data`` (C, I, J, K), and of the data file beside a .mhd or .nhdr.

    The bytes depend on the content alone. Raises GeometryError for a sheared grid, which ITK's programs take for an upright
    one, and DataError for voxels or a name that the format does not hold.
    """
    name = shown(path)
    if geometry.is_sheared:
        raise GeometryError(
            f"{name}: the voxel axes are sheared by {geometry.shear_degrees:.1f} degrees (gantry tilt), and {path.suffix} holds "
            "right angles only; write NIfTI (.nii.gz) or DICOM"
        )
    if data.dtype.str[1:] not in _META_TYPES:
        raise DataError(f"{name}: voxels of type {data.dtype} are not known to {path.suffix}; write NIfTI (.nii.gz)")
    if data.dtype == np.uint8 and len(data) in (3, 4):
        raise DataError(
            f"{name}: {len(data)} channels of 8 bits would be taken for a colour image in {path.suffix}; write NIfTI (.nii.gz) "
            "or a picture"
        )
    detached = {".mhd": ".zraw", ".nhdr": ".raw.gz"}.get(path.suffix.lower())
    beside = path.with_suffix(detached) if detached else None
    if beside is not None and not _plain(beside.name):
        raise DataError(
            f"{name}: a header cannot name a data file with such characters; write .mha or .nrrd, or rename it"
        )
    # Channels are the fastest axis, then i.
    voxels = np.ascontiguousarray(data.transpose(3, 2, 1, 0), data.dtype.newbyteorder("<"))
    lps = _LPS_TO_RAS @ geometry.affine + 0.0  # no minus zeros
    kind = (voxels.dtype.str[1:], geometry.shape, len(data))
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        packed: bytes = igzip.compress(voxels, _LEVEL, mtime=0)
        header = _nrrd(lps, kind, beside)
    else:
        packed = isal_zlib.compress(voxels, _LEVEL)
        header = _metaimage(lps, kind, beside, len(packed))
    return {path: header + packed} if beside is None else {path: header, beside: packed}


def _nrrd(lps: Affine, kind: tuple[str, tuple[int, int, int], int], beside: Path | None) -> bytes:
    code, shape, channels = kind
    several = channels > 1
    names = {"i": "int", "u": "uint", "f": ""}
    bits = int(code[1:]) * 8
    sizes = ([channels] if several else []) + list(shape)
    directions = (["none"] if several else []) + ["(" + ",".join(_numbers(axis)) + ")" for axis in lps[:3, :3].T]
    lines = [
        "NRRD0004",
        f"type: {names[code[0]]}{bits}" if code[0] != "f" else f"type: {'float' if bits == 32 else 'double'}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, sizes))}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {'vector ' if several else ''}domain domain domain",
        "endian: little",
        "encoding: gzip",
        f"space origin: ({','.join(_numbers(lps[:3, 3]))})",
    ]
    if beside is not None:
        lines.append(f"data file: {beside.name}")
    return ("\n".join(lines) + "\n\n").encode("utf-8")


def _metaimage(lps: Affine, kind: tuple[str, tuple[int, int, int], int], beside: Path | None, size: int) -> bytes:
    code, shape, channels = kind
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(size),
        "TransformMatrix": " ".join(_numbers((lps[:3, :3] / spacing).T.ravel())),  # one axis after the other
        "Offset": " ".join(_numbers(lps[:3, 3])),
        "CenterOfRotation": "0 0 0",
        "ElementSpacing": " ".join(_numbers(spacing)),
        "DimSize": " ".join(map(str, shape)),
        **({"ElementNumberOfChannels": str(channels)} if channels > 1 else {}),
        "ElementType": f"MET_{_META_TYPES[code]}",
        "ElementDataFile": "LOCAL" if beside is None else beside.name,
    }
    return "".join(f"{key} = {value}\n" for key, value in fields.items()).encode("utf-8")


def _numbers(values: npt.NDArray[np.float64]) -> list[str]:
    return [repr(float(value)) for value in values]


def _plain(name: str) -> bool:
    """True where both headers can name the file: text on one line, no pattern, no word of their own."""
    return (
        name.isprintable()
        and name == name.strip()
        and "%" not in name
        and not name.upper().startswith(("LIST", "LOCAL"))
    )
