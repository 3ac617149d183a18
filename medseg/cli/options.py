"""Options that several verbs share: how a scan is read, how a config is changed."""

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from medseg.core.errors import ConfigError

READ = "How scans are read"  # a panel of --help
Series = Annotated[
    str | None,
    typer.Option(
        "--series", help="Which DICOM series, by UID or number (see `medseg dicom ls`).", rich_help_panel=READ
    ),
]
OnGap = Annotated[
    Literal["refuse", "resample"],
    typer.Option(
        "--on-gap", help="Where slices are missing or unevenly spaced: refuse, or resample.", rich_help_panel=READ
    ),
]
MaxVoxels = Annotated[
    int | None,
    typer.Option(
        "--max-voxels", min=1, help="The most voxels that a scan may have. Default: 2^31.", rich_help_panel=READ
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]


def key_values(settings: Iterable[str] | None) -> dict[str, str]:
    """``--set KEY=VALUE`` options as a mapping. Raises ConfigError for what is none."""
    pairs = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting}: expected KEY=VALUE, such as --set train.budget=20m")
        pairs[key] = value
    return pairs
