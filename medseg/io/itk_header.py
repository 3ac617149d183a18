"""The text headers of MetaImage (.mha, .mhd) and NRRD, read and checked before SimpleITK sees the file.

https://docs.itk.org/en/latest/learn/metaio.html and http://teem.sourceforge.net/nrrd/format.html
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from medseg.core.errors import DataError, GeometryError
from medseg.io.grid import check_spacing
from medseg.io.source import open_stream, shown

_MAX_HEADER_BYTES = 2**18
_META_TYPES = {
    **{"MET_CHAR": 1, "MET_UCHAR": 1, "MET_SHORT": 2, "MET_USHORT": 2, "MET_INT": 4, "MET_UINT": 4},
    **{"MET_LONG": 8, "MET_ULONG": 8, "MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8},
}
_NRRD_TYPES = {
    **{"signed char": 1, "int8": 1, "int8_t": 1, "uchar": 1, "unsigned char": 1, "uint8": 1, "uint8_t": 1},
    **{"short": 2, "short int": 2, "signed short": 2, "signed short int": 2, "int16": 2, "int16_t": 2},
    **{"ushort": 2, "unsigned short": 2, "unsigned short int": 2, "uint16": 2, "uint16_t": 2},
    **{"int": 4, "signed int": 4, "int32": 4, "int32_t": 4, "uint": 4, "unsigned int": 4, "uint32": 4, "uint32_t": 4},
    **{"longlong": 8, "long long": 8, "long long int": 8, "signed long long": 8, "int64": 8, "int64_t": 8},
    **{"ulonglong": 8, "unsigned long long": 8, "unsigned long long int": 8, "uint64": 8, "uint64_t": 8},
    **{"float": 4, "double": 8},
}
_SPACES = "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"


_NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|inf|NaN|NAN|Inf|INF)"
_BLANK = " \t\r"
_META_FLAG = "True", "False", "true", "false", "1", "0"  # of any other word ITK looks at the first letter only
_META_KNOWN = {
    **{"DistanceUnits": ("mm", "?"), "BinaryData": ("True", "true", "1"), "HeaderSize": ("0",)},
    **dict.fromkeys(("BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"), _META_FLAG),
}
_META_MATRICES = "TransformMatrix", "Rotation", "Orientation"
_META_ORIGINS = "Offset", "Position", "Origin"


@dataclass(frozen=True)
class ItkHeader:
    """``voxel_bytes`` of voxels lie in ``data_path`` from byte ``start`` on, deflated where ``compressed``.

    ``packed_bytes``: how many bytes the deflated ones claim to be; None where the format does not say.
    """

    voxel_bytes: int
    data_path: Path
    start: int
    compressed: bool
    warnings: tuple[str, ...]
    packed_bytes: int | None = None


def read_itk_header(path: Path, *, max_voxels: int) -> ItkHeader:
    """The checked header of a .mha, .mhd, .nrrd or .nhdr file. Raises DataError or GeometryError naming what is wrong."""
    with open_stream(path) as stream:
        if stream.compressed:
            raise DataError(f"{stream.name}: gzip compressed as a whole; decompress it first")
        start = stream.read(min(_MAX_HEADER_BYTES, stream.size))
        nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
        return (_nrrd if nrrd else _metaimage)(path, start, max_voxels)


def _metaimage(path: Path, start: bytes, max_voxels: int) -> ItkHeader:
    name = shown(path)
    match = re.search(rb"^[ \t]*ElementDataFile\b[^\n]*(\n|\Z)", start, re.MULTILINE)
    if match is None:
        raise DataError(f"{name}: not a MetaImage header, or truncated: no ElementDataFile line")
    fields = _fields(start[: match.end()], name, r"\s*([^=:\s]+)[^=:]*[=:]\s*(.*)", str)
    sizes = _integers(fields, "DimSize", name)
    if len(sizes) != _integers(fields, "NDims", name)[0]:
        raise DataError(f"{name}: DimSize has {len(sizes)} sizes, NDims says another number of dimensions")
    element = fields.get("ElementType", "")
    if element not in _META_TYPES:
        raise DataError(f"{name}: voxel type {element!r} (ElementType) is no scan; expected one number per voxel")
    components = _integers(fields, "ElementNumberOfChannels", name)[0] if "ElementNumberOfChannels" in fields else 1
    _check_sizes(name, sizes, components, max_voxels)
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    if spacing is None:
        raise GeometryError(f"{name}: no spacing (ElementSpacing) in the header; write the true one into it")
    spacings = _floats(spacing, "ElementSpacing", name)
    if len(spacings) != len(sizes):
        raise GeometryError(f"{name}: {len(spacings)} spacings (ElementSpacing) for {len(sizes)} dimensions")
    check_spacing(name, spacings[:3], "ElementSpacing")
    for key, known in _META_KNOWN.items():
        if fields.get(key, known[0]) not in known:
            raise DataError(f"{name}: {key} is {fields[key]!r}, expected {' or '.join(known[:2])}; convert the file")
    for key, value in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in fields and _floats(fields[key], key, name) != [value]:
            raise DataError(f"{name}: {key} is {fields[key]}; scaled MetaImages are not read, convert the file")
    for alike in (_META_MATRICES, _META_ORIGINS):
        given = [key for key in alike if key in fields]
        if len(given) > 1:
            raise DataError(
                f"{name}: {' and '.join(given)} are names of one field; the header is damaged: keep the right one"
            )
        for key in given:
            count = len(sizes) ** (2 if alike is _META_MATRICES else 1)
            _check_finite(_floats(fields[key], key, name), count, key, name)
    directions = any(key in fields for key in _META_MATRICES)
    compressed = fields.get("CompressedData", "False").lower() in ("true", "1")
    local = fields["ElementDataFile"] in ("LOCAL", "Local", "local")
    return ItkHeader(
        voxel_bytes=prod(sizes) * components * _META_TYPES[element],
        data_path=path if local else _beside(path, fields["ElementDataFile"], "ElementDataFile"),
        start=match.end() if local else 0,
        compressed=compressed,
        packed_bytes=_integers(fields, "CompressedDataSize", name)[0] if compressed else None,
        warnings=()
        if directions
        else ("the file holds no axis directions: they are taken as left-posterior-superior",),
    )


def _nrrd(path: Path, start: bytes, max_voxels: int) -> ItkHeader:
    name = shown(path)
    if not start.startswith(b"NRRD000"):
        raise DataError(f"{name}: not recognised as NRRD: it does not start with the magic NRRD000x")
    blank = re.search(rb"\r?\n\r?\n", start)
    first = start.index(b"\n") + 1 if b"\n" in start else len(start)
    end = blank.end() if blank else len(start)
    fields = _fields(start[first:end], name, r"([A-Za-z ]+): ?(.*)", lambda key: key.replace(" ", "").lower())
    sizes = _integers(fields, "sizes", name)
    if len(sizes) != _integers(fields, "dimension", name)[0]:
        raise DataError(f"{name}: {len(sizes)} sizes, but dimension says another number")
    if fields.get("type", "").lower() not in _NRRD_TYPES:
        raise DataError(f"{name}: voxel type {fields.get('type')!r} is no scan; expected one number per voxel")
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise DataError(f"{name}: encoding {encoding!r} is not read, expected raw or gzip; convert the file")
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * len(sizes)
    if min(sizes) < 1 or len(kinds) != len(sizes):
        raise DataError(f"{name}: sizes {sizes} do not fit the kinds {kinds}; the header is damaged")
    if any("color" in kind or "complex" in kind or "matrix" in kind for kind in kinds):
        raise DataError(
            f"{name}: voxels of kind {' '.join(kinds)} (colour or complex type); a scan has one number per voxel"
        )
    for key in ("lineskip", "byteskip"):
        if fields.get(key, "0") != "0":
            raise DataError(f"{name}: {key} is {fields[key]}; such detached headers are not read, convert the file")
    if set(re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))) - {"mm", "", "millimeter", "millimeters"}:
        raise GeometryError(f"{name}: unit of space is {fields['spaceunits']}, expected mm; convert the file")
    spatial = _nrrd_spacing(fields, kinds, name)
    volume = [n for n, is_spatial in zip(sizes, spatial, strict=True) if is_spatial]
    _check_sizes(name, volume, prod(sizes) // prod(volume), max_voxels)
    for vector in _vectors(fields, "spacedirections", name) + _vectors(fields, "spaceorigin", name):
        if vector:
            _check_finite(vector, 3, "space directions or origin", name)
    if "spaceorigin" in fields and len(_vectors(fields, "spaceorigin", name)) != 1:
        raise GeometryError(f"{name}: affine field space origin must be one vector, got {fields['spaceorigin'][:60]!r}")
    known = "spacedirections" in fields and fields.get("space", "").lower() in _SPACES
    external = fields.get("datafile")
    if external is None and blank is None:
        raise DataError(f"{name}: truncated: the header has no end and no data file")
    return ItkHeader(
        voxel_bytes=prod(sizes) * _NRRD_TYPES[fields["type"].lower()],
        data_path=path if external is None else _beside(path, external, "data file"),
        start=end if external is None else 0,
        compressed=encoding != "raw",
        warnings=() if known else ("the file names no known space: axes are taken as left-posterior-superior",),
    )


def _nrrd_spacing(fields: dict[str, str], kinds: list[str], name: str) -> list[bool]:
    """Which axes are spatial, their spacings checked."""
    if "spacedirections" in fields:
        vectors = _vectors(fields, "spacedirections", name)
        spatial = [bool(vector) for vector in vectors]
        lengths = [float(np.linalg.norm(vector)) for vector in vectors if vector]
        field = "space directions"
    else:
        spatial = [kind in ("domain", "space", "???") for kind in kinds]
        values = _floats(fields.get("spacings", ""), "spacings", name)
        lengths = [value for value, is_spatial in zip(values, spatial, strict=False) if is_spatial]
        field = "spacings"
    if not lengths:
        raise GeometryError(
            f"{name}: no spacing (space directions or spacings) in the header; write the true one into it"
        )
    if len(spatial) != len(kinds):
        raise DataError(f"{name}: {len(spatial)} {field} for {len(kinds)} axes; the header is damaged")
    check_spacing(name, lengths, field)
    return spatial


def _check_sizes(name: str, sizes: list[int], components: int, max_voxels: int) -> None:
    if min(*sizes, components) < 1:
        raise DataError(f"{name}: every size must be at least 1, got {sizes}")
    if len(sizes) < 3:
        raise DataError(f"{name}: a {len(sizes)}D image of shape {tuple(sizes)}; a 3D scan is needed")
    if any(n > 1 for n in sizes[3:]):
        raise DataError(f"{name}: {len(sizes)}D data of shape {tuple(sizes)}; a 3D scan is needed")
    voxels = prod(sizes) * components
    if voxels > max_voxels:
        raise DataError(
            f"{name}: too large: shape {tuple(sizes)} has {voxels} voxels, the limit is {max_voxels} (--max-voxels)"
        )


def _fields(header: bytes, name: str, pattern: str, normal: Callable[[str], str]) -> dict[str, str]:
    """``{key: value}`` of the header's lines. A line that is none, or a key given twice, could mean something else to ITK."""
    fields: dict[str, str] = {}
    if re.search(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\r(?!\n)", header):
        raise DataError(f"{name}: the header holds control characters; it is damaged, or no image header")
    for number, line in enumerate(header.decode("latin-1").replace("\r\n", "\n").split("\n"), 1):
        if not line.strip(_BLANK) or line.startswith("#") or re.match("[^:]+:=", line):
            continue
        match = re.fullmatch(pattern, line, re.ASCII)
        if match is None or not match[1].isascii():  # such as a no-break space, which is part of the word to ITK
            raise DataError(f"{name}: line {number} of the header is not understood; the header is damaged")
        key = normal(match[1])
        if key in fields:
            raise DataError(f"{name}: header field {match[1]!r} is there twice; the header is damaged")
        fields[key] = match[2].strip(_BLANK)
    return fields


def _beside(path: Path, reference: str, field: str) -> Path:
    """The data file that a header names. Raises DataError unless it lies in the header's folder, links followed."""
    if not reference or reference.upper().startswith("LIST") or "%" in reference:
        raise DataError(f"{shown(path)}: {field} {reference!r} lists several files; join them into one .mha or .nrrd")
    folder = path.parent.resolve()
    found = folder / reference
    if Path(reference).is_absolute() or not found.resolve().is_relative_to(folder):
        raise DataError(
            f"{shown(path)}: {field} {reference!r} points outside its folder; put the data beside the header"
        )
    if not found.is_file():
        raise DataError(
            f"{shown(path)}: {field} {reference[:80]!r} was not found beside it, or is no file; put it there"
        )
    return path.parent / reference


def _integers(fields: dict[str, str], key: str, name: str) -> list[int]:
    values = re.findall(r"\S+", fields.get(key, ""), re.ASCII)
    if not values or not all(re.fullmatch(r"-?\d{1,18}", v, re.ASCII) for v in values):
        raise DataError(f"{name}: {key} must be whole numbers (sizes), got {fields.get(key)!r}")
    return [int(v) for v in values]


def _floats(text: str, key: str, name: str, *, count: int | None = None) -> list[float]:
    """The numbers in ``text``, finite or not; just ``count`` where given.

    ITK reads a word it does not understand as 0, so it is refused here.
    """
    words = text.split()
    wrong = [word for word in words if not re.fullmatch(_NUMBER, word)]
    if wrong or not text.isascii() or len(words) != (count or len(words)):
        raise GeometryError(f"{name}: spacing or affine field {key} must hold numbers, got {text[:60]!r}")
    return [float(word) for word in words]


def _vectors(fields: dict[str, str], key: str, name: str) -> list[list[float]]:
    """The vectors of an NRRD field, such as ``(1,0,0) none``; none is an empty one. ITK makes 0 of what it cannot read."""
    text = fields.get(key, "")
    found = re.findall(r"\(([^()]*)\)|none", text)
    if not re.fullmatch(r"\s*((\([^()]*\)|none)\s*)*", text):
        raise GeometryError(f"{name}: affine field {key} (its spacing too) must hold vectors, got {text[:60]!r}")
    return [[_floats(part, key, name, count=1)[0] for part in vector.split(",")] if vector else [] for vector in found]


def _check_finite(values: list[float], count: int, key: str, name: str) -> None:
    if not np.isfinite(values).all() or len(values) != count:
        raise GeometryError(f"{name}: affine must be finite, and {key} hold {count} numbers; got {values}")
