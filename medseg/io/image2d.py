"""Pictures: PNG, TIFF and JPEG to voxels, and label maps of one slice to PNG. The only door to Pillow.

A picture has no place in a patient. It is taken as an axial slice seen on a screen: x (to the right) runs to the patient's
left, y (down) to the back, pixels of 1 mm, as ITK takes it. A resolution in the file is that of a printer or a screen, so it is
not believed.
"""

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from medseg.core.errors import DataError, GeometryError
from medseg.core.geometry import Geometry, order_to
from medseg.core.labels import PALETTE, Labels
from medseg.core.quiet import quiet
from medseg.core.volume import LabelMap
from medseg.io.child import decoded
from medseg.io.colour_tables import rgb
from medseg.io.image2d_decode import decode
from medseg.io.image2d_header import SUFFIXES, PictureHeader, read_picture_header
from medseg.io.source import IMAGE_BOMB_BYTES, LABEL_BOMB_BYTES, shown
from medseg.io.stored import Stored, in_one_of

NO_PLACE = "a 2D picture says nothing of place and size: taken as an axial slice with pixels of 1 mm"
PALETTE_COLOURS = "the colours behind its palette are read; if it is a label map, its values are the indices instead"
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_START_SECONDS, _SECONDS_PER_MIB = 10.0, 0.5
_MEMORY_BYTES = 2**29

Pixels = npt.NDArray[Any]


def read_picture(path: Path, *, max_voxels: int) -> Stored:
    """The picture at ``path`` as (C, I, J, 1): i along the columns, j along the rows; grey is one channel, RGBA are four.

    Colours behind a palette become RGB, or grey where they all are. Integers keep their type (8, 16 or 32 bits), float TIFF
    is float32. Raises DataError naming the file and what is wrong.
    """
    header = read_picture_header(path, max_voxels=max_voxels, bomb_bytes=IMAGE_BOMB_BYTES)
    pixels = _pixels(path, header)
    if header.mode == "P":
        header = replace(header, notes=(*header.notes, PALETTE_COLOURS))
        colours = np.zeros((256, 3), np.uint8)
        colours.reshape(-1)[: len(header.palette)] = np.frombuffer(header.palette, np.uint8)
        pixels = colours[pixels]
        if (pixels == pixels[..., :1]).all():
            pixels = pixels[..., 0]
    return _stored(pixels, header)


def read_label_picture(path: Path, *, max_voxels: int) -> Stored:
    """The label values of the picture at ``path`` as (1, I, J, 1): grey values, or the indices of a palette.

    Raises DataError also for colours, which are no label values, and for JPEG, which changes values.
    """
    header = read_picture_header(path, max_voxels=max_voxels, bomb_bytes=LABEL_BOMB_BYTES)
    if header.kind == "JPEG":
        raise DataError(
            f"{shown(path)}: JPEG changes values, so it cannot hold a label map; save labels as PNG or TIFF"
        )
    if header.samples > 1:
        raise DataError(
            f"{shown(path)}: {header.samples} channels of colour ({header.mode} type), but a label map has one integer a pixel; "
            "save it as a grey or palette PNG whose values are the labels"
        )
    return _stored(_pixels(path, header), header)


def _pixels(path: Path, header: PictureHeader) -> Pixels:
    """(rows, columns) or (rows, columns, samples) in the type on disk.

    PNG is inflated bytes and their differences, its checksums verified before: it is decoded here. The codecs of the others run
    in a child process.
    """
    order = {"path": str(path.absolute()), "format": header.kind, "mode": header.mode}
    seconds = _START_SECONDS + _SECONDS_PER_MIB * header.pixel_bytes / 2**20
    memory = _MEMORY_BYTES + 6 * header.pixel_bytes
    module = "medseg.io.image2d_decode"
    try:
        if header.kind == "PNG":
            with quiet():
                found = list(decode(order))
        else:
            found = list(decoded(module, order, seconds=seconds, memory_bytes=memory, most_bytes=header.pixel_bytes))
    except Exception as error:  # ChildError, and of a PNG whatever Pillow raises on corrupt bytes
        words = " ".join(str(error).split())[:160]
        raise DataError(
            f"{shown(path)}: the pixels of this {header.kind} picture cannot be decoded, it may be truncated or corrupt ({words})"
        ) from None
    shape = (header.rows, header.columns, header.samples)[: 2 if header.samples == 1 else 3]
    if len(found) != 1 or found[0].shape != shape:
        raise DataError(f"{shown(path)}: other pixels came out than its header announces, the picture is corrupt")
    pixels, dtype = found[0], np.dtype(header.dtype)
    if header.dtype == "<u4":
        return pixels.view(np.uint32)  # Pillow holds the same bits as signed
    return pixels if pixels.dtype == dtype else pixels.astype(dtype)


def _stored(pixels: Pixels, header: PictureHeader) -> Stored:
    planes = np.ascontiguousarray(np.moveaxis(np.atleast_3d(pixels), (2, 1, 0), (0, 1, 2)))
    geometry = Geometry((header.columns, header.rows, 1), _LPS)
    return Stored(planes[..., np.newaxis], geometry, warnings=(NO_PLACE, *header.notes))


def as_seen(name: str, data: npt.NDArray[Any], geometry: Geometry) -> npt.NDArray[Any]:
    """``data`` (..., I, J, K) of one axial slice as the pixels (..., rows, columns) of a picture seen on a screen.

    The reverse of reading: columns grow to the patient's left, rows to the back. Raises GeometryError where the grid is not one
    axial slice.
    """
    order = order_to(geometry, "LPS")
    seen = order.geometry(geometry)
    if seen.shape[2] != 1:
        flat = [letters for n, letters in zip(seen.shape, ("sagittal", "coronal", "axial"), strict=True) if n == 1]
        found = f"one {flat[0]} slice" if flat else f"{seen.shape[2]} slices"
        raise GeometryError(
            f"{name}: a picture holds one axial slice, this is {found} ({geometry!r}); write it as NIfTI, NRRD or MHA, "
            "or cut out the slice that is wanted"
        )
    return np.ascontiguousarray(np.swapaxes(order.array(data)[..., 0], -1, -2))


def picture_bytes(path: Path, data: npt.NDArray[Any], geometry: Geometry) -> bytes:
    """``data`` (C, I, J, K) of one axial slice as the PNG or TIFF that ``path`` names: grey, RGB or RGBA, every value kept.

    Raises DataError for values that the format does not hold, GeometryError where it is not one axial slice.
    """
    name, kind = shown(path), SUFFIXES.get(path.suffix.lower())
    pixels = as_seen(name, data, geometry)
    grey = {"PNG": (np.uint8, np.uint16), "TIFF": (np.uint8, np.uint16, np.int32, np.float32)}
    if kind not in grey:
        raise DataError(f"{name}: voxels are not written as {path.suffix}, which changes values; choose .png or .tif")
    kept = in_one_of(pixels, grey[kind] if len(data) == 1 else (np.uint8,))
    if kept is None or len(data) not in (1, 3, 4):
        held = "grey of 8 or 16 bits from 0" if kind == "PNG" else "grey of 8 to 32 bits or float32"
        raise DataError(
            f"{name}: {len(data)} channel(s) of {data.dtype} from {data.min():g} to {data.max():g} are not what {kind} holds "
            f"({held}, RGB or RGBA of 8 bits); write NIfTI (.nii.gz)" + (" or .tif" if kind == "PNG" else "")
        )
    return _encoded(
        Image.fromarray(kept[0] if len(data) == 1 else np.ascontiguousarray(np.moveaxis(kept, 0, -1))), kind
    )


def pixels_of_png(content: bytes) -> npt.NDArray[Any]:
    """The values (rows, columns) of a PNG that was made here: indices or grey."""
    with Image.open(BytesIO(content), formats=["PNG"]) as image:
        return np.array(image)


def palette_png(label_map: LabelMap, labels: Labels | None = None) -> bytes:
    """``label_map`` of one axial slice as PNG: an index a pixel with the colours of ``labels`` (else its own); 0 is black.

    Values beyond 255 make it a grey picture of 16 bits. Raises GeometryError where it is not one axial slice.
    """
    pixels = as_seen("label map", label_map.data, label_map.geometry)
    if pixels.max(initial=0) > 255:
        return _encoded(Image.fromarray(pixels.astype(np.uint16)), "PNG")
    image = Image.fromarray(pixels.astype(np.uint8)).convert("L")
    image.putpalette(_palette(labels or label_map.labels))  # turns the layout into an indexed one, values unchanged
    return _encoded(image, "PNG")


def _palette(labels: Labels | None) -> bytes:
    colours = [(0, 0, 0)] + [rgb(PALETTE[n % len(PALETTE)]) for n in range(255)]
    for structure in labels.structures if labels else ():
        if structure.value < 256:
            colours[structure.value] = rgb(structure.colour)
    return bytes(part for colour in colours for part in colour)


def _encoded(image: Image.Image, kind: str) -> bytes:
    content = BytesIO()
    image.save(content, kind)
    return content.getvalue()
