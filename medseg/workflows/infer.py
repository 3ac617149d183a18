"""Infer: scan -> read -> preprocess -> windows -> blend -> restore on the scan's grid -> write -> manifest."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medseg.core.errors import DataError, MedsegError
from medseg.core.files import json_bytes, sha256_of, write_together
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.provenance import provenance
from medseg.core.volume import LabelMap, Volume
from medseg.inference.result import result_html
from medseg.inference.segmenter import Segmenter
from medseg.inference.settings import InferenceOptions
from medseg.io.outputs import Segmentation, Writer, check_apart, check_free, label_map_file, writers_of
from medseg.io.scan import DEFAULTS, MAX_VOXELS, ReadOptions
from medseg.io.source import shown
from medseg.io.targets import Channels, manifest_path, place_of, targets_of

Say = Callable[[str], None]
AS_THE_MODEL_WISHES = InferenceOptions()


@dataclass(frozen=True, eq=False)
class InferResult:
    """A written segmentation: its ``path``, the ``label_map`` on the scan's grid, volumes, warnings and the manifest.

    ``outputs`` are the files beside the label map, by the name of what was asked for.
    """

    path: Path
    label_map: LabelMap
    labels: Labels
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    manifest: dict[str, Any]
    outputs: dict[str, tuple[Path, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"InferResult({self.path}, {', '.join(f'{n} {v:.1f} mL' for n, v in self.volumes_ml.items())})"

    def _repr_html_(self) -> str:
        return result_html(str(self.path), self.labels, self.volumes_ml, self.warnings)


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
    ``io.outputs.WRITERS``, such as ``dicom-seg``, written beside the label map. ``series``, ``on_gap``,
    ``max_voxels``: see ``io.scan.ReadOptions``. ``settings``: overlap, mirroring, memory.

    Raises DataError for the scan, ModelError for the model, OutputError where the output exists (unless ``force``) or is
    read-only, ResourceError for device, memory or disk.

    >>> import medseg
    >>> result = medseg.infer("scan.nii.gz", model="runs/liver/model")  # doctest: +SKIP
    """
    channels = [Path(scan)] if isinstance(scan, Path | str) else [Path(path) for path in scan]
    (target,) = targets_of([channels], None if output is None else Path(output), force=force)
    options = ReadOptions(series, on_gap, max_voxels)
    job = _Job.load(None if model is None else Path(model), device, say, also, options, settings)
    check_free(job.writers, place_of(target), job.labels, force=force)
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
    job = _Job.load(model, device, say, also, options, settings)
    check_apart(job.writers, [place_of(target) for target in targets], job.labels)
    for target in targets:
        check_free(job.writers, place_of(target), job.labels, force=force)
    for channels, target in zip(cases, targets, strict=True):
        try:
            yield channels[0], job.run(channels, target, progress)
        except MedsegError as error:
            yield channels[0], error


@dataclass(frozen=True, eq=False)
class _Job:
    """A model on its device, how to read, and what to write beside the label map."""

    segmenter: Segmenter
    writers: Mapping[str, Writer]
    options: ReadOptions

    @classmethod
    def load(
        cls,
        folder: Path | None,
        device: str,
        say: Say,
        also: Sequence[str],
        options: ReadOptions,
        asked: InferenceOptions,
    ) -> "_Job":
        writers = writers_of(also)
        segmenter = Segmenter.load(folder, device=device, **vars(asked))
        say(f"model: {segmenter.describe()}")
        return cls(segmenter, writers, options)

    @property
    def labels(self) -> Labels:
        return self.segmenter.labels

    def run(self, channels: Channels, target: Path, progress: Progress) -> InferResult:
        """Read, segment, write: label map, manifest and what else was asked for take their names together."""
        clock = time.perf_counter()
        name, model = shown(channels[0]), self.segmenter.model
        with self.segmenter.enough_memory(name), self.segmenter.open(channels, self.options) as scan:
            for writer in self.writers.values():
                try:
                    writer.check(scan)
                except DataError as error:
                    raise type(error)(f"{name}: {error}") from None
            sources = [{"path": str(path), "sha256": _hash(path)} for path in channels]
            reading = time.perf_counter() - clock
            found = self.segmenter.segment(scan.volume, name, progress)
            clock = time.perf_counter()
            result = Segmentation(found.label_map, self.labels, scan, place_of(target), model.card.name)
            content = label_map_file(target, result)
            others = {name: dict(writer.contents(result)) for name, writer in self.writers.items()}
            seconds = {"read": reading} | found.seconds | {"write": time.perf_counter() - clock}
            remarks = (remark for writer in self.writers.values() for remark in writer.remarks(result))
            warnings = (*found.warnings, *remarks)
            manifest = {
                "scan": sources[0],
                **({"channels": sources} if len(sources) > 1 else {}),
                "label_map": {
                    "path": str(target),
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "labels": model.card.labels,
                },
                "outputs": {name: sorted(map(str, files)) for name, files in others.items()},
                "model": {
                    "folder": str(model.folder),
                    "name": model.card.name,
                    "sha256": model.sha256,
                    "weights": model.card.weights,
                },
                "volumes_ml": {name: round(value, 6) for name, value in found.volumes_ml.items()},
                "geometry": _described(scan.volume),
                "windows": found.windows,
                "settings": self.segmenter.settings.as_json(),
                "device": str(self.segmenter.device),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "warnings": list(warnings),
                "provenance": provenance(),
            }
            beside = {path: data for files in others.values() for path, data in files.items()}
            write_together({target: content, manifest_path(target): json_bytes(manifest), **beside})
        outputs = {name: tuple(files) for name, files in others.items()}
        return InferResult(target, found.label_map, self.labels, found.volumes_ml, warnings, manifest, outputs)


def _hash(scan: Path) -> str:
    try:
        return sha256_of(scan)
    except OSError as error:
        raise DataError(f"{shown(scan)}: could not be read ({error.strerror or error})") from error


def _described(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.geometry.shape),
        "spacing_mm": list(volume.geometry.spacing_mm),
        "orientation": volume.geometry.orientation,
        "affine": volume.geometry.affine.tolist(),
    }
