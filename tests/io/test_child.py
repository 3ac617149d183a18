"""The child process that runs decoders: what it sends comes back exactly, and however it ends, one message says so."""

import ctypes
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from medseg.io.child import ChildError, decoded

LIMITS = {"seconds": 20.0, "memory_bytes": 2**28, "most_bytes": 2**20}


def decode(order: Mapping[str, Any]) -> Iterator[npt.NDArray[Any]]:
    """What the child runs: this module is its decoder."""
    if order["what"] == "arrays":
        print("a decoder that talks")
        yield np.arange(6, dtype="<i2").reshape(2, 3)
        yield np.zeros((3, 0), ">f4")
        yield np.asfortranarray(np.arange(24.0).reshape(2, 3, 4))
    if order["what"] == "raise":
        raise ValueError("no such\nmarker")
    if order["what"] == "crash":
        ctypes.string_at(0)
    if order["what"] == "leave":
        os._exit(3)
    if order["what"] == "sleep":
        time.sleep(100)
    if order["what"] == "compute":
        while True:
            pass
    if order["what"] == "memory":
        yield np.ones(2**30, np.uint8)[:1]
    if order["what"] == "too much":
        yield np.ones(2**21, np.uint8)
    if order["what"] == "path":
        yield np.frombuffer(os.fsencode(order["path"]), np.uint8)


def run(what: str, **changes: Any) -> list[npt.NDArray[Any]]:
    return list(decoded(__name__, {"what": what}, **(LIMITS | changes)))


def test_arrays_come_back_as_they_were() -> None:
    first, second, third = run("arrays")
    assert first.dtype == np.dtype("<i2")
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert second.shape == (3, 0)
    np.testing.assert_array_equal(third, np.arange(24.0).reshape(2, 3, 4))


def test_a_path_that_is_no_utf_8_reaches_the_decoder() -> None:
    raw = b"scan \xff.dcm"
    (found,) = decoded(__name__, {"what": "path", "path": os.fsdecode(raw)}, **LIMITS)
    assert found.tobytes() == raw


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("raise", "ValueError: no such marker"),
        ("crash", r"crashed \(signal 11\)"),
        ("leave", "ended with code 3"),
        ("memory", "too much memory"),
        ("too much", "more than the 1048576 bytes"),
    ],
)
def test_however_the_decoder_fails_is_said(what: str, words: str) -> None:
    with pytest.raises(ChildError, match=words):
        run(what)


@pytest.mark.parametrize("what", ["sleep", "compute"])
def test_a_decoder_that_hangs_is_stopped(what: str) -> None:
    started = time.monotonic()
    with pytest.raises(ChildError, match="not done within 1 s"):
        run(what, seconds=1.0)
    assert time.monotonic() - started < 60  # of the 100 that it would sleep, on however busy a machine


def test_who_stops_listening_ends_the_child() -> None:
    arrays = decoded(__name__, {"what": "arrays"}, **LIMITS)
    next(arrays)
    started = time.monotonic()
    arrays.close()
    assert time.monotonic() - started < 15
