"""medseg models import"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import AsJson


def import_model(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="A folder that nnU-Net v2 trained (plans.json, fold_*), or a MONAI bundle (a folder or .zip).",
            readable=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model folder to write.", readable=False)],
    folds: Annotated[
        str | None, typer.Option("--folds", help="0,1 or all (fold_all). Default: every numbered fold, else fold_all.")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", help="File in each fold (default checkpoint_final.pth), or in models/ of a bundle."
        ),
    ] = None,
    configuration: Annotated[
        str | None, typer.Option("--configuration", help="Which one, where FOLDER holds several: 2d, 3d_fullres ...")
    ] = None,
    orientation: Annotated[
        str | None,
        typer.Option("--orientation", help="How the training files were stored, such as LPS. Default: RAS."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the model. Default: as the folder says.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Of the weights, such as CC-BY-4.0.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model folder that is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Import a model that nnU-Net v2 trained, or a MONAI bundle. Nothing in its files is executed."""
    from medseg.cli.console import print_json
    from medseg.workflows.import_model import folds_of
    from medseg.workflows.import_model import import_model as run

    found = run(
        source,
        output=output,
        folds=folds_of(folds),
        checkpoint=checkpoint,
        configuration=configuration,
        orientation=orientation,
        name=name,
        licence=licence,
        force=force,
    )
    plan, card = found.card.plan, found.card
    if as_json:
        told = {"folder": str(found.folder), "name": card.name, "labels": card.labels, "weights": list(found.weights)}
        print_json({**told, "notes": list(found.remarks)})
        return
    structures = ", ".join(n for n, value in card.labels.items() if value)
    print(f"{found.folder}: {card.name}, {plan.modality}, {plan.dimensions}D {plan.architecture.name}")
    print(f"  structures: {structures}")
    print(f"  weights: {', '.join(found.weights)}")
    for remark in found.remarks:
        print(f"  note: {remark}")
    print(f"next: medseg infer SCAN --model {found.folder}")
