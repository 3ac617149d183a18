"""``medseg agree``."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def agree(
    readers: Annotated[
        list[Path], typer.Argument(help="Two or more folders of label maps of the same cases.", readable=False)
    ],
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="A model's label maps: does it agree with the readers as they do with one another? Repeatable.",
            metavar="DIR",
            readable=False,
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="How much less Dice with the readers a model may have and count as not inferior, such as 0.02."
        ),
    ] = None,
    consensus: Annotated[
        Literal["majority", "staple"] | None,
        typer.Option(help="One label map of all readers' for each case, into consensus/ of --output."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Names of the values, as for medseg evaluate.", metavar="FILE", readable=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for agreement.html, tables and figure (replaced if there).", metavar="DIR", readable=False
        ),
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Regular expression that names the patient in a case id.", metavar="REGEX")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of resampling.", min=0)] = 0,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print no table, no progress, no remark.")] = False,
) -> None:
    """How well readers, or models, agree: Dice, reliability of volumes, smallest detectable change, limits of agreement.

    With --model also whether a model agrees with the readers as they do with one another; with --consensus the label
    maps that they agree on.
    """
    from medseg.cli.console import note_line, print_table, progress_bars
    from medseg.workflows.agree import agree as agreed

    with progress_bars(quiet=quiet) as progress:
        found = agreed(
            readers,
            models=model or (),
            margin=margin,
            consensus=consensus,
            labels=labels,
            output=output,
            group=group,
            seed=seed,
            progress=progress,
        )
    if quiet:
        return
    tables = {f"{len(found.readers)} readers": found.table(), "pair by pair": found.pair_table()}
    tables |= {f"{name} among the readers": rows for name, rows in found.model_tables().items()}
    tables |= {"readers by STAPLE": found.quality_table()} if found.quality else {}
    for title, (header, *rows) in tables.items():
        print_table(title, header, rows)
    print(found.notes())
    for sentence in found.conclusions():
        print(sentence)
    if output is not None:
        maps = f" and {len(found.files)} label map(s) in consensus" if found.files else ""
        note_line(f"wrote agreement.html, its tables and figures, methods.md{maps} into {output}")
