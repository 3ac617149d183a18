"""Options that several verbs share: how a scan is read."""

from typing import Annotated, Literal

import typer

Series = Annotated[
    str | None, typer.Option("--series", help="Which DICOM series, by UID or number (see `medseg dicom ls`).")
]
OnGap = Annotated[
    Literal["refuse", "resample"],
    typer.Option("--on-gap", help="Where slices are missing or unevenly spaced: refuse, or resample."),
]
MaxVoxels = Annotated[
    int | None, typer.Option("--max-voxels", min=1, help="The most voxels that a scan may have. Default: 2^31.")
]
