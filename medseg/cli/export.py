"""medseg export"""

from pathlib import Path
from typing import Annotated

import typer

from medseg.cli.options import AsJson, Quiet


def export(
    model: Annotated[Path, typer.Argument(help="A model folder, or an installed model's name.", readable=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.", readable=False)],
    format: Annotated[str, typer.Option("--format", help="onnx or monai-bundle.")] = "onnx",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export there.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for other programs: ONNX networks with all that stands around them as JSON, or a MONAI bundle."""
    from medseg.cli.console import note_line, print_json, progress_bars
    from medseg.core.text import printable
    from medseg.workflows import export as workflow

    with progress_bars(quiet=quiet) as progress:
        found = workflow.export(model, output, format=format, force=force, progress=progress)
    if not quiet:
        note_line(f"logits differ from PyTorch's by at most {found.difference:.1e} of their spread")
    if as_json:
        files = [str(found.folder / name) for name in found.files]
        print_json({"folder": str(found.folder), "files": files, "largest_difference": found.difference})
        return
    for name in found.files:
        print(printable(str(found.folder / name)))
