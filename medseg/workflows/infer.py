"""Infer: scan -> read -> preprocess -> windows -> blend -> restore on the scan's grid -> write -> manifest."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.case import case_id, has_image_suffix
from medseg.core.component import build
from medseg.core.errors import ConfigError, DataError, MedsegError, ModelError, OutputError
from medseg.core.files import check_writable, is_there, json_bytes, sha256_of, write_together
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.provenance import provenance
from medseg.core.volume import LabelMap, Volume
from medseg.data.intensity import INTENSITIES
from medseg.io.nifti import label_map_bytes
from medseg.io.reading import read_volume
from medseg.io.source import shown

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class InferResult:
    """A written segmentation: its ``path``, the ``label_map`` on the scan's grid, volumes, warnings and the manifest."""

    path: Path
    label_map: LabelMap
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    manifest: dict[str, Any]

    def __repr__(self) -> str:
        return f"InferResult({self.path}, {', '.join(f'{n} {v:.1f} mL' for n, v in self.volumes_ml.items())})"

    def _repr_html_(self) -> str:
        labels = self.label_map.labels
        assert labels is not None
        rows = "".join(
            f"<tr><td><span style='color:{s.colour}'>&#9632;</span> {escape(s.name)}</td>"
            f"<td style='text-align:right'>{self.volumes_ml[s.name]:.2f}</td></tr>"
            for s in labels.structures
        )
        notes = "".join(f"<p>warning: {escape(warning)}</p>" for warning in self.warnings)
        return (
            f"<p>{escape(str(self.path))}</p><table><tr><th>structure</th><th>volume mL</th></tr>{rows}</table>{notes}"
        )


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one scan: a result or an error."""

    scan: Path
    result: InferResult | None = None
    error: MedsegError | None = None


def infer(
    scan: Path | str,
    *,
    model: Path | str | None = None,
    output: Path | str | None = None,
    force: bool = False,
    device: str = "auto",
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> InferResult:
    """Segment one scan (a file or a DICOM folder) and write ``<case>_seg.nii.gz`` and ``<case>_seg.json``.

    ``model``: a model folder; default the newest under ``./runs``. ``output``: a file if it ends in ``.nii`` or
    ``.nii.gz``, else a folder; default beside the scan. Raises DataError for the scan, ModelError for the model,
    OutputError where the output exists (unless ``force``) or is read-only, ResourceError for device, memory or disk.

    >>> import medseg
    >>> result = medseg.infer("scan.nii.gz", model="runs/liver/model")  # doctest: +SKIP
    """
    scans = [Path(scan)]
    outcomes = infer_scans(
        scans,
        model=None if model is None else Path(model),
        output=None if output is None else Path(output),
        force=force,
        device=device,
        progress=progress,
        say=say,
    )
    only = next(iter(outcomes))
    if only.error is not None:
        raise only.error
    assert only.result is not None
    return only.result


def infer_scans(
    scans: Sequence[Path],
    *,
    model: Path | None,
    output: Path | None,
    force: bool,
    device: str,
    progress: Progress = silent,
    say: Say = lambda line: None,
) -> Iterator[Outcome]:
    """Segment ``scans`` one after the other with one loaded model; a bad scan is an Outcome with its error.

    Everything that concerns all of them (device, model, outputs that clash, exist or cannot be written) is raised first.
    """
    targets = _targets(scans, output, force=force)
    segmenter = _Loaded.load(model, device, say)
    for scan, target in zip(scans, targets, strict=True):
        try:
            yield Outcome(scan, result=segmenter.run(scan, target, progress))
        except MedsegError as error:
            yield Outcome(scan, error=error)


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A verified model on its device."""

    model: Any
    predict: Callable[[Any], Any]
    device: Any

    @classmethod
    def load(cls, folder: Path | None, device: str, say: Say) -> "_Loaded":
        from medseg.inference.backends.torch_backend import torch_predict
        from medseg.models.bundle import load_model, newest_model
        from medseg.training.device import choose_device

        chosen = choose_device(device)
        found = newest_model(Path("runs")) if folder is None else folder
        model = load_model(found)
        _check_intensities(model)
        say(
            f"model: {found} ({model.card.name}, {model.plan.modality}, {', '.join(model.labels.names)}); device: {chosen}"
        )
        return cls(model, torch_predict(model.networks, chosen), chosen)

    def run(self, scan: Path, target: Path, progress: Progress) -> InferResult:
        """Read, segment, write: label map and manifest take their names together."""
        from medseg.training.device import enough_memory

        advice = "crop the scan, close other programs, or use a device with more memory"
        with enough_memory(self.device, work=shown(scan), advice=advice):
            clock = time.perf_counter()
            volume = read_volume(scan)
            source = {"path": str(scan), "sha256": _hash(scan)}
            reading = time.perf_counter() - clock
            found = self._segmented(scan, volume, progress)
            volumes = found.label_map.volumes_ml()
            warnings = (
                *volume.warnings,
                *_other_modality(volume, self.model.plan),
                *_oddities(found.label_map, volumes),
            )
            clock = time.perf_counter()
            content = label_map_bytes(target, found.label_map)
            seconds = {"read": reading} | found.seconds | {"write": time.perf_counter() - clock}
            manifest = {
                "scan": source,
                "label_map": {
                    "path": str(target),
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "labels": self.model.card.labels,
                },
                "model": {
                    "folder": str(self.model.folder),
                    "name": self.model.card.name,
                    "sha256": self.model.sha256,
                    "weights": self.model.card.weights,
                },
                "volumes_ml": {name: round(value, 6) for name, value in volumes.items()},
                "geometry": {
                    "shape": list(volume.geometry.shape),
                    "spacing_mm": list(volume.geometry.spacing_mm),
                    "orientation": volume.geometry.orientation,
                    "affine": volume.geometry.affine.tolist(),
                },
                "windows": found.windows,
                "device": str(self.device),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "warnings": list(warnings),
                "provenance": provenance(),
            }
            write_together({target: content, manifest_path(target): json_bytes(manifest)})
        return InferResult(target, found.label_map, volumes, warnings, manifest)

    def _segmented(self, scan: Path, volume: Volume, progress: Progress) -> Any:
        from medseg.inference.segment import segment

        try:
            return segment(volume, self.model.plan, self.predict, progress=progress)
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


def manifest_path(label_map: Path) -> Path:
    """``<case>_seg.json`` beside ``<case>_seg.nii.gz``."""
    name = label_map.name
    for suffix in (".nii.gz", ".nii"):
        if name.lower().endswith(suffix):
            return label_map.with_name(name[: -len(suffix)] + ".json")
    return label_map.with_name(name + ".json")


def _targets(scans: Sequence[Path], output: Path | None, *, force: bool) -> list[Path]:
    """Where each label map goes. Raises before any work what would go wrong after it."""
    if output is not None and has_image_suffix(output.name):
        if len(scans) > 1:
            raise ConfigError(f"--output {output} is one file, but {len(scans)} scans are given; give a folder")
        if not output.name.lower().endswith((".nii", ".nii.gz")):
            raise ConfigError(f"--output {output}: label maps are written as .nii.gz or .nii")
        targets = [output]
    else:
        targets = [(output or _named(scan).parent) / f"{case_id(_named(scan))}_seg.nii.gz" for scan in scans]
    taken: dict[str, Path] = {}
    sources = {os.path.realpath(scan) for scan in scans}
    for scan, target in zip(scans, targets, strict=True):
        place = os.path.realpath(target)
        if place in taken:
            raise ConfigError(
                f"{taken[place]} and {scan} would both be written to {target}; run them with different --output"
            )
        taken[place] = scan
        if place in sources:
            raise OutputError(f"{target}: the output would replace the scan itself; choose another --output")
        if not os.access(scan, os.F_OK):
            continue  # that it is not there is the more useful error, and comes when it is read
        for path in (target, manifest_path(target)):
            if is_there(path) and not force:
                raise OutputError(f"{path}: exists already; overwrite it with --force, or choose another --output")
            if path.is_dir():
                raise OutputError(f"{path}: is a folder; choose another --output")
        check_writable(target.parent)
    return targets


def _named(scan: Path) -> Path:
    """``scan`` as an absolute path that ends in a name, also where it was given as ``.`` or ``..``."""
    return Path(os.path.realpath(scan)) if scan.name in ("", "..") else scan.absolute()


def _other_modality(volume: Volume, plan: Plan) -> list[str]:
    """A CT model on an MR scan, or the reverse, where the scan says what it is: the figures then mean little."""
    if {volume.modality, plan.modality} == {"CT", "MR"}:
        return [f"the scan is {volume.modality}, but the model was trained on {plan.modality}: do not trust the result"]
    return []


def _oddities(label_map: LabelMap, volumes_ml: Mapping[str, float]) -> list[str]:
    """Results that a reader should look at: nothing found, a structure cut off by the border of the scan."""
    labels = label_map.labels
    assert labels is not None
    found = []
    if not any(volumes_ml.values()):
        found.append("no structure was found in this scan")
    faces = [np.unique(np.take(label_map.data, end, axis)) for axis in range(3) for end in (0, -1)]
    touching = set(np.concatenate(faces).tolist()) - {0}
    names = [s.name for s in labels.structures if s.value in touching]
    if names:
        found.append(f"{', '.join(names)} touch the border of the scan: the volume may be truncated")
    return found
