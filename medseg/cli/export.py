"""medseg export"""

from pathlib import Path
from typing import Annotated

import typer


def export(
    model: Annotated[Path, typer.Argument(help="A model folder, or an installed model's name.", readable=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", readable=False)],
    format: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export there.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")] = False,
) -> None:
    """Write a model for other programs: ONNX networks, and all that stands around them as JSON."""
    from medseg.cli.console import note_line, progress_bars
    from medseg.core.text import printable
    from medseg.workflows import export as workflow

    with progress_bars(quiet=quiet) as progress:
        found = workflow.export(model, output, format=format, force=force, progress=progress)
    if not quiet:
        note_line(f"logits differ from PyTorch's by at most {found.difference:.1e} of their spread")
    for name in found.files:
        print(printable(str(found.folder / name)))
