"""medseg infer"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medseg.cli import also as also_written
from medseg.cli.options import READ, AsJson, MaxVoxels, OnGap, Quiet, Series

_WHICH, _HOW = "Which model", "How it runs"  # panels of --help


def infer(
    scans: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN...",
            help="NIfTI, MHA or NRRD files, DICOM folders, zips of one; folders, CSV tables or patterns of many.",
            readable=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A file if it ends in .nii or .nii.gz (of a picture: .png), else a folder. Default: beside the scan. "
            "Many scans need a folder; the same command on it goes on where it stopped.",
            readable=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite what is there; of many scans: do every one again.")
    ] = False,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="Model folder, or name (`medseg models list`). Default: the newest under ./runs.",
            readable=False,
            rich_help_panel=_WHICH,
        ),
    ] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            "--folds", help="Which of its folds: 0, or 0,1, or all. Default: all, averaged.", rich_help_panel=_WHICH
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            help="fast, balanced or accurate, as `medseg tune` measured and wrote them for this model.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    channels: Annotated[
        bool,
        typer.Option(
            "--channels", help="The SCANs are the channels of one case, in the model's order.", rich_help_panel=READ
        ),
    ] = False,
    series: Series = None,
    on_gap: OnGap = "refuse",
    max_voxels: MaxVoxels = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_HOW)] = "auto",
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            help="What runs the network: auto, torch, openvino or onnxruntime; see `medseg list backends`.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="f32, bf16, fp16 (GPU), or auto: on a CPU f32 where bf16 is not measured good.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option("--max-memory", help="What the whole process may hold, such as 4G.", rich_help_panel=_HOW),
    ] = None,
    accumulators: Annotated[
        Literal["auto", "f32", "f16", "nnunet"] | None,
        typer.Option(
            "--accumulators",
            help="In what windows are added up: f32, f16, or nnunet (f16 with nnU-Net's roundings). Default: f32, or as the "
            "model wishes; f16 where --max-memory needs it.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            "--overlap",
            help="Share of a window that its neighbour covers, too. Default: 0.5, or as the model wishes.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror",
            help="Average over mirrored windows: off, auto (as in training), or axes: i,j,k or "
            "left-right,front-back,head-feet. Default: off, or as the model wishes.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    refine: Annotated[
        str | None,
        typer.Option(
            "--refine",
            metavar="HOW",
            help="Move uncertain borders to where the image changes: dense_crf, '{name: dense_crf, appearance_mm: 5}', or none; "
            "see `medseg list refinements`. Default: none, or as the model wishes.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    roi: Annotated[
        bool | None,
        typer.Option(
            "--roi/--no-roi",
            help="Look first, quickly, then run all windows only around what was seen, and on wherever a mask goes on. "
            "Default: off.",
            show_default=False,
            rich_help_panel=_HOW,
        ),
    ] = None,
    postprocess: Annotated[
        list[str] | None,
        typer.Option(
            "--postprocess",
            metavar="STEPS",
            help="What the label map still needs: largest_component, 'liver: fill_holes', a YAML file, "
            "or none; see `medseg list postprocesses`. Default: as the model wishes.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    preview: also_written.Preview = False,
    stats: also_written.Stats = False,
    separate: also_written.Separate = False,
    dicom_seg: also_written.DicomSeg = False,
    rtstruct: also_written.Rtstruct = False,
    seg_nrrd: also_written.SegNrrd = False,
    mesh: also_written.Mesh = None,
    mesh_space: also_written.MeshSpace = "ras",
    bids: also_written.Bids = False,
    colour_tables: also_written.ColourTables = False,
    palette_png: also_written.PalettePng = False,
    save_probabilities: also_written.SaveProbabilities = False,
    save_entropy: also_written.SaveEntropy = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            help="Many scans on Dask workers: local:N, tcp://HOST:PORT or FILE.yaml.",
            rich_help_panel="Many scans",
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> int:
    """Segment scans: a label map on each scan's own grid, and volumes in mL."""
    from medseg.cli.cohort import run_cohort
    from medseg.cli.console import error_line, note_line, print_json, print_table, progress_bars, without_long_lists
    from medseg.core.config_inference import postprocess_from, refine_from
    from medseg.core.errors import ConfigError
    from medseg.core.text import printable
    from medseg.data.scans import is_many
    from medseg.inference.settings import InferenceOptions, bytes_of
    from medseg.io.scan import MAX_VOXELS, ReadOptions
    from medseg.io.source import shown
    from medseg.workflows.infer import InferResult, infer_cases

    asked = {
        **{"dicom-seg": dicom_seg, "seg-nrrd": seg_nrrd, "separate": separate},
        **{"stats": stats, "colour-tables": colour_tables},
        **{"palette-png": palette_png, "rtstruct": rtstruct},
        f"mesh-{mesh}{'-lps' if mesh_space == 'lps' else ''}": mesh is not None,
        **{"bids": bids, "probabilities": save_probabilities, "entropy": save_entropy, "preview": preview},
    }
    many = not channels and series is None and any(is_many(scan) for scan in scans)
    if many and output is None:
        named = next(scan for scan in scans if is_many(scan))
        raise ConfigError(f"{shown(named)}: holds several scans; say with --output DIR where their label maps go")
    also = [name for name, wanted in asked.items() if wanted]
    options = ReadOptions(series, on_gap, max_voxels or MAX_VOXELS)
    steps = None if postprocess is None else postprocess_from(postprocess)
    settings = InferenceOptions(
        overlap,
        mirror,
        max_memory=None if max_memory is None else bytes_of(max_memory),
        accumulators=accumulators,
        folds=folds,
        postprocess=steps,
        roi=roi,
        preset=preset,
        backend=backend,
        precision=precision,
        refine=None if refine is None else refine_from(refine),
    )
    if cluster is not None and (output is None or channels or series is not None):
        raise ConfigError(
            "--cluster is for many scans: it needs --output DIR, and goes without --channels and --series"
        )
    if output is not None and (many or cluster or (len(scans) > 1 and not channels)):
        return run_cohort(
            scans,
            output,
            as_json=as_json,
            quiet=quiet,
            model=model,
            device=device,
            also=also,
            options=options,
            settings=settings,
            force=force,
            **({} if cluster is None else {"executor": _on_cluster(cluster, quiet=quiet)}),
        )
    cases = [scans] if channels else [[scan] for scan in scans]
    manifests: list[dict[str, Any]] = []  # and not the label maps, which would fill the memory
    failures = []
    with progress_bars(quiet=quiet) as progress:
        for scan, found in infer_cases(
            cases,
            model=model,
            output=output,
            force=force,
            device=device,
            also=also,
            options=options,
            settings=settings,
            progress=progress,
            say=(lambda line: None) if quiet else note_line,
        ):
            if isinstance(found, InferResult):
                manifests.append(found.manifest)
            else:
                failures.append((scan, found))
                if len(cases) > 1:
                    error_line(str(found))
    if as_json:
        failed = [{"scan": str(scan), "error": str(error)} for scan, error in failures]
        print_json({"results": manifests, "failed": failed})
    if len(cases) == 1 and failures:
        raise failures[0][1]
    for manifest in () if as_json else manifests:
        if not quiet:
            title = printable(manifest["scan"]["path"]) if len(manifests) > 1 else ""
            print_table(title, *_volumes_and_dice(manifest))
            for warning in manifest["warnings"]:
                reviewed = without_long_lists(warning.removeprefix("review: "), manifest["volumes_ml"])
                note_line(f"{'to be reviewed' if warning.startswith('review: ') else 'warning'}: {reviewed}")
        print(printable(manifest["label_map"]["path"]))
        for files in manifest["outputs"].values():
            for path in files:
                print(printable(path))
    if not quiet:
        note_line("Not a medical device.")
    return 1 if failures else 0


def _volumes_and_dice(manifest: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of one scan; predicted Dice where the model folder has a calibration."""
    head, predicted = ["structure", "volume mL"], manifest.get("predicted_dice")
    rows = [[name, f"{ml:.2f}"] for name, ml in manifest["volumes_ml"].items()]
    if predicted is None:
        return head, rows
    for row in rows:
        one = predicted["structures"][row[0]]
        limits = "" if one["low"] is None else f"{one['low']:.2f} to {one['high']:.2f}"
        row += ["" if one["dice"] is None else f"{one['dice']:.2f}", limits or one["why"]]
    return [*head, "predicted Dice", f"{predicted['level']:.0%} interval"], rows


def _on_cluster(text: str, *, quiet: bool) -> Any:
    from medseg.cli.console import note_line
    from medseg.core.cluster_spec import cluster_spec
    from medseg.workflows.cluster import on_cluster

    return on_cluster(cluster_spec(text), say=(lambda line: None) if quiet else note_line)
