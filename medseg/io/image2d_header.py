"""What a picture file claims to be, checked before its pixels are decoded: size, layout, one page, upright, whole."""

import logging
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from medseg.core.errors import DataError
from medseg.core.quiet import quiet
from medseg.io.image2d_tiff import BITS, ORIENTATION, check_tiff, tiff_type
from medseg.io.source import BOMB_RATIO, check_packed_size, foreign_content, open_regular, shown

SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}
_STARTS = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
_SAMPLES = {  # Pillow's layouts that hold what the file holds: samples a pixel, bytes a sample
    **{"1": (1, 1), "L": (1, 1), "P": (1, 1), "LA": (2, 1), "RGB": (3, 1), "RGBA": (4, 1)},
    **{"I;16": (1, 2), "I;16B": (1, 2), "I;16L": (1, 2), "I": (1, 4), "F": (1, 4)},
}
# PNG, 8.2: first column, first row, and steps of the seven passes of an interlaced picture.
_PASSES = (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)

logging.getLogger("PIL").addHandler(logging.NullHandler())  # else its remarks on odd tags go to stderr
Image.MAX_IMAGE_PIXELS = None  # the caller's own limit holds


@dataclass(frozen=True)
class PictureHeader:
    """A picture of ``columns`` x ``rows`` pixels; ``mode`` is Pillow's layout and ``dtype`` the type of its samples on disk.

    ``palette`` holds the colours (n, 3) behind the values of an indexed picture as flat bytes; empty otherwise.
    """

    kind: str
    mode: str
    columns: int
    rows: int
    samples: int
    dtype: str
    palette: bytes
    notes: tuple[str, ...]

    @property
    def pixel_bytes(self) -> int:
        return self.columns * self.rows * self.samples * _SAMPLES[self.mode][1]


def read_picture_header(path: Path, *, max_voxels: int, bomb_bytes: int) -> PictureHeader:
    """The checked claims of a PNG, JPEG or TIFF file. Raises DataError naming the file and what is wrong."""
    name, kind = shown(path), SUFFIXES[path.suffix.lower()]
    with open_regular(path) as file:
        content = file.read()
    if not content:
        raise DataError(f"{name}: the file is empty (0 bytes)")
    if not content.startswith(_STARTS[kind]):
        found = next((k for k, starts in _STARTS.items() if content.startswith(starts)), None)
        words = f"a {found} picture; name it so" if found else foreign_content(content[:512]) or "something else"
        raise DataError(f"{name}: not a {kind} picture, although it is named {path.suffix}: it holds {words}")
    _WHOLE.get(kind, _not_checked)(content, name)
    header = _header(content, kind, name)
    voxels = header.columns * header.rows * header.samples
    if voxels > max_voxels:
        raise DataError(
            f"{name}: too large: {header.columns}x{header.rows} pixels of {header.samples} sample(s) are {voxels} voxels, "
            f"the limit is {max_voxels}"
        )
    if kind == "PNG":
        check_packed_size(name, len(content), header.pixel_bytes, bomb_bytes=bomb_bytes)
        _check_png_pixels(content, name)
    elif header.pixel_bytes > max(bomb_bytes, BOMB_RATIO * len(content)):
        raise DataError(
            f"{name}: too large: {len(content)} bytes open to {header.pixel_bytes}; the limit is {BOMB_RATIO} times beyond "
            f"{bomb_bytes / 2**20:.0f} MiB; if the picture is sound, store it uncompressed"
        )
    return header


def _header(content: bytes, kind: str, name: str) -> PictureHeader:
    """What Pillow's (pure Python) header parser finds, held to what it keeps exactly."""
    try:
        with quiet(), Image.open(BytesIO(content), formats=[kind]) as image:
            pages = int(getattr(image, "n_frames", 1))
            mode, (columns, rows) = image.mode, image.size
            tags: Mapping[int, Any] = dict(getattr(image, "tag_v2", {}))
            turned = tags.get(ORIENTATION, 1) if tags else image.getexif().get(ORIENTATION, 1)
            palette = bytes(image.getpalette("RGB") or []) if mode == "P" else b""
    except Exception as error:  # Pillow raises nearly every kind on corrupt bytes
        unknown = isinstance(error, UnidentifiedImageError)
        words = "its layout of pixels is not known" if unknown else " ".join(str(error).split())[:120]
        raise DataError(
            f"{name}: this {kind} picture cannot be read, it may be truncated or corrupt ({words})"
        ) from None
    if pages > 1:
        raise DataError(
            f"{name}: holds {pages} pages (several 2D pictures in one file); save each page as a picture of its own, or the "
            "stack as a 3D image with its spacing (NIfTI, NRRD, MHA)"
        )
    if mode not in _SAMPLES or min(columns, rows) < 1:
        raise DataError(
            f"{name}: pixel type {mode} is not read; save it as grey, RGB or RGBA (8 bits), or grey of 16 bits"
        )
    if turned != 1:
        raise DataError(
            f"{name}: says by its EXIF orientation ({turned}) that it is stored turned or mirrored, which programs obey or "
            "not; save it upright, without that tag"
        )
    samples = _SAMPLES[mode][0]
    if kind == "TIFF":
        dtype = tiff_type(content, tags, name, samples=samples, indexed=mode == "P")
        bits = 1 if mode == "1" else 8 * np.dtype(dtype).itemsize * samples
        check_tiff(content, tags, name, pixel_bytes=rows * -(-columns * bits // 8))
    else:
        dtype = {"I;16": "<u2"}.get(mode, "|u1")
    few = mode in ("1", "L") and _bit_depth(content, kind, tags) < 8
    notes = ("a picture of fewer than 8 bits: white is read as 255",) if few else ()
    return PictureHeader(kind, mode, columns, rows, samples, dtype, palette, notes)


def _check_png(content: bytes, name: str) -> None:
    """Raise DataError unless every chunk of a PNG is whole and has its checksum; Pillow passes over those of the pixels."""
    kinds: list[bytes] = []
    at = 8
    while at < len(content) and (not kinds or kinds[-1] != b"IEND"):
        length = int.from_bytes(content[at : at + 4], "big")
        chunk, mark = content[at + 4 : at + 8 + length], content[at + 8 + length : at + 12 + length]
        if len(chunk) < 4 + length or len(mark) < 4:
            raise DataError(f"{name}: truncated: the file ends within a chunk of the PNG picture")
        if zlib.crc32(chunk) != int.from_bytes(mark, "big"):
            raise DataError(f"{name}: corrupt: the checksum (CRC) of a chunk of the PNG picture is wrong")
        kinds.append(chunk[:4])
        at += 12 + length
    if not kinds or kinds[0] != b"IHDR" or kinds[-1] != b"IEND":
        raise DataError(f"{name}: truncated: the PNG picture has no end mark (IEND)")
    if b"acTL" in kinds:
        raise DataError(f"{name}: holds an animation of several pictures; save each as a picture of its own")
    columns, rows, depth, colours = struct.unpack(">IIBB", content[16:26])
    if depth == 16 and colours != 0:
        raise DataError(
            f"{name}: {columns}x{rows} pixels with 16 bits a colour, which are not read exactly; save each channel as a grey "
            "picture of 16 bits, or the colours with 8 bits"
        )


def _check_png_pixels(content: bytes, name: str) -> None:
    """Raise DataError unless the pixels open to just what the header announces: Pillow fills up what lacks with 0."""
    columns, rows, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    sizes = [
        (-(-(columns - x) // dx), -(-(rows - y) // dy)) for x, y, dx, dy in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    expected = sum(height * (1 + -(-width * bits // 8)) for width, height in sizes if width > 0 and height > 0)
    engine = zlib.decompressobj()
    try:
        opened = len(engine.decompress(_png_pixels(content), expected + 1))
    except zlib.error as error:
        raise DataError(f"{name}: corrupt: the compressed pixels of the PNG picture are damaged ({error})") from None
    if opened != expected or not engine.eof:
        raise DataError(f"{name}: truncated or corrupt: {expected} bytes of pixels are announced, {opened} are there")


def _png_pixels(content: bytes) -> bytes:
    at, found = 8, []
    while at < len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if content[at + 4 : at + 8] == b"IDAT":
            found.append(content[at + 8 : at + 8 + length])
        at += 12 + length
    return b"".join(found)


def _check_jpeg(content: bytes, name: str) -> None:
    """Raise DataError unless the end mark follows the last scan: a cut-off JPEG is else filled up with grey, silently."""
    if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise DataError(f"{name}: truncated: the JPEG picture has no end mark (EOI); copy or export it again")


def _not_checked(content: bytes, name: str) -> None:
    """TIFF has no end mark: what lacks is found on decoding."""


def _bit_depth(content: bytes, kind: str, tags: Mapping[int, Any]) -> int:
    return content[24] if kind == "PNG" else int(np.ravel(tags.get(BITS, 1))[0])


_WHOLE: dict[str, Callable[[bytes, str], None]] = {"PNG": _check_png, "JPEG": _check_jpeg}
