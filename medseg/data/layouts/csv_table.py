"""A table of cases in CSV: case, image (or image_<channel> for each channel), label; patient, fold, annotated if known."""

from dataclasses import replace
from pathlib import Path

from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.data.layouts.annotated import structures_in
from medseg.data.layouts.common import make_case, require_file, require_unique
from medseg.data.layouts.table import Row, read_table, require_cell

_OPTIONAL = ("image", "patient", "fold", "annotated")
_PREFIX = "image_"


def csv_table(config: DataConfig) -> list[Case]:
    """One case for each row of ``table``: case, image or image_CHANNEL, label; patient, fold and annotated if known.

    Relative paths start at its folder. Raises DataError with the line.
    ``channels`` chooses among the columns ``image_<channel>`` and orders them; without it their order is the table's.
    """
    file = config.path_of("table")
    rows = read_table(file, ("case", "label"), _OPTIONAL, prefix=_PREFIX)
    columns = _image_columns(file, rows[0], config.channels)
    require_unique([require_cell(file, row, "case") for row in rows], file)
    return [_case(file, row, columns, config.group) for row in rows]


def _image_columns(file: Path, row: Row, asked: tuple[str, ...] | None) -> dict[str, str]:
    """``{channel: column}``; the channel of the column `image` has no name."""
    named = {column.removeprefix(_PREFIX): column for column in row.cells if column.startswith(_PREFIX)}
    if "image" in row.cells and named:
        raise DataError(f"{file}, line 1: both `image` and {next(iter(named.values()))!r}: give one column per channel")
    if not named and "image" not in row.cells:
        raise DataError(f"{file}, line 1: column 'image' is missing; found: {', '.join(row.cells)[:200]}")
    if asked is None:
        return named or {"": "image"}
    lost = [name for name in asked if name not in named]
    if lost:
        raise ConfigError(f"data.channels names {lost[0]!r}, but {file} has no column {_PREFIX}{lost[0]}")
    return {name: named[name] for name in asked}


def _case(file: Path, row: Row, columns: dict[str, str], group: str | None) -> Case:
    name, line = row.cells["case"], f"{file}, line {row.line}: "
    images = [
        require_file(file.parent / require_cell(file, row, column), "image", name, line=line)
        for column in columns.values()
    ]
    label = require_file(file.parent / require_cell(file, row, "label"), "label", name, line=line)
    patient = require_cell(file, row, "patient") if "patient" in row.cells else None
    case = make_case(name, images, label, group, channels=[c for c in columns if c], patient=patient)
    return replace(case, fold=_fold(file, row), annotated=structures_in(row.cells.get("annotated", "")))


def _fold(file: Path, row: Row) -> int | None:
    if "fold" not in row.cells:
        return None
    text = require_cell(file, row, "fold")
    if not text.isdecimal() or len(text) > 3:
        raise DataError(f"{file}, line {row.line}: fold {text!r} is no number from 0")
    return int(text)
