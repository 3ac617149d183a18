"""medseg convert"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from medseg.cli.options import MaxVoxels, OnGap, Series


def convert(
    scans: Annotated[list[str], typer.Argument(metavar="SCAN...", help="An image file, a DICOM folder, or a zip.")],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT",
            help=".nii.gz, .nii, .hdr, .nrrd, .nhdr, .mha, .mhd; .png or .tif for one slice; .zip for zipped DICOM; "
            "no suffix, or a / at its end, for a DICOM folder.",
        ),
    ],
    channels: Annotated[
        bool, typer.Option("--channels", help="The SCANs are the channels of one case, in this order.")
    ] = False,
    label: Annotated[bool, typer.Option("--label", help="The voxels are label values (names are kept).")] = False,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="A labels file that names the values; implies --label.", readable=False),
    ] = None,
    modality: Annotated[
        Literal["CT", "MR"] | None, typer.Option("--modality", help="For DICOM. Default: what the scan says.")
    ] = None,
    series: Series = None,
    on_gap: OnGap = "refuse",
    max_voxels: MaxVoxels = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Write a scan or label map in another format: the same values in the same place."""
    from medseg.cli.console import note_line
    from medseg.core.errors import ConfigError
    from medseg.core.text import printable
    from medseg.io.scan import MAX_VOXELS, ReadOptions
    from medseg.workflows.convert import convert as run

    if len(scans) > 1 and not channels:
        raise ConfigError(f"{len(scans)} scans and one OUT; if they are the channels of one case, add --channels")
    done = run(
        scans,
        out,
        labels=labels,
        label=label,
        modality=modality,
        force=force,
        options=ReadOptions(series, on_gap, max_voxels or MAX_VOXELS),
    )
    for note in done.notes:
        note_line(f"note: {note}")
    shape = "x".join(map(str, done.geometry.shape))
    spacing = " x ".join(f"{mm:.4g}" for mm in done.geometry.spacing_mm)
    several = f", {done.channels} channels" if done.channels > 1 else ""
    print(printable(f"{done.path}: {shape} voxels{several}, {spacing} mm, {done.geometry.orientation}, {done.dtype}"))
