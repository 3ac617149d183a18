"""Options that several verbs share: how a scan is read, how a config is changed."""

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from medseg.core.errors import ConfigError

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


def key_values(settings: Iterable[str] | None) -> dict[str, str]:
    """``--set KEY=VALUE`` options as a mapping. Raises ConfigError for what is none."""
    pairs = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {setting}: expected KEY=VALUE, such as --set train.budget=20m")
        pairs[key] = value
    return pairs
