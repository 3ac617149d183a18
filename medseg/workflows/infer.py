"""Infer: scan -> read -> preprocess -> windows -> blend -> restore on the scan's grid -> write -> manifest."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from medseg.core.errors import MedsegError
from medseg.core.progress import Progress, silent
from medseg.inference.settings import InferenceOptions
from medseg.io.outputs import check_apart, check_free
from medseg.io.reading import check_room_by_headers
from medseg.io.scan import DEFAULTS, MAX_VOXELS, ReadOptions
from medseg.io.targets import Channels, place_of, targets_of
from medseg.workflows.infer_case import AS_THE_MODEL_WISHES, InferResult, Job, Say

__all__ = ["InferResult", "infer", "infer_cases"]


def infer(
    scan: Path | str | Sequence[Path | str],
    *,
    model: Path | str | None = None,
    output: Path | str | None = None,
    also: Sequence[str] = (),
    series: str | None = None,
    on_gap: Literal["refuse", "resample"] = "refuse",
    max_voxels: int = MAX_VOXELS,
    force: bool = False,
    device: str = "auto",
    settings: InferenceOptions = AS_THE_MODEL_WISHES,
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> InferResult:
    """Segment one scan and write ``<case>_seg.nii.gz`` (``.png`` of a 2D picture) and ``<case>_seg.json``.

    ``scan``: a file, a DICOM folder, or a list of them: the channels of one case. ``model``: a model folder, or the
    name of an installed one; default the newest under ``./runs``. ``output``: a file if it ends in ``.nii`` or ``.nii.gz``
    (of a picture: ``.png``), else a folder; default beside the scan. ``also``: names of
    ``infer_case.OUTPUTS``, such as ``dicom-seg`` or ``preview``, written beside the label map. ``series``, ``on_gap``,
    ``max_voxels``: see ``io.scan.ReadOptions``. ``settings``: overlap, mirroring, memory.

    Raises DataError for the scan, ModelError for the model, OutputError where the output exists (unless ``force``) or is
    read-only, ResourceError for device, memory or disk.

    >>> import medseg
    >>> result = medseg.infer("scan.nii.gz", model="runs/liver/model")  # doctest: +SKIP
    """
    channels = [Path(scan)] if isinstance(scan, Path | str) else [Path(path) for path in scan]
    (target,) = targets_of([channels], None if output is None else Path(output), force=force)
    options = ReadOptions(series, on_gap, max_voxels)
    folder = None if model is None else Path(model)
    first = _refusals([channels], [target], force=force)
    job = Job.starting(folder, device=device, also=also, options=options, settings=settings, say=say, first=first)
    return job.run(channels, target, progress)


def infer_cases(
    cases: Sequence[Channels],
    *,
    model: Path | None,
    output: Path | None,
    force: bool,
    device: str,
    also: Sequence[str] = (),
    options: ReadOptions = DEFAULTS,
    settings: InferenceOptions = AS_THE_MODEL_WISHES,
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> Iterator[tuple[Path, InferResult | MedsegError]]:
    """Segment ``cases`` one after the other with one loaded model: each one's first file, and its result or its error.

    Everything that concerns all of them (device, model, outputs that clash, exist or cannot be written) is raised first.
    """
    targets = targets_of(cases, output, force=force)
    first = _refusals(cases, targets, force=force)
    job = Job.starting(model, device=device, also=also, options=options, settings=settings, say=say, first=first)
    for channels, target in zip(cases, targets, strict=True):
        try:
            yield channels[0], job.run(channels, target, progress)
        except MedsegError as error:
            yield channels[0], error


def _refusals(cases: Sequence[Channels], targets: Sequence[Path], *, force: bool) -> Callable[[Job], None]:
    """What refuses a job before PyTorch starts: outputs that clash or exist, and a lone scan that its memory cannot hold."""

    def refuse(job: Job) -> None:
        check_apart(job.writers, [place_of(target) for target in targets], job.labels)
        for target in targets:
            check_free(job.writers, place_of(target), job.labels, force=force)
        if len(cases) == 1:
            check_room_by_headers(cases[0], job.options)

    return refuse
