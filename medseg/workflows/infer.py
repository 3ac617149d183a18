"""Infer: scan -> read -> preprocess -> windows -> blend -> restore on the scan's grid -> write -> manifest."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medseg.core.border import touched_sides
from medseg.core.case import check_channel_order
from medseg.core.component import build
from medseg.core.errors import DataError, MedsegError, ModelError
from medseg.core.files import json_bytes, sha256_of, write_together
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.provenance import provenance
from medseg.core.volume import LabelMap, Volume
from medseg.data.intensity import INTENSITIES
from medseg.inference.settings import InferenceOptions, InferenceSettings, settings_for
from medseg.io.outputs import Segmentation, Writer, check_apart, check_free, label_map_file, writers_of
from medseg.io.reading import open_scan
from medseg.io.scan import DEFAULTS, MAX_VOXELS, ReadOptions, Scan
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
        rows = "".join(
            f"<tr><td><span style='color:{s.colour}'>&#9632;</span> {escape(s.name)}</td>"
            f"<td style='text-align:right'>{self.volumes_ml[s.name]:.2f}</td></tr>"
            for s in self.labels.structures
        )
        notes = "".join(f"<p>warning: {escape(warning)}</p>" for warning in self.warnings)
        return (
            f"<p>{escape(str(self.path))}</p><table><tr><th>structure</th><th>volume mL</th></tr>{rows}</table>{notes}"
        )


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

    ``scan``: a file, a DICOM folder, or a list of them: the channels of one case. ``model``: a model folder; default the
    newest under ``./runs``. ``output``: a file if it ends in ``.nii`` or ``.nii.gz`` (of a picture: ``.png``), else a
    folder; default beside the scan. ``also``: names of ``io.outputs.WRITERS``, such as ``dicom-seg``, written beside the
    label map. ``series``, ``on_gap``, ``max_voxels``: see ``io.scan.ReadOptions``. ``settings``: overlap, mirroring, memory.

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
    """A verified model on its device, how to read, and what to write beside the label map."""

    model: Any
    predict: Callable[[Any], Any]
    device: Any
    writers: Mapping[str, Writer]
    options: ReadOptions
    settings: InferenceSettings

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
        from medseg.inference.backends.torch_backend import torch_predict
        from medseg.inference.device import choose_device
        from medseg.models.bundle import load_model, newest_model

        writers = writers_of(also)
        chosen = choose_device(device)
        found = newest_model(Path("runs")) if folder is None else folder
        model = load_model(found)
        _check_intensities(model)
        settings = settings_for(asked, model.card.inference, model.plan)
        inputs = f", channels {', '.join(model.plan.channel_names)}" if model.plan.channels > 1 else ""
        structures = ", ".join(model.labels.names)
        say(f"model: {found} ({model.card.name}, {model.plan.modality}{inputs}, {structures}); device: {chosen}")
        options = replace(options, channel_grids=model.plan.channel_grids)
        return cls(model, torch_predict(model.networks, chosen), chosen, writers, options, settings)

    @property
    def labels(self) -> Labels:
        labels: Labels = self.model.labels
        return labels

    def run(self, channels: Channels, target: Path, progress: Progress) -> InferResult:
        """Read, segment, write: label map, manifest and what else was asked for take their names together."""
        from medseg.inference.device import enough_memory

        advice = "crop the scan, close other programs, or use a device with more memory"
        clock = time.perf_counter()
        check_channel_order(channels, self.model.plan.channel_names)
        with (
            enough_memory(self.device, work=shown(channels[0]), advice=advice),
            open_scan(channels, channels=self.model.plan.channels, options=self.options) as scan,
        ):
            self._check_fits(channels[0], scan)
            sources = [{"path": str(path), "sha256": _hash(path)} for path in channels]
            reading = time.perf_counter() - clock
            found = self._segmented(channels[0], scan.volume, progress)
            clock = time.perf_counter()
            label_map = replace(found.label_map, labels=self.labels)
            result = Segmentation(label_map, self.labels, scan, place_of(target), self.model.card.name)
            content = label_map_file(target, result)
            others = {name: dict(writer.contents(result)) for name, writer in self.writers.items()}
            seconds = {"read": reading} | found.seconds | {"write": time.perf_counter() - clock}
            volumes = label_map.volumes_ml()
            warnings = (
                *scan.volume.warnings,
                *_other_modality(scan.volume, self.model.plan),
                *_oddities(label_map, self.labels),
                *(remark for writer in self.writers.values() for remark in writer.remarks(result)),
            )
            manifest = {
                "scan": sources[0],
                **({"channels": sources} if len(sources) > 1 else {}),
                "label_map": {
                    "path": str(target),
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "labels": self.model.card.labels,
                },
                "outputs": {name: sorted(map(str, files)) for name, files in others.items()},
                "model": {
                    "folder": str(self.model.folder),
                    "name": self.model.card.name,
                    "sha256": self.model.sha256,
                    "weights": self.model.card.weights,
                },
                "volumes_ml": {name: round(value, 6) for name, value in volumes.items()},
                "geometry": _described(scan.volume),
                "windows": found.windows,
                "settings": self.settings.as_json(),
                "device": str(self.device),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "warnings": list(warnings),
                "provenance": provenance(),
            }
            beside = {path: data for files in others.values() for path, data in files.items()}
            write_together({target: content, manifest_path(target): json_bytes(manifest), **beside})
        outputs = {name: tuple(files) for name, files in others.items()}
        return InferResult(target, label_map, self.labels, volumes, warnings, manifest, outputs)

    def _check_fits(self, path: Path, scan: Scan) -> None:
        """Raise DataError for a 2D picture where the model's network is 3D, and for a scan that an output cannot hold."""
        for writer in self.writers.values():
            try:
                writer.check(scan)
            except DataError as error:
                raise type(error)(f"{shown(path)}: {error}") from None
        if scan.flat and self.model.plan.dimensions == 3:
            raise DataError(f"{shown(path)}: a 2D picture, but the model {self.model.card.name} is 3D; give a 3D scan")

    def _segmented(self, scan: Path, volume: Volume, progress: Progress) -> Any:
        from medseg.inference.segment import segment

        try:
            return segment(volume, self.model.plan, self.predict, settings=self.settings, progress=progress)
        except DataError as error:
            raise DataError(f"{shown(scan)}: {error}") from None
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            raise ModelError(
                f"{self.model.folder}: the network failed on patches of the plan's patch_size {self.model.plan.patch_size}; "
                f"is model.json changed? {error}"
            ) from error


def _check_intensities(model: Any) -> None:
    """Raise ModelError where the plan's way to normalise intensities is not one that medseg has."""
    for intensity in model.plan.intensity:
        try:
            build("intensity", INTENSITIES, intensity.scheme)(np.zeros((1, 1, 1), np.float32))
        except Exception as error:  # options of any kind, from a file
            raise ModelError(f"{model.folder}: the plan's intensity cannot be used: {error}") from None


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


def _other_modality(volume: Volume, plan: Plan) -> list[str]:
    """A CT model on an MR scan, or the reverse, where the scan says what it is: the figures then mean little."""
    if {volume.modality, plan.modality} == {"CT", "MR"}:
        return [f"the scan is {volume.modality}, but the model was trained on {plan.modality}: do not trust the result"]
    return []


def _oddities(label_map: LabelMap, labels: Labels) -> list[str]:
    """Results that a reader should look at: nothing found, a structure cut off by the border of the scan."""
    found = []
    if not label_map.data.any():
        found.append("no structure was found in this scan")
    touched = touched_sides(label_map)
    names = [s.name for s in labels.structures if s.value in touched]
    if names:
        found.append(f"{', '.join(names)} touch the border of the scan: the volume may be truncated")
    return found
