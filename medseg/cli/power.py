"""``medseg power``."""

from typing import Annotated

import typer


def power(
    sd: Annotated[
        float, typer.Option(help="Standard deviation of the paired differences (sd in a pilot's comparison.csv).")
    ],
    difference: Annotated[
        float, typer.Option(help="The mean difference to find; with --margin the one that is expected.")
    ] = 0.0,
    margin: Annotated[float | None, typer.Option(help="Show non-inferiority by this margin instead.")] = None,
    chance: Annotated[float, typer.Option("--power", help="The chance to show it.")] = 0.8,
    alpha: Annotated[float, typer.Option(help="Two-sided level; a margin is tested one-sided at half of it.")] = 0.05,
) -> None:
    """How many patients a paired comparison needs, to find a difference or to show that a model is not inferior."""
    from medseg.workflows.power import power as needed

    found = needed(sd, difference=difference, margin=margin, power=chance, alpha=alpha)
    print(f"patients: {found.t_test} for the paired t-test, at most {found.wilcoxon} for Wilcoxon's signed-rank test")
