"""``medseg check``"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import key_values


def check(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML config; its labels may be missing or wrong.", readable=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as data.root=DIR. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="JSON file for the findings.", metavar="FILE", readable=False)
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            "--fix", help="New folder for a copy with everything put right that can be.", metavar="DIR", readable=False
        ),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")] = False,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="The summary line alone, no tables, no progress.")
    ] = False,
) -> int:
    """Find everything that is wrong with a dataset before training: grids, values, NaN, duplicates, leaks, outliers."""
    from medseg.cli.console import error_line, print_indented, print_table, print_text_table, progress_bars
    from medseg.workflows.check import check as checked

    with progress_bars(quiet=quiet) as progress:
        found = checked(config, overrides=key_values(settings), output=output, fix=fix, progress=progress)
    if json_:
        from medseg.core.files import json_bytes

        print(json_bytes(found.content()).decode(), end="")
    elif not quiet:
        if found.overview:
            print(found.overview)
            header, *rows = found.structure_table()
            print_table("", header, rows)
        header, *rows = found.finding_table()
        if rows:
            print_text_table(header, rows)
        if found.labels_block:
            print(f"The labels that fit what was found (names from {found.names_from}):\n\n{found.labels_block}\n")
    if not json_:
        print(found.summary)
    if found.fixed:
        if not json_:
            print(f"\n{found.fixed.summary}")
            for line in found.fixed.lines:
                print_indented("  ", line)
            print(f"\n{found.fixed.data_block}")
        if found.fixed.left_out:
            error_line(f"{found.fixed.left_out} case(s) could not be put right and are not in {found.fixed.folder}")
    elif found.problem:
        error_line(found.problem)
    return found.exit_code
