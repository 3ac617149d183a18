"""medseg list"""

import json
from typing import Annotated, Any

import typer


def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(
            metavar="[KIND]",
            help="architectures, losses, metrics, layouts, intensities, augmentations, optimizers, schedules, backends, "
            "postprocesses or writers.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list on stdout.")] = False,
) -> None:
    """Print the parts that a config or an option can name, with their options and defaults."""
    from medseg.cli.console import print_indented
    from medseg.workflows.list import listings

    found = listings(kind)
    if as_json:
        print(json.dumps([listing.content() for listing in found], indent=2, ensure_ascii=False))
        return
    for number, listing in enumerate(found):
        print(f"{'' if number == 0 else chr(10)}{listing.kind}, for {listing.chosen_by}")
        if listing.planned:
            print("  (what a config leaves open is fitted to the patch and the time)")
        for entry in listing.entries:
            print_indented("  ", f"{entry.name}: {entry.summary}")
            if entry.options:
                print_indented("      ", ", ".join(f"{o.name}: {_value(o.default)}" for o in entry.options))


def _value(default: Any) -> str:
    """As YAML has it; an option without a default, or with none, is decided by the planner or by the part."""
    if default is None:
        return "auto"
    return default if isinstance(default, str) else json.dumps(default)
