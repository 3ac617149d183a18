"""A decoder run on foreign bytes in a child process: C code that crashes, hangs or takes memory must not end the work.

The parent calls ``decoded``. The child imports one of our modules, sets its own limits, and sends what ``decode(order)``
of that module yields: for each array a line of JSON (shape, type) and its bytes; at the end, or where it fails, a last line.
"""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from medseg.core.errors import DataError

# -P and the path: this very medseg is imported, and no module of the current folder shadows another.
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from medseg.io.child import serve; serve()"
_LONGEST_LINE = 4096
_PATIENCE = (
    3  # a busy machine gives a child its seconds of computing later; one that sleeps is ended after so many times them
)


class ChildError(DataError):
    """Why a decoder gave no array, in a few words without the file's name: the caller adds that."""


def decoded(
    module: str, order: Mapping[str, Any], *, seconds: float, memory_bytes: int, most_bytes: int
) -> Iterator[npt.NDArray[Any]]:
    """The arrays that the function ``decode(order)`` of ``module`` yields, run in a child process with limits.

    ``module`` is a dotted name such as ``medseg.io.dicom_decode``; it is imported in the child only, before the limits
    hold. ``order`` must be JSON (paths as text). The child ends after ``seconds`` of computing (or three times as many by the
    clock), and may take ``memory_bytes`` of address space beyond what it has after its imports (no such limits on Windows,
    but for the clock). No array may be larger than ``most_bytes``. Raises ChildError saying why it stopped: the exception's
    words, too much memory, not done in time, or a crash.
    """
    task = {"module": module, "order": dict(order), "memory_bytes": memory_bytes, "seconds": seconds}
    late = threading.Event()
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-W", "ignore", "-c", _PROGRAM, root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:

        def stop() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(_PATIENCE * seconds, stop)
        timer.start()
        try:
            yield from _arrays(child, json.dumps(task).encode("ascii"), most_bytes)
        except EOFError:
            raise ChildError(_ending(child.wait(), late.is_set(), seconds)) from None
        finally:
            timer.cancel()
            child.kill()


def _ending(code: int, late: bool, seconds: float) -> str:
    """Why a child ended that did not say so itself."""
    if late or (hasattr(signal, "SIGXCPU") and code == -signal.SIGXCPU):
        return f"not done within {seconds:.0f} s"
    return f"the decoder crashed (signal {-code})" if code < 0 else f"the decoder ended with code {code}"


def _arrays(child: subprocess.Popen[bytes], task: bytes, most_bytes: int) -> Iterator[npt.NDArray[Any]]:
    if child.stdin is None or child.stdout is None:
        raise ValueError("the child needs pipes")
    try:
        with child.stdin as stdin:
            stdin.write(task)
    except BrokenPipeError:
        pass  # the child ended early; the end of its output says so
    while True:
        said = _line(child.stdout)
        if "error" in said:
            raise ChildError(str(said["error"]))
        if "done" in said:
            return
        dtype, shape = np.dtype(said["dtype"]), tuple(said["shape"])
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        if dtype.kind not in "biuf" or size > most_bytes:
            raise ChildError(
                f"an array of {shape} {dtype} came out, more than the {most_bytes} bytes that were announced"
            )
        array = np.empty(shape, dtype)
        if not filled(child.stdout, array):
            raise EOFError
        yield array


def _line(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline(_LONGEST_LINE)
    if not line.endswith(b"\n"):
        raise EOFError
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        raise ChildError("the decoder sent what is no array") from None
    return found


def filled(stream: Any, array: npt.NDArray[Any]) -> bool:
    """Fill the contiguous ``array`` with the next bytes of ``stream``; False if it ends before."""
    view = memoryview(array.reshape(-1).view(np.uint8).data)
    while len(view):
        got = stream.readinto(view)
        if not got:
            return False
        view = view[got:]
    return True


def serve() -> None:
    """The child's whole life: read the task on standard input, decode, answer on what was standard output."""
    # Decoders in C may write to standard output; that goes to standard error, the arrays to the real one.
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)
        task = json.load(sys.stdin.buffer)
        last: dict[str, Any] = {"done": True}
        try:
            module = importlib.import_module(task["module"])
            _limit(int(task["memory_bytes"]), float(task["seconds"]))
            for array in module.decode(task["order"]):
                _send(answer, array)
        except MemoryError:
            last = {"error": "it takes too much memory"}
        except Exception as error:  # whose file it is, the parent says; here only why
            words = " ".join(str(error).split()) or "unknown reason"
            last = {"error": f"{type(error).__name__}: {words}"[:300]}
        answer.write(json.dumps(last).encode("ascii") + b"\n")


def _send(answer: BinaryIO, array: npt.NDArray[Any]) -> None:
    array = np.ascontiguousarray(array)
    answer.write(json.dumps({"shape": array.shape, "dtype": array.dtype.str}).encode("ascii") + b"\n")
    answer.write(array.reshape(-1).view(np.uint8).data)
    answer.flush()


def _limit(memory_bytes: int, seconds: float) -> None:
    """Hold this process to ``memory_bytes`` more than it has, to ``seconds`` of computing, and to no core dump."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's time limit remains
        return
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    except (OSError, ValueError):  # macOS: not known, and not enforced there
        pages = 2**20
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + memory_bytes,
        resource.RLIMIT_CPU: max(1, math.ceil(seconds)),  # ends it even where its parent was killed
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
