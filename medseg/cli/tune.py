"""``medseg tune``"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import AsJson, Quiet

_COLUMNS = 6  # structures of more have their Dice in --json and `medseg models info`


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
    refine: Annotated[
        str | None,
        typer.Option(
            "--refine",
            metavar="NAME",
            help="Also try this refinement, such as dense_crf, with what is best without it; it needs time and disk.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure overlap, mirroring, roi and post-processing of a model on its validation cases, and write presets into its folder.

    Accurate: the highest mean Dice. Balanced and fast: the quickest that loses no more than 0.002 and 0.01 of it.
    """
    from medseg.cli.console import listed, note_line, print_table, progress_bars, without_long_lists
    from medseg.core.config_inference import refine_from
    from medseg.models.card import mirrored
    from medseg.workflows.tune import tune as tuned
    from medseg.workflows.tune_choice import Candidate

    with progress_bars(quiet=quiet) as progress:
        found = tuned(
            model,
            config=config,
            images=images,
            labels=labels,
            cases=cases,
            refine=None if refine is None else refine_from(refine),
            device=device,
            progress=progress,
            say=(lambda line: None) if quiet else note_line,
        )
    if as_json:
        from medseg.core.files import json_bytes

        print(json_bytes(found.content()).decode(), end="")
        return
    presets = found.presets.values()
    structures = list(dict.fromkeys(name for preset in presets for name in preset.dice))
    few = [one for one in structures if len(structures) <= _COLUMNS]
    rows, refined = [], ["refine"] if refine else []

    def most_lost(one: Candidate) -> str:
        name, loss = found.most_lost(one)
        return f"{name} {loss:.4f}" if loss > 0 else ""

    for one, why in sorted(zip(found.candidates, found.refused, strict=True), key=lambda pair: pair[0].mean_seconds):
        means = dict(zip(found.structures, one.mean_by_structure, strict=True))
        rows.append(
            [
                ", ".join(found.presets_like(one))
                or (f"no: {without_long_lists(why, found.structures)}" if why else ""),
                *(f"{one.way.overlap:g}", mirrored(one.way.mirror), "on" if one.way.roi else "off"),
                *([one.way.refine.name if one.way.refine else "off"] if refined else []),
                *(f"{one.mean_share:.0%}", f"{one.mean_seconds:.3g}", f"{one.mean_dice:.4f}"),
                *([f"{means[name]:.4f}" for name in few] or [most_lost(one)]),
            ]
        )
    ways = ["preset", "overlap", "mirror", "roi", *refined, "passes", "seconds a scan", "mean Dice"]
    print_table("", [*ways, *(few or ["most lost of"])], rows)
    if not few:
        print("most lost of: the structure whose mean Dice is the farthest below that of accurate, and by how much")
    print("passes: forward passes of the network, as a share of the whole scan's with the same overlap and mirroring")
    if any(len(found.presets_like(one)) == len(presets) for one in found.candidates):
        print("all presets are the same: nothing quicker loses as little Dice as a preset may")
    if found.no_roi:
        print(f"roi: not tried, because {found.no_roi}")
    if found.bf16_dice_loss is not None:
        lost = found.bf16_dice_loss
        most = f"{lost.largest:.4f} of the mean Dice of {lost.structure}, of no structure more"
        print(
            f"bf16 loses {most if lost.largest > 0 else 'Dice of no structure'}; all figures are in {found.precision}"
        )
    steps = next(iter(presets)).postprocess
    for structure, kept in steps.items():
        said = f"mean Dice {found.gains[structure]:+.4f} in patients who had no part in the choice"
        print(f"post-processing of {structure}: {', '.join(s.name for s in kept)} ({said})")
    if not steps:
        print("post-processing: none raises the mean Dice of a structure in patients who had no part in the choice")
    from medseg.inference.predicted import FEWEST, LEVEL, calibrated

    for calibration in found.predicted_dice[:1]:
        patients = {name: shift.patients for name, shift in calibrated(calibration).items()}
        enough = [f"{name} ({n} patients)" for name, n in patients.items() if n >= FEWEST]
        scarce = [f"{name} ({n} patients)" for name, n in patients.items() if n < FEWEST]
        parts = [f"{LEVEL:.0%} intervals for {listed(enough)}"] if enough else []
        parts += [f"no interval for {listed(scarce)}: it takes {FEWEST}"] if scarce else []
        print(f"predicted Dice: {'; '.join(parts)}")
    if looking := [name for name, preset in found.presets.items() if preset.roi]:
        print(f"no predicted Dice with {' and '.join(looking)}: outside the box of roi there are no probabilities")
    print(f"{found.cases} cases; use one with: medseg infer SCAN --model {found.model} --preset fast")
