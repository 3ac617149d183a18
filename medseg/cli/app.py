"""The command line: its verbs, and what becomes of their errors."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import current_thread, main_thread
from types import FrameType
from typing import Annotated, Any

import typer

from medseg import __version__
from medseg.cli.agree import agree
from medseg.cli.check import check
from medseg.cli.compare import compare
from medseg.cli.console import error_line
from medseg.cli.convert import convert
from medseg.cli.demo import demo
from medseg.cli.dicom import dicom
from medseg.cli.evaluate import evaluate
from medseg.cli.export import export
from medseg.cli.infer import infer
from medseg.cli.info import info
from medseg.cli.list import list_parts
from medseg.cli.models import models
from medseg.cli.phantom import phantom
from medseg.cli.plan import plan
from medseg.cli.power import power
from medseg.cli.preview import preview
from medseg.cli.train import train
from medseg.cli.tune import tune
from medseg.core.errors import MedsegError
from medseg.core.files import DISK_FULL

_INTERRUPTED = 128 + signal.SIGINT
UsageError: Any = typer.BadParameter.__mro__[1]  # typer carries its own click from 0.29 on
app = typer.Typer(
    name="medseg",
    help="Segment organs and lesions in CT, MR and other medical images.",
    epilog="Not a medical device. Start with `medseg demo`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_PANELS: dict[str, tuple[Any, ...]] = {  # of `medseg --help`
    "Start": (demo, phantom, info),
    "Train": (check, plan, preview, train),
    "Segment": (infer, tune),
    "Evaluate": (evaluate, compare, agree, power),
    "Files and models": (convert, export),
}
for panel, verbs in _PANELS.items():
    for verb in verbs:
        app.command(rich_help_panel=panel)(verb)
app.add_typer(models, name="models", rich_help_panel="Files and models")
app.add_typer(dicom, name="dicom", rich_help_panel="Files and models")
app.command("list", rich_help_panel="Start")(list_parts)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"medseg {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (anywhere on the line).")
    ] = False,
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; an error is one message on stderr, a traceback only with --debug."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a file name need not be UTF-8
    options = list(arguments)
    end = options.index("--") if "--" in options else len(options)
    debug = "--debug" in options[:end]
    options = [o for n, o in enumerate(options) if n >= end or o != "--debug"]
    return _printed(_answer(options, debug=debug))


def _answer(options: list[str], *, debug: bool) -> int:
    try:
        with _sigterm_as_exception():
            result = app(args=options, prog_name="medseg", standalone_mode=False)
        code = int(result) if isinstance(result, int) else 0
        if code == _INTERRUPTED:  # typer turns KeyboardInterrupt into this and says nothing
            error_line("interrupted")
        return code
    except typer.Exit as stop:
        return stop.exit_code
    except UsageError as error:
        error.show()
        return 2
    except _Terminated:
        error_line("stopped")
        return 128 + signal.SIGTERM
    except (KeyboardInterrupt, typer.Abort):
        error_line("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # who read our output has gone, as `head` does
        return 0
    except MedsegError as error:
        if debug:
            raise
        error_line(str(error))
        return error.exit_code
    except MemoryError:
        if debug:
            raise
        error_line("out of memory; close other programs, or use a smaller patch_size or batch_size")
        return 5
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            error_line(f"the disk is full ({error.strerror}); free some space and run again")
            return 5
        error_line(
            f"unexpected {type(error).__name__}: {error} - this is a bug in medseg; run again with --debug and report it"
        )
        return 1


def _printed(code: int) -> int:
    """``code``, once all that was printed is out; 5 where it cannot be."""
    try:
        sys.stdout.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # or Python would fail on the rest a second time while it exits
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            error_line(f"what was to be printed could not be written: {error.strerror or error}")
            return 5
    return code


class _Terminated(BaseException):
    """SIGTERM, raised where the work stands, so that temporary files go as after any error."""


@contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """For the block, SIGTERM raises _Terminated. Outside the main thread, where that cannot be, nothing changes."""
    if current_thread() is not main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
