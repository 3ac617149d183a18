"""How the command line speaks: results on stdout, everything else on stderr."""

import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from medseg.core.progress import Progress, silent
from medseg.core.text import printable

_WIDEST = 34  # characters of a stage's name beside its bar


def error_line(message: str) -> None:
    """One error on stderr, on one line, safe for any terminal: control characters are shown escaped."""
    print(f"medseg: error: {printable(message)}", file=sys.stderr)


def note_line(message: str) -> None:
    """One remark on stderr."""
    print(printable(message), file=sys.stderr)


def listed(names: Sequence[str], most: int = 8) -> str:
    """``names`` with commas between; of more than ``most`` how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def without_long_lists(text: str, names: Collection[str], most: int = 8) -> str:
    """``text``, in which a list of more of the ``names`` than ``most`` ends with how many more there are.

    >>> without_long_lists("a, b, c touch the border", ["a", "b", "c"], most=2)
    'a, b and 1 more touch the border'
    """
    one = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    long = f"(?:{one})(?:, (?:{one})){{{most},}}"
    return re.sub(long, lambda found: listed(re.findall(one, found[0]), most), text) if one else text


def print_json(content: Any) -> None:
    """One JSON object on stdout, in ASCII, which any terminal and any pipe carries."""
    print(json.dumps(content, indent=2, ensure_ascii=True))


def print_table(
    title: str, columns: list[str], rows: list[list[Any]], ends: Collection[int] = (), left: Collection[str] = ()
) -> None:
    """A table on stdout: first column and those called ``left`` to the left, the others, of numbers, to the right.

    A line stands after each row whose number is in ``ends``.
    """
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 or column in left else "right", overflow="fold")
    for number, row in enumerate(rows):
        table.add_row(*(printable(str(cell)) for cell in row), end_section=number in ends)
    wide = None if sys.stdout.isatty() else 160
    Console(width=wide, markup=False, emoji=False, highlight=False).print(
        table
    )  # a name may hold [brackets] or :colons:


def print_text_table(columns: list[str], rows: list[list[str]]) -> None:
    """A table of words on stdout: all columns to the left, the last one takes what room there is."""
    table = Table(header_style="bold", show_lines=True)
    for n, column in enumerate(columns):
        table.add_column(column, overflow="fold", max_width=None if n == len(columns) - 1 else 28)
    for row in rows:
        table.add_row(*map(printable, row))
    wide = None if sys.stdout.isatty() else 160
    Console(width=wide, markup=False, emoji=False, highlight=False).print(table)


def print_indented(margin: str, text: str) -> None:
    """``text`` on stdout behind ``margin``: wrapped under itself where that is a terminal, else on one line."""
    text = printable(text)
    if sys.stdout.isatty():
        room = max(20, shutil.get_terminal_size().columns - len(margin))
        text = ("\n" + " " * len(margin)).join(textwrap.wrap(text, room, break_on_hyphens=False))
    print(margin + text)


@contextmanager
def progress_bars(*, quiet: bool, memory: Callable[[], str] = lambda: "") -> Iterator[Progress]:
    """A bar per stage on stderr where that is a terminal, elsewhere a plain line now and then; nothing with ``quiet``.

    Each shows the time that is left, and the ``memory`` in use where it is told.
    """
    if quiet or not sys.stderr.isatty():
        yield silent if quiet else plain_lines(memory=memory)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    described = TextColumn("{task.description:>16}", markup=False)  # a name may hold [brackets]
    columns = (described, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    more = (TimeRemainingColumn(), TextColumn("{task.fields[memory]}"))
    with Bars(*columns, *more, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if done >= total:
                if stage in tasks:
                    bars.remove_task(tasks.pop(stage))
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(_shortened(printable(stage)), total=total, memory="")
            bars.update(tasks[stage], completed=done, total=total, memory=memory())

        yield show


def plain_lines(seconds: float = 30.0, memory: Callable[[], str] = lambda: "") -> Progress:
    """Progress for a log file: a line for a stage at most every so many ``seconds``, none for a stage that is quick.

    The time left is that of the remaining units at the mean pace since the last line. A stage that is done is forgotten.
    """
    said: dict[str, tuple[float, int]] = {}

    def show(stage: str, done: int, total: int) -> None:
        if not total:
            said.pop(stage, None)
            return
        now = time.monotonic()
        since, before = said.setdefault(stage, (now, done))
        if done < before:  # the stage begins again
            said[stage] = since, before = now, done
        if now - since >= seconds:
            said[stage] = (now, done)
            left = "" if done == before else f", {time_left((total - done) * (now - since) / (done - before))} left"
            used = memory()
            note_line(f"{stage}: {done} of {total}{left}{f', {used}' if used else ''}")
        if done >= total:
            del said[stage]

    return show


def _shortened(stage: str) -> str:
    """``stage`` without the middle of a long name, which would leave a bar no room.

    >>> _shortened("a_very_long_name_of_a_case_in_a_folder: windows")
    'a_very_long_nam…_a_folder: windows'
    """
    return stage if len(stage) <= _WIDEST else f"{stage[:15]}…{stage[-18:]}"


def time_left(seconds: float) -> str:
    """Such as ``2 h 5 min``, ``12 min`` or ``40 s``.

    >>> time_left(7_500.0), time_left(720.4), time_left(39.6)
    ('2 h 5 min', '12 min', '40 s')
    """
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 90 else f"{seconds:.0f} s"
