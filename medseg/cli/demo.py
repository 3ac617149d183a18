"""medseg demo"""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything; new or an earlier demo.", readable=False)
    ] = Path("demo"),
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo.")] = False,
) -> None:
    """Make phantom scans, train on them, segment unseen ones, evaluate, draw: the whole way in under 4 minutes."""
    from medseg.cli.console import note_line, print_table, progress_bars
    from medseg.core.text import printable
    from medseg.workflows.demo import COLUMNS
    from medseg.workflows.demo import demo as run

    with progress_bars(quiet=False) as progress:
        result = run(output, force=force, progress=progress, say=note_line)
    print_table(f"Unseen phantom CT scans, means over {len(result.report.cases)}", COLUMNS, result.rows)
    print(f"{sum(result.seconds.values()):.0f} s: " + ", ".join(f"{k} {v:.0f} s" for k, v in result.seconds.items()))
    where = printable(str(result.folder))
    for name, what in (
        ("overlays", "pictures: prediction filled, reference outlined"),
        ("evaluation", "report.html (open it), scores.csv and summary.json"),
        ("predictions", "label maps and their manifests"),
        ("run/model", "the trained model: medseg infer SCAN --model " + f"{where}/run/model"),
        ("data", "the phantoms, with true volumes in volumes.csv"),
    ):
        print(f"  {where}/{name:<12} {what}")
