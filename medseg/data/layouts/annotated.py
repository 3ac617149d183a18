"""Which structures were annotated in which case: a column of the dataset's table, or a table beside any dataset."""

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from medseg.core.case import Case
from medseg.core.errors import DataError
from medseg.data.layouts.table import read_table, require_cell


def structures_in(cell: str) -> tuple[str, ...] | None:
    """The names in a cell, separated by comma, semicolon or bar; None (all of them) for an empty cell or ``all``.

    >>> structures_in("liver; left kidney"), structures_in("all")
    (('liver', 'left kidney'), None)
    """
    names = dict.fromkeys(name.strip() for name in re.split(r"[,;|]", cell) if name.strip())
    return None if not names or list(names) == ["all"] else tuple(names)


def annotated_from(path: Path, cases: Sequence[Case]) -> list[Case]:
    """``cases`` with ``annotated`` as the table ``path`` (columns case, annotated) says it; the others stay as they are.

    Raises DataError with the line for a case that is not in the dataset or is there twice.
    """
    by_id = {case.id: case for case in cases}
    seen: dict[str, int] = {}
    for row in read_table(path, ("case", "annotated")):
        name = require_cell(path, row, "case")
        if name not in by_id:
            near = get_close_matches(name, by_id, 1)
            meant = f"; did you mean {near[0]!r}?" if near else "; the ids are those of the dataset's files"
            raise DataError(f"{path}, line {row.line}: no case {name!r} in the dataset{meant}")
        if name in seen:
            raise DataError(f"{path}, line {row.line}: case {name!r} is there twice, first on line {seen[name]}")
        seen[name] = row.line
        by_id[name] = replace(by_id[name], annotated=structures_in(row.cells["annotated"]))
    return list(by_id.values())


def check_annotated(cases: Sequence[Case], names: Sequence[str], left_out: Sequence[str]) -> list[Case]:
    """``cases`` whose ``annotated`` holds structures of ``names`` only: those ``left_out`` of the training are dropped.

    Raises DataError for any other name: it would pass for a structure that nobody annotated.
    """
    return [
        case if case.annotated is None else replace(case, annotated=_known(case, names, left_out)) for case in cases
    ]


def _known(case: Case, names: Sequence[str], left_out: Sequence[str]) -> tuple[str, ...]:
    for name in case.annotated or ():
        if name not in names and name not in left_out:
            near = get_close_matches(name, (*names, *left_out), 1)
            meant = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            raise DataError(f"{case.id}: annotated names {name!r}, which is no structure in labels; {meant}")
    kept = tuple(name for name in names if name in (case.annotated or ()))
    if not kept:
        raise DataError(f"{case.id}: none of {', '.join(names)} is annotated in this case; take it out of the dataset")
    return kept
