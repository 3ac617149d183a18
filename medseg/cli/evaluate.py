"""``medseg evaluate``."""

import json
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.report.evaluation import Report


MOST_LISTED = 12  # of structures that no file holds


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A label map, or a folder of them.", readable=False)],
    references: Annotated[
        Path, typer.Argument(help="Its reference, or a folder with the same case ids.", readable=False)
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Names of the values: a config, model.json, dataset.json or colour table.",
            metavar="FILE",
            readable=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for report.html, scores.csv and others (replaced if there).", metavar="DIR", readable=False
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(help="Which figures, such as dice,hd95; all for every one.", metavar="NAME,..."),
    ] = None,
    tolerance: Annotated[
        list[str] | None,
        typer.Option(help="For nsd: 2 (the default), or liver=3, repeatable; in mm.", metavar="[NAME=]MM"),
    ] = None,
    boundary: Annotated[
        list[str] | None,
        typer.Option(
            help="Width for boundary_iou: 2 (the default), or liver=3, repeatable; in mm.", metavar="[NAME=]MM"
        ),
    ] = None,
    missed: Annotated[
        str,
        typer.Option(help="A distance where one mask is empty: the image's diagonal, or undefined, then the mean too."),
    ] = "diagonal",
    lesions: Annotated[
        str | None, typer.Option(help="Structures that are scored lesion by lesion, too.", metavar="NAME,...")
    ] = None,
    lesion_iou: Annotated[float, typer.Option(help="From which IoU on two lesions are the same one.")] = 0.1,
    region: Annotated[
        list[str] | None,
        typer.Option(help="Structures scored together, too: kidneys=kidney_left+kidney_right.", metavar="NAME=A+B"),
    ] = None,
    resample: Annotated[
        bool,
        typer.Option("--resample", help="Bring a prediction on another grid onto its reference's (nearest voxel)."),
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Score the rest where a case is bad or alone; exit code 1.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(
            help="Regular expression that names the patient in a case id; intervals are by patient.", metavar="REGEX"
        ),
    ] = None,
    worst: Annotated[int, typer.Option(help="How many of the worst scores to list.", min=0)] = 5,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of the scans, for the pictures of the worst cases.", metavar="DIR", readable=False),
    ] = None,
    probabilities: Annotated[
        Path | None,
        typer.Option(
            help="Probability maps of the predictions (NIfTI, or nnU-Net's .npz), for ece and brier.",
            metavar="DIR",
            readable=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no table, no progress, no remark.")] = False,
) -> None:
    """Score predictions against references: overlap, surface distances, volumes, and lesion by lesion on request.

    Two files, or two folders matched by case id (the file name without its image suffix and a trailing _seg). A label
    map stored in another axis order is the same label map; one on another grid is an error, unless --resample is given.
    """
    from medseg.cli.console import note_line, progress_bars
    from medseg.core.errors import CasesError
    from medseg.workflows.evaluate import evaluate as score

    with progress_bars(quiet=quiet) as progress:
        report = score(
            predictions,
            references,
            labels=labels,
            output=output,
            metrics=names(metrics),
            tolerance_mm=tolerances(tolerance or []),
            boundary_mm=tolerances(boundary or [], "--boundary"),
            missed=missed,
            lesions=names(lesions) or (),
            lesion_iou=lesion_iou,
            regions=regions(region or []),
            resample=resample,
            skip_bad=skip_bad,
            group=group,
            worst=worst,
            images=images,
            probabilities=probabilities,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report.to_dict(), ensure_ascii=True, allow_nan=False))
    elif not quiet:
        _print_tables(report)
    for line in () if quiet else _warnings(report):
        note_line(f"warning: {line}")
    if output is not None and not quiet:
        note_line(f"wrote report.html, report.md, scores.csv and summary.json into {output}")
    if report.skipped:
        problems = "; ".join(f"{case} ({problem})" for case, problem in report.skipped)
        raise CasesError(f"{len(report.skipped)} case(s) skipped, {len(report.cases)} scored: {problems}")


def names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def tolerances(options: list[str], given: str = "--tolerance") -> dict[str, float]:
    """``2`` or ``liver=3`` as millimetres by structure, "" for all others. Raises ConfigError for what is no number."""
    from medseg.core.errors import ConfigError

    found: dict[str, float] = {}
    for option in options:
        name, _, number = option.rpartition("=")
        try:
            millimetres = float(number)
        except ValueError:
            raise ConfigError(f"{given} {option!r}: give millimetres, such as 2, or liver=3") from None
        if name in found:
            raise ConfigError(f"{given}: {name or 'the figure for all structures'} is given twice")
        found[name] = millimetres
    return found


def regions(options: list[str]) -> dict[str, list[str]]:
    """``kidneys=kidney_left+kidney_right`` as structures by region. Raises ConfigError for what does not read so."""
    from medseg.core.errors import ConfigError

    found: dict[str, list[str]] = {}
    for option in options:
        name, equals, parts = option.partition("=")
        structures = [part.strip() for part in parts.split("+") if part.strip()]
        if not equals or not name.strip() or not structures or name.strip() in found:
            raise ConfigError(f"--region {option!r}: give each region once, such as kidneys=kidney_left+kidney_right")
        found[name.strip()] = structures
    return found


def _warnings(report: "Report") -> list[str]:
    """What reading had to assume, said once where several cases share it."""
    cases: dict[str, list[str]] = {}
    for case in report.cases:
        for warning in case.warnings:
            cases.setdefault(warning, []).append(case.id)
    return [f"{ids[0]}{f' and {len(ids) - 1} more' if ids[1:] else ''}: {warning}" for warning, ids in cases.items()]


def _print_tables(report: "Report") -> None:
    """On stdout: per metric one row for each structure found in any case, and the mean over structures."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from medseg.core.text import printable
    from medseg.report.evaluation import STAR, SUMMARY_COLUMNS, format_value, summary_cells

    nowhere = _structures_in_no_case(report)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("", overflow="fold")
    for name in SUMMARY_COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    for metric, group in groupby(report.summaries, key=lambda s: s.metric):
        rows = [s for s in group if s.structure not in nowhere]
        if [s.structure for s in rows] == [""]:
            table.add_row(f"[bold]{metric}[/]", *map(escape, summary_cells(rows[0])))
        elif rows:
            table.add_row(f"[bold]{metric}[/]")
            for s in rows:
                table.add_row("  " + escape(printable(s.structure)), *map(escape, summary_cells(s)))
            if len(rows) > 1 and rows[0].unit == "ratio":
                table.add_row("  [italic]mean of structures[/]", format_value(report.mean(metric), "ratio"))
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"{len(report.cases)} case(s), {len(report.labels.structures)} structure(s)", markup=False)
    console.print(table)
    if any(s.interval == "percentile" for s in report.summaries):
        console.print(STAR, markup=False)
    if report.worst:
        console.print(f"worst {report.worst[0].metric}:", markup=False)
    for score in report.worst:
        state = "" if score.state == "scored" else f" ({score.state})"
        line = (
            f"  {format_value(score.value, score.unit)}  {printable(score.case)}, {printable(score.structure)}{state}"
        )
        console.print(line, markup=False, emoji=False)
    moved = sum(bool(case.resampled_from) for case in report.cases)
    if moved:
        console.print(f"{moved} prediction(s) resampled onto the reference's grid, nearest voxel", markup=False)
    if report.names_from and report.labels.structures:
        console.print(f"names by: {printable(report.names_from)}", markup=False, emoji=False)
    if nowhere:
        more = f" and {len(nowhere) - MOST_LISTED} more" if len(nowhere) > MOST_LISTED else ""
        listed = ", ".join(map(printable, nowhere[:MOST_LISTED]))
        console.print(f"in no prediction and no reference: {listed}{more}", markup=False)
    if not report.labels.structures:
        console.print("no structure in any file; --labels FILE names what was looked for", markup=False)


def _structures_in_no_case(report: "Report") -> list[str]:
    states: dict[str, set[str]] = {}
    for score in report.scores:
        states.setdefault(score.structure, set()).add(score.state)
    return [name for name, found in states.items() if found == {"both_empty"}]
