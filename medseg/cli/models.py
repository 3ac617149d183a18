"""medseg models"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.models_import import import_model
from medseg.cli.options import AsJson, Quiet

models = typer.Typer(help="List, show, import, pack, fetch and remove models.", no_args_is_help=True)
models.command("import")(import_model)

ModelsDir = Annotated[
    Path | None,
    typer.Option("--models-dir", help="The models folder. Default: one of this user's data folders.", readable=False),
]
Which = Annotated[Path, typer.Argument(metavar="MODEL", help="An installed model's name, or a folder.", readable=False)]


@models.command("list")
def list_models(models_dir: ModelsDir = None, as_json: AsJson = False) -> int:
    """List the installed models."""
    from medseg.cli.console import error_line, note_line, print_json, print_table
    from medseg.models.card import mean_dice
    from medseg.models.installed import models_folder
    from medseg.workflows import models as workflow

    place = models_dir or models_folder()
    found = workflow.list_models(place)
    if as_json:
        rows = [
            {"name": one.name, "folder": str(one.folder), "bytes": one.bytes, "problem": one.problem} for one in found
        ]
        print_json({"folder": str(place), "models": rows})
        return 0
    note_line(f"{place}: {len(found)} model(s)")
    sound = [(one, one.card) for one in found if one.card is not None]
    columns = ["name", "modality", "structures", "spacing mm", "Dice", "MB"]
    rows_shown = []
    for one, card in sound:
        names, dice = [name for name, value in card.labels.items() if value], mean_dice(card)
        rows_shown.append(
            [
                *(one.name, card.plan.modality),
                ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else ""),
                " x ".join(f"{s:.3g}" for s in card.plan.spacing_mm),
                "" if dice is None else f"{dice:.3f}",
                f"{one.bytes / 1e6:.1f}",
            ]
        )
    if rows_shown:
        print_table("", columns, rows_shown, left=("modality", "structures"))
    for one in found:
        if one.problem:
            error_line(one.problem)
    return 0


@models.command("info")
def info(model: Which, models_dir: ModelsDir = None, as_json: AsJson = False) -> None:
    """Verify a model and print its card: structures, grid, validation, licence, hashes."""
    from medseg.cli.console import print_indented, print_json
    from medseg.models.card import card_facts, validation_lines
    from medseg.workflows import models as workflow

    found = workflow.model_info(model, models_dir)
    size = workflow.size_of(found.folder)
    told = {"folder": str(found.folder), **card_facts(found.card), "bytes": size, "sha256": found.sha256}
    if as_json:
        print_json(told)
        return
    told["licence"] = told["licence"] or "not stated"
    told["sha256"] = f"{found.sha256} (of model.json, which holds those of the weights)"
    presets = found.card.inference.presets
    worded = {
        "validation": validation_lines(found.card) or ["none"],
        "presets": [preset.quoted(name).removeprefix("preset ") for name, preset in presets.items()]
        or ["none; `medseg tune` measures them"],
    }
    for key, value in told.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for line in worded.get(key) or [f"{name}: {inner}" for name, inner in value.items()]:
                print_indented("  ", line)
        else:
            words = " x ".join(f"{v:g}" for v in value) if key.endswith(("_mm", "_size")) else value
            print_indented("", f"{key}: {', '.join(value) if key == 'channels' and isinstance(value, list) else words}")


@models.command("pack")
def pack(
    model: Which,
    output: Annotated[Path, typer.Argument(help="The file to write: NAME.medseg, or NAME.zip.", readable=False)],
    models_dir: ModelsDir = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Pack a model into one file to pass on, and print its sha256: equal models make equal files."""
    from medseg.cli.console import print_json
    from medseg.core.text import printable
    from medseg.workflows import models as workflow

    digest = workflow.pack(model, output, folder=models_dir, force=force)
    if as_json:
        print_json({"file": str(output), "bytes": output.stat().st_size, "sha256": digest})
    else:
        print(f"{digest}  {printable(str(output))}")


@models.command("pull")
def pull(
    source: Annotated[str, typer.Argument(help="https://..., hf://owner/name@revision, or a packed model's file.")],
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", help="What the packed file (of hf://: its model.json) must have; else it is refused."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="The name to install it by. Default: that of the file or repository.")
    ] = None,
    models_dir: ModelsDir = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an installed model of this name.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fetch a model, verify it, and install it for `medseg infer --model NAME`; broken off, the same command goes on."""
    from medseg.cli.console import note_line, print_json, progress_bars
    from medseg.core.text import printable
    from medseg.workflows import models as workflow

    with progress_bars(quiet=quiet) as progress:
        found = workflow.pull(source, sha256=sha256, name=name, folder=models_dir, force=force, progress=progress)
    use = f"use it: medseg infer SCAN --model {found.name if not models_dir else found.model.folder}"
    for note in () if quiet else (*found.notes, use):
        note_line(note)
    if as_json:
        told = {"name": found.name, "folder": str(found.model.folder), "sha256": found.sha256}
        print_json({**told, "notes": list(found.notes)})
    else:
        print(printable(str(found.model.folder)))


@models.command("remove")
def remove(
    name: Annotated[str, typer.Argument(help="An installed model's name.")],
    models_dir: ModelsDir = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete an installed model."""
    import sys

    from medseg.cli.console import note_line, print_json
    from medseg.core.errors import ConfigError
    from medseg.models.installed import check_name, models_folder, not_installed
    from medseg.workflows import models as workflow

    place = models_dir or models_folder()
    if not (place / check_name(name)).is_dir():
        raise not_installed(name, place)
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError(f"{name}: there is nobody to ask; remove it without a question by --yes")
        typer.confirm(f"Delete {place / name}?", abort=True)
    removed = workflow.remove(name, folder=place)
    note_line(f"removed {removed}")
    if as_json:
        print_json({"name": name, "removed": str(removed)})
