"""What a TIFF says of its pixels, held to TIFF 6.0 and to what Pillow keeps exactly: it has no checksum, so nothing is assumed."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from medseg.core.errors import DataError

WIDTH, BITS, COMPRESSION, PHOTOMETRIC, STRIPS, ORIENTATION = 256, 258, 259, 262, 273, 274
_STRIP_BYTES, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 279, 324, 325, 338, 339
_OF_PIXELS = {*range(WIDTH, PHOTOMETRIC + 1), 266, STRIPS, ORIENTATION, 277, 278, _STRIP_BYTES, 284, 317, 320} | {
    *(322, 323, _TILES, _TILE_BYTES, _EXTRA, _FORMAT)
}
_GREY = {
    **{(1, 1): "|u1", (8, 1): "|u1", (16, 1): "<u2", (16, 2): "<i2"},
    **{(32, 1): "<u4", (32, 2): "<i4", (32, 3): "<f4"},
}


def tiff_type(content: bytes, tags: Mapping[int, Any], name: str, *, samples: int, indexed: bool) -> str:
    """The type of the samples on disk. Raises DataError where tags lack or clash, or where Pillow would change the values."""
    bits, formats = _several(tags, BITS, 1), _several(tags, _FORMAT, 1)
    if tags.get(PHOTOMETRIC) == 0:
        raise DataError(f"{name}: stores white as 0 (inverted grey); save it with black as 0")
    if 1 in tags.get(_EXTRA, ()):
        raise DataError(f"{name}: its colours are multiplied by its alpha channel; save it with plain alpha or without")
    if samples == 1 and not indexed:
        found = _GREY.get((bits[0], formats[0])) if len(bits) == 1 else None
    else:
        found = "|u1" if set(bits) == {8} and set(formats) == {1} and len(bits) == samples else None
    if found is None:
        raise DataError(
            f"{name}: samples of {'/'.join(map(str, bits))} bits (format {formats[0]}) are not read exactly; save it as grey of "
            "8, 16 or 32 bits, float of 32 bits, or colours of 8 bits"
        )
    if content.startswith(b"MM") and found in ("<i2", "<i4", "<f4") and tags.get(COMPRESSION, 1) != 1:
        # libtiff has put the bytes in order, and Pillow 12 swaps them again.
        raise DataError(f"{name}: this kind of big-endian TIFF is not read exactly; save it as little-endian")
    return found


def check_tiff(content: bytes, tags: Mapping[int, Any], name: str, *, pixel_bytes: int) -> None:
    """Raise DataError unless the tags stand in order, none that is needed lacks, and all pixels lie within the file."""
    ids = _tag_ids(content)
    if ids != sorted(set(ids)):
        raise DataError(f"{name}: the tags of this TIFF picture are not in order, so it is corrupt; save it again")
    unread = [tag for tag in ids if tag in _OF_PIXELS and tag not in tags]
    if unread:
        raise DataError(
            f"{name}: TIFF tag {unread[0]} cannot be read, so the picture is truncated or corrupt; save it again"
        )
    at, counts = (_TILES, _TILE_BYTES) if _TILES in tags else (STRIPS, _STRIP_BYTES)
    missing = [tag for tag in (WIDTH, WIDTH + 1, PHOTOMETRIC, at, counts) if tag not in tags]
    if missing:
        raise DataError(
            f"{name}: TIFF tag {missing[0]} is missing, so the picture is truncated or corrupt; save it again"
        )
    starts, sizes = np.ravel(_several(tags, at, 0)), np.ravel(_several(tags, counts, 0))
    if (
        len(starts) != len(sizes)
        or min(starts) < 8
        or max(a + b for a, b in zip(starts, sizes, strict=True)) > len(content)
    ):
        raise DataError(f"{name}: pixels of this TIFF picture lie outside the file, so it is truncated or corrupt")
    if tags.get(COMPRESSION, 1) == 1 and at == STRIPS and sum(sizes) != pixel_bytes:
        raise DataError(
            f"{name}: {pixel_bytes} bytes of pixels are announced, {sum(sizes)} are there: truncated or corrupt"
        )


def _several(tags: Mapping[int, Any], tag: int, absent: int) -> tuple[Any, ...]:
    value = tags.get(tag, absent)
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _tag_ids(content: bytes) -> list[int]:
    """The ids of the first directory's entries in the order of the file."""
    order = "<" if content.startswith(b"II") else ">"
    big = content[2:4] in (b"+\0", b"\0+")
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", content, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", content, start)
        first, size = (start + 8, 20) if big else (start + 2, 12)
        return [struct.unpack_from(f"{order}H", content, first + size * n)[0] for n in range(min(count, 4096))]
    except (struct.error, OverflowError):
        return [1, 0]
