"""``medseg plan``"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import key_values


def plan(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML config: as given, else in ./configs/.", readable=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as plan.spacing_mm=[1,1,3]. Repeatable."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    timing: Annotated[
        bool,
        typer.Option("--timing/--no-timing", help="Measure training steps here; without, their number stays open."),
    ] = True,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Show what a training would do, why, and what memory and time it needs; every decision has a key in the config."""
    from medseg.cli.console import print_text_table, progress_bars
    from medseg.core.config import load_config

    overrides = key_values(settings) | ({"device": device} if device is not None else {})
    checked = load_config(config, overrides)  # before torch is imported: a typo answers at once
    from medseg.workflows.plan import plan as planned

    with progress_bars(quiet=quiet) as progress:
        found = planned(checked, timing=timing, progress=progress)
    if json_:
        from medseg.core.files import json_bytes

        print(json_bytes(found.content()).decode(), end="")
        return
    print_text_table(["measured", ""], found.measured())
    print_text_table(["decision", "value", "why"], found.decisions())
    for line in found.costs():
        print(line)
