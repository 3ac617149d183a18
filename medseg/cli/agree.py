"""``medseg agree``."""

from pathlib import Path
from typing import Annotated

import typer


def agree(
    readers: Annotated[
        list[Path], typer.Argument(help="Two or more folders of label maps of the same cases.", readable=False)
    ],
    labels: Annotated[
        Path | None, typer.Option(help="Names of the values, as for medseg evaluate.", metavar="FILE", readable=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for agreement.csv and pairs.csv (replaced if there).", metavar="DIR", readable=False),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Regular expression that names the patient in a case id.", metavar="REGEX")
    ] = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no table, no progress, no remark.")] = False,
) -> None:
    """How well readers, or models, agree: Dice, reliability of volumes, smallest detectable change, limits of agreement."""
    from medseg.cli.console import note_line, print_table, progress_bars
    from medseg.report.agreement import NOTES
    from medseg.workflows.agree import agree as agreed

    with progress_bars(quiet=quiet) as progress:
        found = agreed(readers, labels=labels, output=output, group=group, progress=progress)
    if quiet:
        return
    header, *rows = found.table()
    print_table(f"{len(found.readers)} readers", header, rows)
    header, *rows = found.pair_table()
    print_table("pair by pair", header, rows)
    print(NOTES)
    if output is not None:
        note_line(f"wrote agreement.csv and pairs.csv into {output}")
