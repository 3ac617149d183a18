"""Work in child processes: answers in order, exact, and every way to end."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from medseg.core.errors import DataError, ResourceError
from medseg.core.workers import answers


def worker(common: Any) -> Callable[[Any], Any]:
    """What the children run: this module is their work."""

    def work(order: Any) -> Any:
        kind, what = order
        if kind == "add":
            return common + what
        if kind == "slow":
            time.sleep(what)
            return what
        if kind == "bad":
            raise DataError(what)
        if kind == "bug":
            raise ValueError(what)
        if kind == "memory":
            raise MemoryError
        if kind == "print":
            os.write(1, what.encode())
            return what
        if kind == "pid":
            return os.getpid()
        os.kill(os.getpid(), signal.Signals[what])
        return None

    return work


def test_answers_come_in_the_order_of_the_orders_whoever_is_quicker():
    orders = [["slow", 0.2], *(["add", n] for n in range(20)), ["slow", 0.0]]
    with closing(answers(__name__, 100, orders, processes=3)) as told:
        assert list(told) == [0.2, *range(100, 120), 0.0]


def test_floats_keep_all_their_bits_and_nan_and_infinity_stay():
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, math.nan, -math.inf, -0.0]
    with closing(answers(__name__, 0.0, [["slow", 0.0], *(["print", repr(v)] for v in values)], processes=2)) as told:
        assert list(told)[1:] == [repr(v) for v in values]  # what is printed does not stand between the answers
    with closing(answers(__name__, -0.0, [["add", v] for v in values], processes=2)) as told:
        assert [repr(v) for v in told] == [repr(v) for v in values]


def test_an_error_of_an_order_is_its_answer_and_the_others_are_done():
    with closing(answers(__name__, 1, [["add", 1], ["bad", "x: is bad"], ["add", 2]], processes=2)) as told:
        first, error, last = told
    assert (first, last) == (2, 3)
    assert type(error) is DataError
    assert str(error) == "x: is bad"


@pytest.mark.parametrize(
    ("order", "kind", "words"),
    [
        (["bug", "a bug"], RuntimeError, "ValueError: a bug"),
        (["memory", ""], MemoryError, None),
        (["signal", "SIGKILL"], ResourceError, "ended by signal 9"),
        (["signal", "SIGSEGV"], ResourceError, "ended by signal 11"),
    ],
)
def test_a_child_that_fails_or_dies_is_said_and_nothing_hangs(order, kind, words):
    started = time.perf_counter()
    with closing(answers(__name__, 1, [["add", 1], order, ["slow", 60.0], ["add", 1]], processes=2)) as told:
        assert next(told) == 2
        with pytest.raises(kind, match=words):
            next(told)
    assert time.perf_counter() - started < 50  # of the 60 that one would sleep


def test_children_end_with_the_generator():
    with closing(answers(__name__, 0, [["pid", 0], ["pid", 0], ["slow", 60.0]], processes=1)) as told:
        pid = next(told)
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell starts with it ignored
sys.path.insert(0, {root!r})
from medseg.core.workers import answers
for told in answers({toy!r}, 0, [["pid", 0], ["slow", 0.0], ["slow", {seconds}], ["slow", {seconds}]], processes=2):
    print(told, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_children_end_with_their_parent_and_a_script_without_a_main_guard_works(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(
        SCRIPT.format(
            root=str(Path(__file__).parents[2]), toy=__name__, seconds=60.0 if number == signal.SIGINT else 3.0
        )
    )
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as parent:
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == b"0.0\n"
        if number == signal.SIGINT:
            os.killpg(parent.pid, number)  # as a terminal does: the children get it, too
        else:
            os.kill(parent.pid, number)
        parent.wait(20)
        said = parent.stderr.read().decode()
    assert parent.returncode != 0
    if number == signal.SIGINT:
        assert said.count("Traceback") == 1  # that of the parent
    _gone(pid, 30.0)  # of Ctrl-C at once; else it ends what it began, and finds nobody there


def _gone(pid: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"{pid} still runs")
