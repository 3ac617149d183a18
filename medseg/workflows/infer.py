"""Infer: scan -> read -> preprocess -> windows -> blend -> restore on the scan's grid -> write -> manifest."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from medseg.core.case import case_id, has_image_suffix
from medseg.core.errors import ConfigError, DataError, MedsegError, OutputError
from medseg.core.files import check_writable, sha256_of, write_json
from medseg.core.progress import Progress, silent
from medseg.core.provenance import provenance
from medseg.core.volume import LabelMap, Volume
from medseg.io.nifti import write_label_map
from medseg.io.reading import read_volume

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
    device: str

    @classmethod
    def load(cls, folder: Path | None, device: str, say: Say) -> "_Loaded":
        from medseg.inference.backends.torch_backend import torch_predict
        from medseg.models.bundle import load_model, newest_model
        from medseg.training.device import choose_device

        chosen = choose_device(device)
        found = newest_model(Path("runs")) if folder is None else folder
        model = load_model(found)
        say(
            f"model: {found} ({model.card.name}, {model.plan.modality}, {', '.join(model.labels.names)}); device: {chosen}"
        )
        return cls(model, torch_predict(model.networks, chosen), str(chosen))

    def run(self, scan: Path, target: Path, progress: Progress) -> InferResult:
        """Read, segment, write; the label map first and the manifest after it."""
        from medseg.inference.segment import segment

        clock = time.perf_counter()
        volume = read_volume(scan, channels=self.model.plan.channels)
        seconds = {"read": time.perf_counter() - clock}
        try:
            found = segment(volume, self.model.plan, self.predict, progress=progress)
        except DataError as error:
            raise DataError(f"{scan}: {error}") from None
        warnings = (*volume.warnings, *_oddities(volume, found.label_map))
        clock = time.perf_counter()
        digest = write_label_map(target, found.label_map)
        seconds |= found.seconds | {"write": time.perf_counter() - clock}
        volumes = found.label_map.volumes_ml()
        manifest = {
            "scan": {"path": str(scan), "sha256": sha256_of(scan)},
            "label_map": {"path": str(target), "sha256": digest, "labels": self.model.card.labels},
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
            "device": self.device,
            "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
            "warnings": list(warnings),
            "provenance": provenance(),
        }
        write_json(manifest_path(target), manifest)
        return InferResult(target, found.label_map, volumes, warnings, manifest)


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
        targets = [
            (output if output is not None else scan.absolute().parent) / f"{case_id(scan)}_seg.nii.gz" for scan in scans
        ]
    taken: dict[Path, Path] = {}
    for scan, target in zip(scans, targets, strict=True):
        if target in taken:
            raise ConfigError(
                f"{taken[target]} and {scan} would both be written to {target}; run them with different --output"
            )
        taken[target] = scan
        if target.absolute() == scan.absolute():
            raise OutputError(f"{target}: the output would replace the scan itself; choose another --output")
        for path in (target, manifest_path(target)):
            if path.exists() and not force:
                raise OutputError(f"{path}: exists already; overwrite it with --force, or choose another --output")
        if target.is_dir():
            raise OutputError(f"{target}: is a folder; choose another --output")
        if scan.exists():
            check_writable(target.parent)
    return targets


def _oddities(volume: Volume, label_map: LabelMap) -> list[str]:
    """Results that a reader should look at: nothing found, a structure cut off by the border of the scan."""
    labels = label_map.labels
    assert labels is not None
    present = set(np.unique(label_map.data).tolist())
    found = []
    if present <= {0}:
        found.append("no structure was found in this scan")
    faces = [np.unique(np.take(label_map.data, end, axis)) for axis in range(3) for end in (0, -1)]
    touching = set(np.concatenate(faces).tolist()) - {0}
    names = [s.name for s in labels.structures if s.value in touching]
    if names:
        found.append(f"{', '.join(names)} touch the border of the scan: the volume may be truncated")
    return found
