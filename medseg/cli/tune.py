"""``medseg tune``"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import AsJson, Quiet


def tune(
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="[MODEL]", help="Model folder, or name. Default: the newest under ./runs.", readable=False
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Cases: those of this config's data section.", readable=False),
    ] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Cases: a folder of scans.", readable=False)] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="With --images: the folder of their label maps.", readable=False)
    ] = None,
    cases: Annotated[
        int | None, typer.Option("--cases", min=1, help="At most so many cases, spread evenly. Default: all.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure overlap, mirroring and post-processing of a model on its validation cases, and write presets into its folder.

    Accurate: the highest mean Dice. Balanced and fast: the quickest that loses no more than 0.002 and 0.01 of it.
    """
    from medseg.cli.console import note_line, print_text_table, progress_bars
    from medseg.models.card import mirrored
    from medseg.workflows.tune import tune as tuned

    with progress_bars(quiet=quiet) as progress:
        found = tuned(
            model,
            config=config,
            images=images,
            labels=labels,
            cases=cases,
            device=device,
            progress=progress,
            say=(lambda line: None) if quiet else note_line,
        )
    if as_json:
        from medseg.core.files import json_bytes

        print(json_bytes(found.content()).decode(), end="")
        return
    rows = []
    for name, preset in found.presets.items():
        each = ", ".join(f"{structure} {dice.mean:.3f}" for structure, dice in preset.dice.items())
        mirror = mirrored(preset.mirror)
        rows.append(
            [name, f"{preset.overlap:g}", mirror, f"{preset.mean_dice:.4f}", each, f"{preset.seconds_per_scan:.3g}"]
        )
    print_text_table(["preset", "overlap", "mirror", "mean Dice", "by structure", "s a scan"], rows)
    if found.bf16_dice_loss is not None:
        lost = found.bf16_dice_loss
        print(f"bf16 loses {lost.largest:.4f} of the mean Dice of {lost.structure}; all figures: {found.precision}")
    steps = next(iter(found.presets.values())).postprocess
    for structure, kept in steps.items():
        print(
            f"post-processing of {structure}: {', '.join(s.name for s in kept)} (mean Dice {found.gains[structure]:+.4f})"
        )
    if not steps:
        print("post-processing: none raises the mean Dice of a structure")
    print(f"{found.cases} cases; use one with: medseg infer SCAN --model {found.model} --preset fast")
