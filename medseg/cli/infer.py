"""medseg infer"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def infer(
    scans: Annotated[list[Path], typer.Argument(metavar="SCAN...", help="NIfTI, MHA or NRRD files, or DICOM folders.")],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="Model folder. Default: the newest under ./runs.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="A file if it ends in .nii or .nii.gz, else a folder. Default: beside the scan."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, everything else on stderr.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")] = False,
) -> int:
    """Segment scans: a label map on each scan's own grid, and volumes in mL."""
    from medseg.cli.console import error_line, note_line, print_table, printable, progress_bars
    from medseg.workflows.infer import infer_scans

    say = (lambda line: None) if quiet else note_line
    manifests: list[dict[str, Any]] = []  # and not the label maps, which would fill the memory
    failures = []
    with progress_bars(quiet=quiet) as progress:
        for item in infer_scans(
            scans, model=model, output=output, force=force, device=device, progress=progress, say=say
        ):
            if item.result is not None:
                manifests.append(item.result.manifest)
            elif item.error is not None:
                failures.append((item.scan, item.error))
                if len(scans) > 1:
                    error_line(str(item.error))
    if as_json:
        failed = [{"scan": str(scan), "error": str(error)} for scan, error in failures]
        print(json.dumps({"results": manifests, "failed": failed}, indent=2, ensure_ascii=True))
    if len(scans) == 1 and failures:
        raise failures[0][1]
    for manifest in () if as_json else manifests:
        if not quiet:
            rows = [[name, f"{ml:.2f}"] for name, ml in manifest["volumes_ml"].items()]
            print_table("", ["structure", "volume mL"], rows)
            for warning in manifest["warnings"]:
                note_line(f"warning: {warning}")
        print(printable(manifest["label_map"]["path"]))
    if not quiet:
        note_line("Not a medical device.")
    return 1 if failures else 0
