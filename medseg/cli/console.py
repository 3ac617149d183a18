"""How the command line speaks: results on stdout, everything else on stderr."""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table


def error_line(message: str) -> None:
    """One error on stderr, on one line, safe for any terminal: control characters are shown escaped."""
    print(f"medseg: error: {printable(message)}", file=sys.stderr)


def note_line(message: str) -> None:
    """One remark on stderr."""
    print(printable(message), file=sys.stderr)


def printable(text: str) -> str:
    """``text`` with control characters escaped, so that a file name cannot draw on the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A table on stdout: first column to the left, the others to the right."""
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for n, column in enumerate(columns):
        table.add_column(column, justify="left" if n == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(printable(str(cell)) for cell in row))
    wide = None if sys.stdout.isatty() else 160
    Console(width=wide).print(table)
