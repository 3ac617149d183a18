"""medseg train"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import key_values


def train(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="YAML config: as given, else in ./configs/.", readable=False)
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, such as train.budget=20m. Repeatable."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Run folder. Default: runs/NAME.", readable=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the run folder.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = None,
    fold: Annotated[
        str | None, typer.Option("--fold", help="Number from 0, all, or final (every case is training).")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option("--init", help="Model folder or .safetensors to start from (train.init).", readable=False),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")] = False,
) -> None:
    """Train a network as a config asks, and validate it on whole volumes."""
    overrides = key_values(settings)
    given = {"device": device, "train.fold": fold, "train.init": None if init is None else str(init)}
    overrides |= {key: value for key, value in given.items() if value is not None}
    from medseg.cli.console import note_line, progress_bars
    from medseg.core.config import load_config

    checked = load_config(config, overrides)  # before torch is imported: a typo answers at once
    from medseg.inference.device import memory_in_use
    from medseg.training.team import leads
    from medseg.workflows.train import train as run

    quiet = quiet or not leads()
    with progress_bars(quiet=quiet, memory=memory_in_use) as progress:
        result = run(
            checked, output=output, resume=resume, progress=progress, say=(lambda line: None) if quiet else note_line
        )
    if not leads():
        return
    for name, value in result.dice.items():
        print(f"{name}: validation Dice {value:.4f}")
    print(result.model_folder)
