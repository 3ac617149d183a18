"""`medseg phantom`: phantom CT scans as a dataset to train and test on."""

from pathlib import Path
from typing import Annotated

import typer


def phantom(
    output: Annotated[Path, typer.Option("--output", help="Folder of the dataset; new or empty.", readable=False)],
    layout: Annotated[str, typer.Option(help="Layout on disk: msd (Medical Segmentation Decathlon).")] = "msd",
    cases: Annotated[int, typer.Option(help="Number of training scans.")] = 24,
    test: Annotated[int, typer.Option(help="Number of unseen scans besides, with references in labelsTs.")] = 0,
    seed: Annotated[int, typer.Option(help="The same seed writes the same scans.")] = 0,
    structures: Annotated[
        str,
        typer.Option(help="Labels: all (liver, tumour, spleen, kidneys), or liver (liver, tumour; as Task03_Liver)."),
    ] = "all",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier phantom dataset at --output.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Write phantom CT scans of the abdomen with known organs: data to try everything on, without a download."""
    from medseg.cli.console import progress_bars
    from medseg.core.errors import ConfigError
    from medseg.core.text import printable
    from medseg.workflows.phantom import write_msd

    if layout != "msd":
        raise ConfigError(f"--layout is {layout!r}; phantoms are written as msd only")
    with progress_bars(quiet=quiet) as progress:
        dataset = write_msd(
            output, cases=cases, test=test, seed=seed, structures=structures, force=force, progress=progress
        )
    if quiet:
        return
    where = printable(str(dataset.folder))
    print(f"{len(dataset.training)} training and {len(dataset.test)} test phantom CT scans (seed {seed}) in {where}")
    print(f"labels {', '.join(f'{value} {name}' for name, value in dataset.labels.mapping().items())}")
    print(f"true volumes in mL: {printable(str(dataset.folder / 'volumes.csv'))}")
