"""``medseg preview``"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import key_values


def preview(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML config: as given, else in ./configs/.", readable=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a key, such as 'train.augmentation={elastic: {share: 1}}'. Repeatable.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="PNG to write.", metavar="FILE", readable=False)
    ] = Path("preview.png"),
    patches: Annotated[int, typer.Option("--patches", help="How many patches, 1 to 40.")] = 4,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Draw patches as training sees them, before and after augmentation, with their labels."""
    from medseg.cli.console import progress_bars
    from medseg.core.config import load_config

    checked = load_config(config, key_values(settings))  # before torch is imported: a typo answers at once
    from medseg.workflows.preview import preview as drawn

    with progress_bars(quiet=quiet) as progress:
        print(drawn(checked, output=output, patches=patches, force=force, progress=progress))
