"""From frames to intensities: stored bits, compressed or not, to one array that is allocated once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseg.core.errors import DataError, ResourceError
from medseg.io.child import filled
from medseg.io.dicom_compressed import COMPRESSED, decoded_frames
from medseg.io.dicom_files import cannot_read
from medseg.io.dicom_frames import Frame
from medseg.io.dicom_header import UNDEFINED_LENGTH, Header, inflated, printable, text
from medseg.io.source import shown

Array = npt.NDArray[Any]
_NATIVE = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}


@dataclass(frozen=True)
class Layout:
    """How the pixels of one file are stored: ``offset`` of the first frame in bytes, bits as in PS3.5, 8.1.1."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    big_endian: bool
    offset: int

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def dtype(self) -> np.dtype[Any]:
        """The unsigned type of the container of one pixel."""
        return np.dtype(f"{'>' if self.big_endian else '<'}u{self.bits_allocated // 8}")

    @property
    def value_range(self) -> tuple[int, int]:
        if self.signed:
            return -(1 << (self.bits_stored - 1)), (1 << (self.bits_stored - 1)) - 1
        return 0, (1 << self.bits_stored) - 1


def layout_of(header: Header) -> Layout:
    """How the pixels of ``header`` are stored. Raises DataError unless they are grey, whole, and of a known syntax."""
    path, element = header.path, header.pixels
    if element is None:
        raise DataError(f"{shown(path)}: has no pixel data")
    _check_grey(header)
    allocated = _whole(header, "BitsAllocated")
    stored = _whole(header, "BitsStored", absent=allocated)
    high_bit = _whole(header, "HighBit", absent=stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= high_bit + 1 <= allocated:
        raise DataError(
            f"{shown(path)}: pixel bits are not possible: BitsAllocated {allocated} (8, 16 or 32 are read), BitsStored {stored}, "
            f"HighBit {high_bit}; export the series again"
        )
    layout = Layout(
        rows=_whole(header, "Rows"),
        columns=_whole(header, "Columns"),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high_bit,
        signed=_whole(header, "PixelRepresentation", absent=0) == 1,
        big_endian=not header.little_endian,
        offset=element.offset,
    )
    if header.syntax in _NATIVE:
        _check_native(header, layout)
    else:
        _check_compressed(header)
        if high_bit != stored - 1:
            raise DataError(
                f"{shown(path)}: HighBit {high_bit} does not go with BitsStored {stored} in compressed pixel data: "
                "decoders take it or leave it; export the series again"
            )
    return layout


def _whole(header: Header, keyword: str, absent: int | None = None) -> int:
    words = text(header.dataset, keyword)
    if not words and absent is not None:
        return absent
    if not words.isdecimal():
        raise DataError(f"{shown(header.path)}: {keyword} of the pixel data is missing or not a whole number")
    return int(words)


def _check_grey(header: Header) -> None:
    photometric = text(header.dataset, "PhotometricInterpretation") or "MONOCHROME2"
    samples = text(header.dataset, "SamplesPerPixel") or "1"
    if photometric != "MONOCHROME2" or samples != "1":
        inverted = "intensities may be inverted" if photometric == "MONOCHROME1" else "colour images are not scans"
        raise DataError(
            f"{shown(header.path)}: photometric interpretation {printable(photometric)} with {printable(samples)} sample(s) a "
            f"pixel; medseg reads MONOCHROME2 with one sample ({inverted})"
        )


def _check_native(header: Header, layout: Layout) -> None:
    """Raise DataError unless the declared length is just what the frames need and is in the file."""
    element = header.pixels
    if element is None or element.length == UNDEFINED_LENGTH:
        raise DataError(
            f"{shown(header.path)}: transfer syntax says {header.syntax.name}, but the pixel data are encapsulated (compressed)"
        )
    if layout.big_endian and layout.bits_allocated == 8 and element.vr == "OW":
        raise DataError(
            f"{shown(header.path)}: 8-bit pixel data as big-endian words are not read; convert the transfer syntax"
        )
    needed = layout.frame_bytes * header.frame_count
    asked = (
        f"{header.frame_count} frame(s) of {layout.rows} rows x {layout.columns} columns x {layout.bits_allocated} bits"
    )
    if element.length > element.available:
        raise DataError(
            f"{shown(header.path)}: truncated: the pixel data should have a length of {element.length} bytes, but the file holds "
            f"{element.available}; copy or export it again"
        )
    if element.length not in (needed, needed + needed % 2):
        raise DataError(
            f"{shown(header.path)}: the pixel data have a length of {element.length} bytes, but {asked} need {needed}; "
            "the header is wrong, export the series again"
        )


def _check_compressed(header: Header) -> None:
    if header.syntax not in COMPRESSED:
        raise DataError(
            f"{shown(header.path)}: transfer syntax {printable(str(header.syntax))} cannot be decoded; decompress the series "
            "first, for example with gdcmconv --raw"
        )
    if header.pixels is None or header.pixels.length != UNDEFINED_LENGTH:
        raise DataError(
            f"{shown(header.path)}: transfer syntax says {header.syntax.name}, but the pixel data are not compressed; "
            "the header is wrong, export the series again"
        )


def check_voxels(shape: tuple[int, int, int], place: Path, most: int) -> None:
    """Raise DataError if a volume of ``shape`` (I, J, K) has more than ``most`` voxels; before any of them is read."""
    voxels = math.prod(shape)
    if voxels > most:
        raise DataError(
            f"{shown(place)}: {'x'.join(map(str, shape))} voxels are too large: {voxels}, the limit is {most} (--max-voxels)"
        )


def read_intensities(frames: Sequence[Frame], *, place: Path) -> Array:
    """The intensities (K, J, I) of ``frames`` in their order: stored value x slope + intercept.

    int16 where slopes and intercepts are whole numbers and all values fit, else int32; float32 where they are not
    whole. Raises DataError if the pixels are not readable, ResourceError if memory ends.
    """
    layouts = {id(frame.header): layout_of(frame.header) for frame in frames}
    first = layouts[id(frames[0].header)]
    shape = (len(frames), first.rows, first.columns)
    try:
        if all(_stays_whole(frame, layouts[id(frame.header)]) for frame in frames):
            return _whole_intensities(frames, layouts, shape)
        return _real_intensities(frames, layouts, shape, place)
    except MemoryError as error:
        raise ResourceError(
            f"{shown(place)}: {math.prod(shape)} voxels do not fit into memory; close other programs"
        ) from error


def _stays_whole(frame: Frame, layout: Layout) -> bool:
    if not (frame.slope.is_integer() and frame.intercept.is_integer()):
        return False
    ends = [value * frame.slope + frame.intercept for value in layout.value_range]
    return min(ends) >= -(2.0**31) and max(ends) < 2.0**31


def _whole_intensities(frames: Sequence[Frame], layouts: dict[int, Layout], shape: tuple[int, int, int]) -> Array:
    out: Array = np.empty(shape, np.int16)
    for k, stored in _stored_frames(frames, layouts):
        slope, intercept = int(frames[k].slope), int(frames[k].intercept)
        ends = [int(stored.min()) * slope + intercept, int(stored.max()) * slope + intercept]
        if out.dtype == np.int16 and not -(2**15) <= min(ends) <= max(ends) < 2**15:
            out = out.astype(np.int32)
        # Arithmetic modulo 2^16 (2^32) is exact here, because the result is known to fit.
        values = stored.astype(out.dtype, copy=False)
        if slope != 1:
            values = values * np.int64(slope).astype(out.dtype)
        np.add(values, np.int64(intercept).astype(out.dtype), out=out[k])
    return out


def _real_intensities(
    frames: Sequence[Frame], layouts: dict[int, Layout], shape: tuple[int, int, int], place: Path
) -> Array:
    out = np.empty(shape, np.float32)
    for k, stored in _stored_frames(frames, layouts):
        with np.errstate(over="ignore"):
            out[k] = stored.astype(np.float64) * frames[k].slope + frames[k].intercept
        if not np.isfinite(out[k]).all():
            raise DataError(
                f"{shown(place)}: rescale slope and intercept of {frames[k].name(place)} give intensities that are not finite"
            )
    return out


def _stored_frames(frames: Sequence[Frame], layouts: dict[int, Layout]) -> Iterator[tuple[int, Array]]:
    """(k, stored values (rows, columns)) of each frame, file by file; compressed ones by a child process."""
    numbered = sorted(
        enumerate(frames), key=lambda pair: (pair[1].header.syntax in COMPRESSED, str(pair[1].path), pair[0])
    )
    compressed = [pair for pair in numbered if pair[1].header.syntax in COMPRESSED]
    native = numbered[: len(numbered) - len(compressed)]
    for _, group in groupby(native, key=lambda pair: id(pair[1].header)):
        pairs = list(group)
        layout = layouts[id(pairs[0][1].header)]
        raws = _native_frames(pairs[0][1].header, layout, [frame.index for _, frame in pairs])
        for (k, _), raw in zip(pairs, raws, strict=True):
            yield k, _stored_values(raw, layout)
    if compressed:
        headers = {id(frame.header): frame.header for _, frame in compressed}
        options = {key: (header, layouts[key]) for key, header in headers.items()}
        wanted = [(*options[id(frame.header)], frame.index) for _, frame in compressed]
        raws = decoded_frames([(header, _decode_options(layout), index) for header, layout, index in wanted])
        for (k, frame), raw in zip(compressed, raws, strict=True):
            yield k, _stored_values(raw, layouts[id(frame.header)])


def _decode_options(layout: Layout) -> dict[str, int]:
    """The description of compressed pixels in the words of pydicom's decoders."""
    return {
        "rows": layout.rows,
        "columns": layout.columns,
        "bits_allocated": layout.bits_allocated,
        "bits_stored": layout.bits_stored,
        "pixel_representation": int(layout.signed),
    }


def _native_frames(header: Header, layout: Layout, indices: Sequence[int]) -> Iterator[Array]:
    if header.inflate_from is not None:
        content = inflated(header)
        for index in indices:
            pixels = np.frombuffer(content, layout.dtype, layout.rows * layout.columns, _start(layout, index))
            yield pixels.reshape(layout.rows, layout.columns)
        return
    try:
        with header.path.open("rb", buffering=0) as file:
            for index in indices:
                raw = np.empty((layout.rows, layout.columns), layout.dtype)
                file.seek(_start(layout, index))
                if not filled(file, raw):
                    raise DataError(
                        f"{shown(header.path)}: truncated: the pixel data end too early; the file changed meanwhile"
                    )
                yield raw
    except OSError as error:
        raise cannot_read(header.path, error) from error


def _start(layout: Layout, index: int) -> int:
    return layout.offset + index * layout.frame_bytes


def _stored_values(raw: Array, layout: Layout) -> Array:
    """``raw`` containers to values: bits outside [HighBit - BitsStored + 1, HighBit] are dropped, the sign is extended."""
    values = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    above = layout.bits_allocated - 1 - layout.high_bit
    if above:
        values = values << np.uint8(above)
    if layout.signed:
        values = values.view(np.dtype(f"i{layout.bits_allocated // 8}"))
    spare = layout.bits_allocated - layout.bits_stored
    return values >> values.dtype.type(spare) if spare else values
