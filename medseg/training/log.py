"""log.csv: what training did, a row every so many steps."""

import csv
import io
from pathlib import Path

from medseg.core.files import write_text

Row = dict[str, float | int | str]


def write_log(path: Path, rows: list[Row]) -> None:
    """Replace the log; the columns are all keys in the order of their first appearance, a missing value is empty."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_log(path: Path, *, until: int) -> list[Row]:
    """The rows of an earlier run up to step ``until``; none where there is no log."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows: list[Row] = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
    return [row for row in rows if int(row["step"]) <= until]
