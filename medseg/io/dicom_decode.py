"""Compressed DICOM frames to arrays, by pydicom and its decoders: run in the child process of ``medseg.io.child`` only."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
from pydicom.pixels import get_decoder
from pydicom.uid import UID

_GREY = {"samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2", "pixel_keyword": "PixelData"}


def decode(order: Mapping[str, Any]) -> Iterator[npt.NDArray[Any]]:
    """The frames (rows, columns) that ``order`` names, file by file, in little-endian containers."""
    for file in order["files"]:
        options = file["options"]
        decoder = get_decoder(UID(file["syntax"]))
        wanted = (options["rows"], options["columns"])
        with Path(file["path"]).open("rb") as source:
            for index in file["indices"]:
                source.seek(file["offset"])
                frame, _ = decoder.as_array(source, index=index, raw=True, **options, **_GREY)
                if frame.shape != wanted or frame.dtype.itemsize != options["bits_allocated"] // 8:
                    raise ValueError(f"a frame of {frame.shape} {frame.dtype} came out, {wanted} was announced")
                yield frame.astype(frame.dtype.newbyteorder("<"), order="C", copy=False)
