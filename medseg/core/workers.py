"""The same work on many orders, spread over child processes.

A child is a Python of its own that imports this medseg and nothing of the caller's: scripts need no ``if __name__ ==
"__main__"``, notebooks work, and no state is forked. What goes in and out is JSON, a line each.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from medseg.core import errors
from medseg.core.errors import MedsegError, ResourceError

# -P and the path: this very medseg is imported, and no module of the current folder shadows another.
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from medseg.core.workers import serve; serve()"
_KILLED = -9  # as Linux does where memory runs out
Child = subprocess.Popen[bytes]


def answers(module: str, common: Any, orders: Sequence[Any], *, processes: int) -> Generator[Any, None, None]:
    """For each of ``orders``, as they come, what ``module.worker(common)(order)`` returns, or the MedsegError that it raised.

    ``module`` is a dotted name; it is imported and ``worker`` called once in each of ``processes`` children. ``common``,
    orders and answers are JSON values (NaN and infinity included; floats arrive with all their bits). Close the
    generator: its children end with it, and with this process, whatever ends it.

    Raises ResourceError where a child dies (out of memory?), MemoryError where one says so, RuntimeError with the child's
    traceback where it fails otherwise.
    """
    start = json.dumps({"module": module, "common": common}).encode("ascii") + b"\n"
    found: list[Future[Any]] = [Future() for _ in orders]
    todo = deque(range(len(orders)))
    children: list[Child] = []
    threads: list[Thread] = []

    def work(child: Child) -> None:
        line = start
        while True:
            try:
                at = todo.popleft()
            except IndexError:
                return
            try:
                found[at].set_result(_asked(child, line + json.dumps(orders[at]).encode("ascii") + b"\n"))
            except BaseException as error:  # the one who waits for this order gets it
                found[at].set_exception(error)
                return
            line = b""

    try:
        for _ in range(min(processes, len(orders))):
            children.append(_started())
            threads.append(Thread(target=work, args=(children[-1],), daemon=True))
            threads[-1].start()
        for future in found:
            yield future.result()
    finally:
        todo.clear()
        for child in children:
            child.kill()
        for thread in threads:
            thread.join()
        for child in children:
            with suppress(BrokenPipeError):
                child.__exit__(None, None, None)


def _started() -> Child:
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-W", "ignore", "-c", _PROGRAM, root]
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        raise ResourceError(f"no further process can be started ({error.strerror}); close other programs") from None


def _asked(child: Child, lines: bytes) -> Any:
    if child.stdin is None or child.stdout is None:
        raise ValueError("the child needs pipes")
    with suppress(BrokenPipeError):  # it ended; the end of its output says so
        child.stdin.write(lines)
        child.stdin.flush()
    line = child.stdout.readline()
    if not line.endswith(b"\n"):
        code = child.wait()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        why = (
            "most likely for want of memory; close other programs"
            if code == _KILLED
            else "a library that it uses crashed"
        )
        raise ResourceError(f"a process that worked on several cases {how}: {why}, and run again")
    told = json.loads(line)
    if "error" not in told:
        return told["answer"]
    if told["error"] == "MemoryError":
        raise MemoryError
    kind = getattr(errors, told["error"], None)
    if kind is None:
        raise RuntimeError(told["words"])
    return kind(told["words"])


def serve() -> None:
    """The child's whole life: read the task and then orders from standard input, answer on what was standard output."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches parent and child; the parent ends both
    with os.fdopen(os.dup(1), "wb") as answer:
        os.dup2(2, 1)  # what libraries print must not stand between the answers
        task = json.loads(sys.stdin.buffer.readline())
        work: Callable[[Any], Any] = importlib.import_module(task["module"]).worker(task["common"])
        for line in sys.stdin.buffer:
            answer.write(json.dumps(_answered(work, json.loads(line))).encode("ascii") + b"\n")
            answer.flush()


def _answered(work: Callable[[Any], Any], order: Any) -> dict[str, Any]:
    try:
        return {"answer": work(order)}
    except MedsegError as error:
        return {"error": error_name(error), "words": str(error)}
    except MemoryError:
        return {"error": "MemoryError"}
    except Exception:
        return {"error": "", "words": traceback.format_exc()}


def error_name(error: MedsegError) -> str:
    """The name of the kind in ``core.errors`` that ``error`` is of."""
    return next(str(kind.__name__) for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
