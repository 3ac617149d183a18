"""NIfTI-1 and NIfTI-2: .nii, .nii.gz and .hdr/.img pairs to and from volumes and label maps. The only door to nibabel."""

from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from isal import igzip

from medseg.core.errors import ConfigError, DataError
from medseg.core.files import write_durable
from medseg.core.geometry import SAME_GRID_TOLERANCE, Geometry
from medseg.core.memory import check_scan_room
from medseg.core.volume import LabelMap, Volume
from medseg.io.label_table import ECODE, table_from_xml, table_to_xml
from medseg.io.nifti_header import (
    HEADER_SIZES,
    MAX_OFFSET,
    NiftiHeader,
    check_extensions,
    header_size,
    parse_header,
    qform_affine,
)
from medseg.io.source import IMAGE_BOMB_BYTES, LABEL_BOMB_BYTES, Stream, foreign_content, open_stream, shown
from medseg.io.stored import Stored

_SCANNER = 1  # the code of coordinates in the scanner's space
GZIP_LEVEL = 1
_LABEL_INTENT = 1002
_BLOCK_VOXELS = 2**22


def read_nifti(
    path: Path, *, max_voxels: int, bomb_bytes: int = IMAGE_BOMB_BYTES, max_memory: int | None = None
) -> Stored:
    """The voxels of a NIfTI file as stored, in native byte order, and their geometry.

    Every size is checked against the file before memory is taken, and the gzip checksum after. Raises DataError or
    GeometryError naming the file and what is wrong, ResourceError where it cannot fit in ``max_memory`` (see ``ReadOptions``).
    """
    header_path, voxel_path = pair_of(path)
    with open_stream(header_path) as stream:
        header = _fitting(stream, header_path, max_voxels=max_voxels, bomb_bytes=bomb_bytes, max_memory=max_memory)
        if header.single:
            data = _read_voxels(stream, header)
    if not header.single:
        with open_stream(voxel_path) as stream:
            _check_gzip(stream, voxel_path)
            stream.check_claim(header.offset, header.voxel_bytes, bomb_bytes=bomb_bytes)
            stream.read(header.offset)
            data = _read_voxels(stream, header)
    return Stored(data, header.geometry, header.slope, header.intercept, header.warnings)


def check_nifti_room(path: Path, *, max_voxels: int, max_memory: int) -> None:
    """Raise ResourceError where the file cannot fit in ``max_memory``, by its header; else as ``read_nifti``."""
    header_path, _ = pair_of(path)
    with open_stream(header_path) as stream:
        _fitting(stream, header_path, max_voxels=max_voxels, bomb_bytes=IMAGE_BOMB_BYTES, max_memory=max_memory)


def _fitting(stream: Stream, path: Path, *, max_voxels: int, bomb_bytes: int, max_memory: int | None) -> NiftiHeader:
    """The header in ``stream``, held to the file and to the memory."""
    _check_gzip(stream, path)
    header, _ = _read_header(stream, max_voxels=max_voxels, bomb_bytes=bomb_bytes)
    _check_pairing(stream, path, header)
    claim = Stored(np.empty(0, header.dtype), header.geometry, header.slope, header.intercept)
    stored, converted = header.dtype.itemsize, claim.is_converted
    check_scan_room(
        stream.name, header.geometry.shape, header.channels, stored=stored, converted=converted, most=max_memory
    )
    return header


def label_names_from_nifti(path: Path) -> dict[str, int] | None:
    """``{structure name: value}`` from the label table in the header; None where the file has none."""
    with open_stream(pair_of(path)[0]) as stream:
        for content in _read_header(stream, max_voxels=2**31, bomb_bytes=LABEL_BOMB_BYTES)[1]:
            names = table_from_xml(content)
            if names is not None:
                return names
    return None


def is_label_map(path: Path) -> bool:
    """True where the header says by its intent (1002) that the voxels are labels."""
    with open_stream(pair_of(path)[0]) as stream:
        start = stream.read(HEADER_SIZES[1])
    size = header_size(start, shown(path))
    order = "<" if int.from_bytes(start[:4], "little") == size else ">"
    kind = nib.Nifti1Header if size == HEADER_SIZES[0] else nib.Nifti2Header
    return len(start) >= size and int(kind(start[:size], endianness=order, check=False)["intent_code"]) == _LABEL_INTENT


def write_label_map(path: Path, label_map: LabelMap) -> str:
    """Write ``label_map`` voxel for voxel on its own grid as .nii.gz or .nii; return the file's sha256.

    Raises what ``label_map_bytes`` raises, and OutputError and ResourceError as ``write_durable`` does.
    """
    return write_durable(path, label_map_bytes(path, label_map))


def label_map_bytes(path: Path, label_map: LabelMap) -> bytes:
    """What ``write_label_map`` writes to ``path``: gzip where the name ends in .gz; the bytes depend on the content alone.

    uint8 or uint16 by its values, NIfTI intent 1002 (label), the structure names in the header. Raises ConfigError for
    another suffix than .nii.gz or .nii, DataError for values that are no labels.
    """
    return _encoded(path, label_header(shown(path), label_map), label_map.data[np.newaxis])


def label_header(name: str, label_map: LabelMap) -> nib.Nifti1Header:
    """The header of ``label_map``: see ``label_map_bytes``. Raises DataError naming ``name`` for values that are no labels."""
    data = label_map.data
    # Bytes cannot be out of range: two passes less over the voxels.
    low, high = (0, 255) if data.dtype == np.uint8 else (int(data.min()), int(data.max()))
    if data.dtype.kind not in "iub" or low < 0 or high > 65535:
        raise DataError(f"{name}: a label map holds integers from 0 to 65535, got {data.dtype} {low} to {high}")
    largest = max(high, *label_map.labels.values) if label_map.labels else high
    header = new_header(label_map.geometry, np.dtype(np.uint8 if largest < 256 else np.uint16), 1)
    header.set_intent("label")
    if label_map.labels:
        header.extensions.append(nib.nifti1.Nifti1Extension(ECODE, table_to_xml(label_map.labels)))
    return header


def write_volume(path: Path, volume: Volume) -> str:
    """Write ``volume`` in its own type as .nii.gz or .nii, 4D where it has several channels; return the file's sha256."""
    return write_durable(path, _encoded(path, _volume_header(volume.data, volume.geometry), volume.data))


def volume_files(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> dict[Path, bytes]:
    """The content of ``path`` for ``data`` (C, I, J, K) in its own type, and of the .img beside a .hdr.

    4D where there are several channels. Raises ConfigError for another suffix than .nii.gz, .nii, .hdr or .img.
    """
    header = _volume_header(data, geometry)
    if path.suffix.lower() not in (".hdr", ".img"):
        return {path: _encoded(path, header, data)}
    fields = header.structarr.copy()
    fields["magic"] = b"ni1" if header.sizeof_hdr == HEADER_SIZES[0] else b"ni2"
    fields["vox_offset"] = 0
    voxels = BytesIO()
    encode_voxels(voxels, header.get_data_dtype(), data)
    return {path.with_suffix(".hdr"): fields.tobytes() + bytes(4), path.with_suffix(".img"): voxels.getvalue()}


def _volume_header(data: npt.NDArray[Any], geometry: Geometry) -> nib.Nifti1Header:
    kept: dict[Any, type] = {np.dtype(bool): np.uint8, np.dtype(np.float16): np.float32}
    return new_header(geometry, np.dtype(kept.get(data.dtype, data.dtype)), len(data))


def pair_of(path: Path) -> tuple[Path, Path]:
    """The files of header and voxels: one and the same, or the two of a .hdr/.img pair in any letter case."""
    suffix = path.suffix.lower()
    if suffix not in (".hdr", ".img"):
        return path, path
    other = {".hdr": ".img", ".img": ".hdr"}[suffix]
    mates = [path.with_suffix(s) for s in (other, other.upper(), other.title())]
    mate = next((m for m in mates if m.exists()), None)
    if mate is None:
        raise DataError(f"{shown(path)}: its {other} was not found beside it; a .hdr/.img pair needs both files")
    return (path, mate) if suffix == ".hdr" else (mate, path)


def _check_gzip(stream: Stream, path: Path) -> None:
    named_gz = path.name.lower().endswith(".gz")
    if stream.compressed and not named_gz:
        raise DataError(f"{stream.name}: gzip compressed, although it is not named .gz; rename it to .nii.gz")
    if named_gz and not stream.compressed:
        start = stream.read(348)
        plain = len(start) == 348 and int.from_bytes(start[:4], "little") in HEADER_SIZES
        found = "plain NIfTI; rename it to .nii" if plain else foreign_content(start)
        raise DataError(
            f"{stream.name}: not a gzip file, although it is named .gz" + (f": it holds {found}" if found else "")
        )


def _check_pairing(stream: Stream, path: Path, header: NiftiHeader) -> None:
    if header.single == (path.suffix.lower() == ".hdr"):
        kind = "one file (.nii)" if header.single else "a .hdr/.img pair"
        raise DataError(f"{stream.name}: the magic in its header says that this is {kind}; rename or convert it")


def _read_header(stream: Stream, *, max_voxels: int, bomb_bytes: int) -> tuple[NiftiHeader, list[bytes]]:
    """The checked header and the contents of its extensions; ``stream`` then stands at the voxels of a single file."""
    start = stream.read(348)
    if stream.compressed and not start:
        raise DataError(f"{stream.name}: empty: the gzip file holds 0 bytes")
    size = header_size(start, stream.name)
    raw = start + stream.read(size - 348)
    if len(raw) < size:
        raise DataError(f"{stream.name}: truncated: {len(raw)} bytes are fewer than its header ({size})")
    header = parse_header(raw, stream.name, max_voxels=max_voxels)
    if header.single:
        stream.check_claim(header.offset, header.voxel_bytes, bomb_bytes=bomb_bytes)
    block = stream.read(header.offset - size if header.single else min(MAX_OFFSET, stream.size - size))
    return header, check_extensions(block, stream.name, header.byte_order)


def _read_voxels(stream: Stream, header: NiftiHeader) -> npt.NDArray[Any]:
    """The rest of ``stream`` as (C, I, J, K), a view of the order on disk (i fastest)."""
    i, j, k = header.geometry.shape
    on_disk = np.empty((header.channels, k, j, i), header.dtype)
    stream.fill(on_disk)
    stream.finish()
    if not on_disk.dtype.isnative:
        on_disk = on_disk.byteswap(inplace=True).view(header.dtype.newbyteorder("="))
    return on_disk.transpose(0, 3, 2, 1)


def new_header(geometry: Geometry, dtype: np.dtype[Any], channels: int) -> nib.Nifti1Header:
    """A NIfTI-1 header; NIfTI-2 where a size or the affine does not fit its 16-bit sizes and 32-bit floats."""
    rounded = Geometry(geometry.shape, geometry.affine.astype(np.float32).astype(np.float64))
    fits = max(*geometry.shape, channels) < 2**15 and rounded.corner_shift(geometry) < SAME_GRID_TOLERANCE / 5
    header = (nib.Nifti1Header if fits else nib.Nifti2Header)(endianness="<")
    header.set_data_shape(geometry.shape if channels == 1 else (*geometry.shape, channels))
    header.set_data_dtype(dtype)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header.set_sform(geometry.affine, _SCANNER)
    header.set_qform(geometry.affine, _SCANNER)
    qform = Geometry(geometry.shape, qform_affine(header.structarr, "new header"))
    if qform.corner_shift(geometry) > SAME_GRID_TOLERANCE:  # a shear, or a rotation that the quaternion rounds too far
        header["qform_code"] = 0
    return header


def _encoded(path: Path, header: nib.Nifti1Header, data: npt.NDArray[Any]) -> bytes:
    lower = path.name.lower()
    if not lower.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"{shown(path)}: unknown suffix for a NIfTI file; name it .nii.gz or .nii")
    content = BytesIO()
    if lower.endswith(".gz"):
        with igzip.IGzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=content, mtime=0) as packed:
            _encode(packed, header, data)
    else:
        _encode(content, header, data)
    return content.getvalue()


def _encode(file: Any, header: nib.Nifti1Header, data: npt.NDArray[Any]) -> None:
    """Header, extensions and ``data`` (C, I, J, K), i fastest, some slices at a time."""
    header.write_to(file)
    encode_voxels(file, header.get_data_dtype(), data)


def encode_voxels(file: Any, dtype: np.dtype[Any], data: npt.NDArray[Any]) -> None:
    step = max(1, _BLOCK_VOXELS // (data.shape[1] * data.shape[2]))
    for channel in data:
        for start in range(0, channel.shape[2], step):
            file.write(np.ascontiguousarray(channel[:, :, start : start + step].T, dtype).data)
