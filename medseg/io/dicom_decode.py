"""The child process that decodes compressed frames: run as a script by ``dicom_compressed``, never imported.

Reads one JSON order on standard input, writes the frames' bytes to standard output, and says why it stops on standard
error, in a line that begins with ``medseg: ``. Needs pydicom and its decoders only, so that it starts fast.
"""

import json
import os
import sys
from typing import Any, BinaryIO


def main() -> int:
    # Decoders in C may write to standard output; that goes to standard error, the frames to the real one.
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    order = json.load(sys.stdin.buffer)
    _limit_memory(int(order["memory"]))
    try:
        for file in order["files"]:
            _decode(file, frames)
        frames.flush()
    except MemoryError:
        return _stop("it takes too much memory")
    except Exception as error:  # the parent says which file; here only why
        words = str(error).strip() or "unknown reason"
        return _stop(f"{type(error).__name__}: {' '.join(words.split())}")
    return 0


def _stop(reason: str) -> int:
    sys.stderr.write(f"\nmedseg: {reason}\n")
    return 1


def _limit_memory(limit: int) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit; the time limit remains
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard == resource.RLIM_INFINITY or hard > limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def _decode(file: dict[str, Any], frames: BinaryIO) -> None:
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID

    options = file["options"]
    decoder = get_decoder(UID(file["syntax"]))
    extra = {"samples_per_pixel": 1, "photometric_interpretation": "MONOCHROME2", "pixel_keyword": "PixelData"}
    with open(file["path"], "rb") as source:  # noqa: PTH123 - pathlib costs start time
        for index in file["indices"]:
            source.seek(file["offset"])
            frame, _ = decoder.as_array(source, index=index, raw=True, **options, **extra)
            wanted = (options["rows"], options["columns"])
            if frame.shape != wanted or frame.dtype.itemsize != options["bits_allocated"] // 8:
                raise ValueError(f"a frame of {frame.shape} {frame.dtype} came out, {wanted} was announced")
            frames.write(frame.astype(frame.dtype.newbyteorder("<"), order="C", copy=False).tobytes())


if __name__ == "__main__":
    sys.exit(main())
