"""Tables in CSV as people save them: comma, semicolon or tab, with or without byte order mark, line breaks in quotes."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from medseg.core.errors import DataError

MAX_BYTES = 2**26
_TYPO = 0.81  # a column this much like a known one is that one misspelt: `pateint`, `patient_id`; not `folder`


@dataclass(frozen=True)
class Row:
    """``cells`` by column name, white space stripped; ``line`` is where the row begins in the file."""

    line: int
    cells: dict[str, str]


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = (), *, prefix: str = "\0") -> list[Row]:
    """The rows below the header. Columns are named in any letter case; others than those named are read, too.

    Known are also all columns whose names begin with ``prefix``.

    Raises DataError with the line: for a file that is missing, no UTF-8 text, or holds nothing; a column that is missing,
    there twice, or nearly a known one; a row of another length than the header, or a quote that is never closed.
    """
    rows = _records(path)
    if not rows:
        raise DataError(f"{path}: is empty; expected a header line with {', '.join(required)}")
    header = [name.lower() if name.lower() in (*required, *optional) else name for name in rows[0][1]]
    header = [prefix + name[len(prefix) :] if name.lower().startswith(prefix) else name for name in header]
    _check_header(path, header, required, optional, prefix)
    if len(rows) == 1:
        raise DataError(f"{path}: no cases: there is no row below the header")
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {line}: {len(cells)} cells, but the header has {len(header)} columns; quote a cell that "
                "holds the separator"
            )
    return [Row(line, dict(zip(header, cells, strict=True))) for line, cells in rows[1:]]


def require_cell(path: Path, row: Row, column: str) -> str:
    """What ``row`` says under ``column``. Raises DataError where the cell is empty."""
    if not row.cells[column]:
        raise DataError(f"{path}, line {row.line}: {column} is empty; each row needs one")
    return row.cells[column]


def _check_header(
    path: Path, header: Sequence[str], required: Sequence[str], optional: Sequence[str], prefix: str
) -> None:
    known, folded = (*required, *optional), [name.casefold() for name in header]
    for name in header:
        if name and folded.count(name.casefold()) > 1:
            raise DataError(f"{path}, line 1: column {name!r} is there twice; each needs its own name")
        if name in known or name.startswith(prefix):
            continue
        near = get_close_matches(name.lower(), known, 1, _TYPO)
        if near and near[0] not in header:
            raise DataError(f"{path}, line 1: unknown column {name!r}, did you mean {near[0]!r}?")
    missing = [name for name in required if name not in header]
    if missing:
        raise DataError(f"{path}, line 1: column {missing[0]!r} is missing; found: {', '.join(header)[:200]}")


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Each record that is not blank, with the line on which it begins."""
    text = _text(path)
    first = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found, line = [], 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                found.append((line, stripped))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line}: is not valid CSV ({error})") from None
    return found


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path}: is no regular file, so no table of cases can be in it")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: this table was not found") from None
    except OSError as error:
        raise DataError(f"{path}: this table cannot be read ({error.strerror})") from None
    if len(raw) > MAX_BYTES:
        raise DataError(f"{path}: is larger than {MAX_BYTES} bytes, too large for a table of cases")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text; save it as `CSV UTF-8`") from None
