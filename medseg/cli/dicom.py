"""medseg dicom ls"""

import json
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from medseg.io.dicom_listing import SeriesFacts

dicom = typer.Typer(help="Look into DICOM folders and archives.", no_args_is_help=True)


@dicom.callback()
def _group() -> None:
    pass  # so that `ls` stays a verb of its own while it is the only one


@dicom.command("ls")
def ls(
    place: Annotated[
        Path,
        typer.Argument(metavar="FOLDER|ZIP", help="A DICOM folder, file, DICOMDIR, or a zip archive.", readable=False),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
    descriptions: Annotated[
        bool, typer.Option("--descriptions", help="Show series descriptions too: free text that may name the patient.")
    ] = False,
) -> None:
    """List every study and series: geometry, and what reading it would refuse. Reads headers only."""
    from medseg.cli.console import print_indented
    from medseg.workflows import dicom_list as workflow

    listing = workflow.dicom_list(place)
    if as_json:
        print(json.dumps(workflow.as_json(listing, descriptions=descriptions), indent=2, ensure_ascii=True))
        return
    _print_table(listing.series)
    _print_words(listing.series, place, descriptions=descriptions)
    for note in listing.aside:
        print_indented("", note)
    for error in listing.broken:
        print_indented("", f"damaged, so that nothing here is read: {_without_place(error, place)}")


def _print_table(series: "Sequence[SeriesFacts]") -> None:
    """A row for each series: what fits a screen of 80 columns; a line between studies."""
    from medseg.cli.console import print_table

    tilted = any(one.tilt_degrees for one in series)
    columns = ["#", "kind", "slices", "pixels", "spacing mm", "axes", *(["tilt"] if tilted else []), "stored", "reads"]
    ends = [n for n, (one, following) in enumerate(pairwise(series)) if one.study != following.study]
    if series:
        print_table("", columns, [_row(one, tilted=tilted) for one in series], ends)


def _print_words(series: "Sequence[SeriesFacts]", place: Path, *, descriptions: bool) -> None:
    """Under each study's UID those of its series, and what is to say of them in words."""
    from medseg.cli.console import print_indented

    for study, members in groupby(series, key=lambda one: one.study):
        print_indented("", f"study {study or 'without UID'}")
        for one in members:
            print_indented(f"{one.number:3}  ", f"series {one.series or 'without UID'}")
            lines = [one.description] if descriptions and one.description else []
            lines += [f"note: {note}" for note in one.notes]
            lines += [f"refused: {_without_place(one.problem, place)}"] if one.problem else []
            for line in lines:
                print_indented("     ", line)


def _row(one: "SeriesFacts", *, tilted: bool) -> list[str]:
    spacing = "x".join(f"{s:.3g}" for s in one.spacing_mm) if one.spacing_mm else "?"
    tilt = [f"{one.tilt_degrees:.1f}°" if one.tilt_degrees else ""] if tilted else []
    stored = _short(one.syntaxes[0]) if len(one.syntaxes) == 1 else "mixed"
    reads = "aside" if one.is_scout else "no" if one.problem else "yes"
    kind = one.modality or "?"
    size = "x".join(one.size)
    return [str(one.number), kind, str(one.slices), size, spacing, one.orientation or "?", *tilt, stored, reads]


def _short(syntax: str) -> str:
    """A transfer syntax in a word: how the pixels are stored; a part of the standard's name tells them apart."""
    known = {
        "High-Throughput": "HTJ2K",
        "JPEG 2000": "JPEG2000",
        "JPEG-LS": "JPEG-LS",
        "JPEG Lossless": "JPEG-LL",
        "JPEG": "JPEG",
        "RLE": "RLE",
        "Deflated": "deflated",
        "VR": "plain",
    }
    return next((word for part, word in known.items() if part in syntax), "other")


def _without_place(error: str, place: Path) -> str:
    """``error`` without the place that the user has just typed."""
    from medseg.io.source import shown

    return error.removeprefix(f"{shown(place)}: ")
