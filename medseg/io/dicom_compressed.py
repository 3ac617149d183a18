"""Compressed frames, decoded in a child process: foreign bytes reach C decoders, which may crash, hang or take memory."""

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy.typing as npt
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from medseg.core.errors import DataError
from medseg.io.child import ChildError, decoded
from medseg.io.dicom_header import Header
from medseg.io.source import shown

COMPRESSED = {
    RLELossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
}
START_SECONDS = 8.0
SECONDS_PER_MIB = 1.0
MEMORY_BYTES = 2**30  # address space beyond the imports; what the decoders really take is far less

Wanted = tuple[Header, dict[str, int], int]  # file, what pydicom calls decoding options, index of the frame


def decoded_frames(wanted: Sequence[Wanted]) -> Iterator[npt.NDArray[Any]]:
    """The frames (rows, columns) of ``wanted`` in order, as unsigned containers of BitsAllocated bits.

    One child process decodes them all, with a limit of memory and of time. Raises DataError naming the file whose
    frame could not be decoded.
    """
    total = sum(_frame_bytes(options) for _, options, _ in wanted)
    largest = max(_frame_bytes(options) for _, options, _ in wanted)
    frames = decoded(
        "medseg.io.dicom_decode",
        {"files": _files(wanted)},
        seconds=START_SECONDS + SECONDS_PER_MIB * total / 2**20,
        memory_bytes=MEMORY_BYTES + 8 * largest,
        most_bytes=largest,
    )
    for header, options, _ in wanted:
        try:
            frame = next(frames)
        except ChildError as error:
            raise DataError(
                f"{shown(header.path)}: the compressed pixel data ({header.syntax.name}) cannot be decoded: {error}; "
                "decompress the series with another program, or export it again"
            ) from None
        yield frame.view(f"<u{options['bits_allocated'] // 8}")


def _frame_bytes(options: dict[str, int]) -> int:
    return options["rows"] * options["columns"] * options["bits_allocated"] // 8


def _files(wanted: Sequence[Wanted]) -> list[dict[str, Any]]:
    """What to decode, as JSON: one file after the other, with its frames in the order of ``wanted``."""
    files = []
    for _, group in groupby(wanted, key=lambda one: id(one[0])):
        frames = list(group)
        header, options, _ = frames[0]
        files.append(
            {
                "path": os.fspath(header.path.absolute()),
                "offset": header.pixels.offset if header.pixels else 0,
                "syntax": str(header.syntax),
                "indices": [index for _, _, index in frames],
                "options": options | {"number_of_frames": header.frame_count},
            }
        )
    return files
