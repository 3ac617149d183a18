"""``medseg compare``."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.report.comparison import Comparison


def compare(
    models: Annotated[
        list[Path],
        typer.Argument(
            help="Two or more folders of predictions, or of medseg evaluate --output; the first is the standard.",
            readable=False,
        ),
    ],
    reference: Annotated[
        Path | None, typer.Option(help="Folder of the references, to score predictions.", metavar="DIR", readable=False)
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the values, as for medseg evaluate.", metavar="FILE", readable=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for tables, figures and methods.md (replaced if there).", metavar="DIR", readable=False
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Metrics, with commas. Default: dice, hd95 and nsd.", metavar="NAMES")
    ] = None,
    margin: Annotated[
        str | None,
        typer.Option(help="Non-inferiority margin: 0.02 for ratios, or dice=0.02,hd95=1.", metavar="MARGIN"),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help="For nsd: 2 (the default), or liver=3, repeatable; in mm.", metavar="[NAME=]MM"),
    ] = None,
    boundary: Annotated[
        list[str] | None,
        typer.Option(help="Width for boundary_iou: 2 (the default), or liver=3; in mm.", metavar="[NAME=]MM"),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Regular expression that names the patient in a case id.", metavar="REGEX")
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Each model with each, not all with the first.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="A case that a model lacks counts against it; exit code 1.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of resampling and permutations.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no table, no progress, no remark.")] = False,
) -> None:
    """Compare models on the same cases: paired differences with intervals, tests, non-inferiority, win/tie/loss.

    Every difference is a model less the first one given. Tables for a paper, a forest plot, a box plot and a methods
    paragraph go to --output.
    """
    from medseg.cli.console import note_line, progress_bars
    from medseg.cli.evaluate import names, tolerances
    from medseg.core.errors import CasesError
    from medseg.workflows.compare import compare as compared

    margins = _margin(margin)
    with progress_bars(quiet=quiet) as progress:
        result = compared(
            models,
            reference=reference,
            labels=labels,
            output=output,
            metrics=names(metric),
            margin=margins,
            tolerance_mm=tolerances(tolerance or []),
            boundary_mm=tolerances(boundary or [], "--boundary"),
            group=group,
            all_pairs=all_pairs,
            skip_bad=skip_bad,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print(json.dumps(result.to_dict(), ensure_ascii=True, allow_nan=False))
    elif not quiet:
        _print_rows(result)
    if output is not None and not quiet:
        note_line(
            "wrote comparison.html, .csv, .md, .tex, methods.md, forest.png, forest.svg"
            f"{', ranking.csv, .png, .svg' if result.rankings else ''} and box.png into {output}"
        )
    if any(result.skipped.values()):
        problems = "; ".join(
            f"{name}: {case} ({why})" for name, bad in result.skipped.items() for case, why in bad.items()
        )
        raise CasesError(f"case(s) skipped, the rest compared: {problems}")


def _margin(text: str | None) -> float | dict[str, float] | None:
    from medseg.core.errors import ConfigError

    if text is None:
        return None
    try:
        if "=" not in text:
            return float(text)
        parts = [part.partition("=") for part in text.split(",")]
        return {name.strip(): float(value) for name, _, value in parts}
    except ValueError:
        raise ConfigError(
            f"margin {text!r} is neither a number nor METRIC=NUMBER,...; such as 0.02 or dice=0.02,hd95=1"
        ) from None


def _print_rows(result: "Comparison") -> None:
    """On stdout: a table for each pair of models."""
    from itertools import groupby

    from rich import box
    from rich.console import Console
    from rich.table import Table

    from medseg.core.text import printable
    from medseg.report.comparison import NOTES
    from medseg.report.comparison_tables import HEADER, cells

    console = Console(width=None if sys.stdout.isatty() else 180, highlight=False, markup=False, emoji=False)
    people = len(set(result.patients.values()))
    console.print(f"{len(result.models)} models, {len(result.patients)} case(s) of {people} patient(s)")
    for (first, second), rows in groupby(result.rows, key=lambda row: (row.first, row.second)):
        title = printable(f"{second} (second) less {first} (first)")
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title=title, title_justify="left")
        for n, name in enumerate(HEADER):
            if n != 2:
                table.add_column(name, justify="left" if n < 2 else "right", overflow="fold")
        for row in rows:
            table.add_row(*(printable(cell) for n, cell in enumerate(cells(row)) if n != 2))
        console.print(table)
    console.print(NOTES)
    if result.rankings:
        from medseg.report.ranking import RANKING_NOTES

        header, *ranked = result.ranking_table()
        ranking = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", title="ranking", title_justify="left")
        for name in header:
            ranking.add_column(name, overflow="fold")
        for cells_of_row in ranked:
            ranking.add_row(*map(printable, cells_of_row))
        console.print(ranking)
        console.print(RANKING_NOTES)
