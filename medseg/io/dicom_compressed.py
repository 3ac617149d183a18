"""Compressed frames, decoded in a child process: foreign bytes reach C decoders, which may crash, hang or take memory."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
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
from medseg.io.dicom_header import Header

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
MEMORY_BYTES = 2 * 2**30  # address space; what the decoders really take is far less
_CHILD = Path(__file__).with_name("dicom_decode.py")

Wanted = tuple[Header, dict[str, int], int]  # file, what pydicom calls decoding options, index of the frame


def decoded_frames(wanted: Sequence[Wanted]) -> Iterator[npt.NDArray[Any]]:
    """The frames (rows, columns) of ``wanted`` in order, as unsigned containers of BitsAllocated bits.

    One child process decodes them all, with a limit of memory and of time. Raises DataError naming the file whose
    frame could not be decoded.
    """
    total = sum(_frame_bytes(options) for _, options, _ in wanted)
    largest = max(_frame_bytes(options) for _, options, _ in wanted)
    seconds = START_SECONDS + SECONDS_PER_MIB * total / 2**20
    with tempfile.TemporaryFile() as complaints, _child(complaints) as child:
        late = threading.Event()

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            _order(child, wanted, MEMORY_BYTES + 8 * largest)
            for header, options, _ in wanted:
                raw = np.empty((options["rows"], options["columns"]), f"<u{options['bits_allocated'] // 8}")
                if not filled(child.stdout, raw):
                    child.wait()
                    reason = (
                        f"not done within {seconds:.0f} s"
                        if late.is_set()
                        else _complaint(complaints, child.returncode)
                    )
                    raise DataError(
                        f"{header.path}: the compressed pixel data ({header.syntax.name}) cannot be decoded: {reason}; "
                        "decompress the series with another program, or export it again"
                    )
                yield raw
        finally:
            timer.cancel()
            child.kill()


def _frame_bytes(options: dict[str, int]) -> int:
    return options["rows"] * options["columns"] * options["bits_allocated"] // 8


def _child(complaints: IO[bytes]) -> subprocess.Popen[bytes]:
    # -P: the folder of the script holds modules such as "itk", which must not shadow anything.
    command = [sys.executable, "-P", "-W", "ignore", os.fspath(_CHILD)]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints, env=os.environ | threads
    )


def _order(child: subprocess.Popen[bytes], wanted: Sequence[Wanted], memory: int) -> None:
    """Tell the child what to decode: one file after the other, with its frames in the order of ``wanted``."""
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
    try:
        with child.stdin as stdin:  # type: ignore[union-attr]
            stdin.write(json.dumps({"memory": memory, "files": files}).encode("ascii"))
    except BrokenPipeError:
        pass  # the child ended early; why is read from its complaints


def filled(stream: Any, array: npt.NDArray[Any]) -> bool:
    """Fill ``array`` with the next bytes of ``stream``; False if it ends before."""
    view = memoryview(array.data).cast("B")
    while len(view):
        got = stream.readinto(view)
        if not got:
            return False
        view = view[got:]
    return True


def _complaint(complaints: IO[bytes], code: int) -> str:
    """Why the child ended, in one line."""
    if code < 0:
        return f"the decoder crashed (signal {-code})"
    complaints.seek(0)
    lines = complaints.read(2**16).decode("utf-8", "replace").strip().splitlines()
    said = [line.removeprefix("medseg: ") for line in lines if line.startswith("medseg: ")]
    return said[-1][:200] if said else f"the decoder ended with code {code}"
