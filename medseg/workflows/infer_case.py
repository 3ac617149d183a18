"""One case of inference in three stages, so that several cases can overlap: read, segment, write."""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event
from typing import Any

from medseg.core.errors import ConfigError, DataError, MedsegError
from medseg.core.files import json_bytes, write_together
from medseg.core.labels import Labels
from medseg.core.memory import check_start
from medseg.core.progress import Progress
from medseg.core.provenance import provenance
from medseg.core.volume import LabelMap, Volume
from medseg.inference.predicted import PredictedDice
from medseg.inference.result import SegmenterResult, result_html
from medseg.inference.segmenter import Segmenter, open_for
from medseg.inference.settings import InferenceOptions, settings_of
from medseg.io.outputs import WRITERS, Segmentation, Writer, label_map_file, writers_of
from medseg.io.reading import hash_of
from medseg.io.recorded import Recorded
from medseg.io.scan import ReadOptions, Scan
from medseg.io.source import shown
from medseg.io.targets import Channels, manifest_path, place_of
from medseg.models.installed import find_model
from medseg.models.model_json import ModelCard, read_card
from medseg.report.result_preview import PREVIEW

Say = Callable[[str], None]
AS_THE_MODEL_WISHES = InferenceOptions()
_MEASURED = ("overlap", "mirror", "roi", "refine", "postprocess")  # what a preset was measured with
OUTPUTS: dict[str, Writer] = WRITERS | {"preview": PREVIEW}
"""What may stand beside the label map: the writers of ``io``, and the picture, which ``io`` cannot draw."""


@dataclass(frozen=True, eq=False)
class InferResult:
    """A written segmentation: its ``path``, the ``label_map`` on the scan's grid, volumes, warnings and the manifest.

    ``outputs`` are the files beside the label map, by the name of what was asked for; ``sha256`` has the hash of every file.
    """

    path: Path
    label_map: LabelMap
    labels: Labels
    volumes_ml: dict[str, float]
    warnings: tuple[str, ...]
    manifest: dict[str, Any]
    outputs: dict[str, tuple[Path, ...]] = field(default_factory=dict)
    sha256: dict[Path, str] = field(default_factory=dict)
    predicted_dice: dict[str, PredictedDice] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"InferResult({self.path}, {', '.join(f'{n} {v:.1f} mL' for n, v in self.volumes_ml.items())})"

    def _repr_html_(self) -> str:
        return result_html(str(self.path), self.labels, self.volumes_ml, self.warnings, self.predicted_dice)


@dataclass(frozen=True, eq=False)
class Opened:
    """A scan that was read, its sources with their hashes; ``stack`` holds the files that it was unpacked into."""

    channels: Channels
    scan: Scan
    sources: list[dict[str, str]]
    seconds: float
    stack: ExitStack

    @contextmanager
    def closed_by_failure(self) -> Iterator[None]:
        """For a block after which the scan is still needed: what it holds goes where the block fails."""
        try:
            yield
        except BaseException:
            self.stack.__exit__(*sys.exc_info())
            raise


@dataclass(frozen=True, eq=False)
class Job:
    """A model, how to read for it, and what to write beside the label map. Its network may still be ``loading``."""

    card: ModelCard
    loading: Future[Segmenter]
    writers: Mapping[str, Writer]
    options: ReadOptions
    left: Event = field(default_factory=Event)

    @classmethod
    def load(cls, folder: Path | None, **asked: Any) -> "Job":
        """See ``starting``; the network is loaded and verified. Raises ConfigError, ModelError and ResourceError."""
        job = cls.starting(folder, **asked)
        with job.last_word():
            job.loading.result()
        return job

    @classmethod
    def starting(
        cls,
        folder: Path | None,
        *,
        device: str,
        also: Sequence[str],
        options: ReadOptions,
        settings: InferenceOptions,
        say: Say,
        first: Callable[["Job"], None] = lambda job: None,
    ) -> "Job":
        """The model in ``folder``; PyTorch and the network start in a thread, so that a scan can be read meanwhile.

        ``first`` is given the job before they start, to refuse what needs neither. Raises ConfigError and ModelError for what
        model.json tells, ResourceError where ``max_memory`` does not suffice for PyTorch alone; what is wrong with the
        weights or the device is raised by whatever needs ``segmenter``.
        """
        writers, found = writers_of(also, OUTPUTS), find_model(folder)
        card = read_card(found)
        file, weights = str(found / "model.json"), tuple(card.weights)
        decided = settings_of(settings, card.inference, card.plan, weights=weights, file=file)
        if decided.roi and (maps := [kind for kind in ("probabilities", "entropy") if kind in writers]):
            raise ConfigError(
                f"roi: {maps[0]} cannot be saved, for nothing is computed outside the box; leave out --save-{maps[0]}, "
                "or take --no-roi"
            )

        job = cls(card, Future(), writers, replace(options, max_memory=settings.max_memory))
        check_start(str(found), settings.max_memory)
        first(job)

        def tell(line: str) -> None:
            if not job.left.is_set():
                say(line)

        def loaded() -> Segmenter:
            segmenter = Segmenter.load(found, device=device, say=tell, **vars(settings))
            tell(f"model: {segmenter.describe()}")
            if settings.preset is not None:
                preset, used = card.inference.presets[settings.preset], segmenter.settings
                other = [n for n in _MEASURED if getattr(settings, n) is not None and vars(used)[n] != vars(preset)[n]]
                alone = " with all folds" if used.folds else ""
                alone += f"; not measured with the {' and '.join(other)} that you ask for" if other else ""
                tell(preset.quoted(settings.preset) + alone)
            if segmenter.dice_predictor is not None and (remark := segmenter.dice_predictor.remark()):
                tell(remark)
            return segmenter

        thread = ThreadPoolExecutor(1)
        loading = thread.submit(loaded)
        thread.shutdown(wait=False)
        return replace(job, loading=loading)

    @contextmanager
    def last_word(self) -> Iterator[None]:
        """For a block that waits for what loads: where a signal or a bug ends it, what still loads says nothing any more."""
        try:
            yield
        except BaseException as error:
            if not isinstance(error, MedsegError):
                self.left.set()
            raise

    @property
    def segmenter(self) -> Segmenter:
        """The loaded model, for which this waits. Raises ModelError, ConfigError and ResourceError where it cannot be."""
        return self.loading.result()

    @property
    def labels(self) -> Labels:
        return self.card.detailed_labels

    def run(self, channels: Channels, target: Path, progress: Progress) -> InferResult:
        """Read, segment, write: label map, manifest and what else was asked for take their names together.

        What is wrong with the model is raised first, whatever is wrong with the scan.
        """
        with self.last_word():
            try:
                opened = self.read(channels)
            except MedsegError:
                self.loading.result()
                raise
            return self.write(opened, self.segment(opened, progress, target), target)

    def read(self, channels: Channels) -> Opened:
        """The scan, checked for the model and the writers, with its hash. Raises DataError and ResourceError."""
        if self.options.max_memory is not None:
            self.loading.result()  # what it holds counts, so nothing starts beside the reading
        clock, name = time.perf_counter(), shown(channels[0])
        with ExitStack() as stack, self._enough_memory(name):
            scan = stack.enter_context(open_for(self.card, channels, self.options))
            for writer in self.writers.values():
                try:
                    writer.check(scan)
                except DataError as error:
                    raise type(error)(f"{name}: {error}") from None
            sources = [{"path": str(path), "sha256": hash_of(path, self.options)} for path in channels]
            return Opened(channels, scan, sources, time.perf_counter() - clock, stack.pop_all())

    @contextmanager
    def _enough_memory(self, work: str) -> Iterator[None]:
        """As the segmenter's, for which a failure alone waits."""
        try:
            yield
        except (MemoryError, RuntimeError):
            with self.segmenter.enough_memory(work):
                raise

    def segment(self, opened: Opened, progress: Progress, target: Path) -> SegmenterResult:
        """The label map of the scan. Raises DataError, ModelError and ResourceError; ``opened`` is then closed.

        Probabilities that are to be written beside ``target`` wait on its disk until ``opened`` is closed.
        """
        name = shown(opened.channels[0])
        probabilities, entropy = (kind in self.writers for kind in ("probabilities", "entropy"))
        with opened.closed_by_failure(), self.segmenter.enough_memory(name):
            record = None
            refined = self.segmenter.settings.refine is not None  # by the probabilities
            if probabilities or entropy or refined:
                record = Recorded(target.parent, probabilities=probabilities or refined, entropy=entropy)
                opened.stack.enter_context(record)
            return self.segmenter.segment(opened.scan.volume, name, progress, record)

    def write(self, opened: Opened, found: SegmenterResult, target: Path) -> InferResult:
        """Write all files of the case, which take their names together, and close ``opened``."""
        clock, model, dice = time.perf_counter(), self.segmenter.model, self.segmenter.dice_predictor
        with opened.stack, self.segmenter.enough_memory(shown(opened.channels[0])):
            place = place_of(target)
            result = Segmentation(found.label_map, self.labels, opened.scan, place, model.card.name, found.recorded)
            content = label_map_file(target, result)
            kept = {"probabilities", "entropy"} & self.writers.keys()
            others = {name: dict(writer.contents(result)) for name, writer in self.writers.items()}
            seconds = {"read": opened.seconds} | found.seconds | {"write": time.perf_counter() - clock}
            remarks = (remark for writer in self.writers.values() for remark in writer.remarks(result))
            warnings = (*found.warnings, *remarks)
            manifest = {
                "scan": opened.sources[0],
                **({"channels": opened.sources} if len(opened.sources) > 1 else {}),
                "label_map": {
                    "path": str(target),
                    "sha256": hashlib.sha256(content).hexdigest(),
                    "labels": model.card.labels,
                },
                "outputs": {name: sorted(map(str, files)) for name, files in others.items()},
                **({"probabilities": found.recorded.described()} if found.recorded and kept else {}),
                "model": {
                    "folder": str(model.folder),
                    "name": model.card.name,
                    "sha256": model.sha256,
                    "weights": model.card.weights,
                },
                "volumes_ml": {name: round(value, 6) for name, value in found.volumes_ml.items()},
                **({"predicted_dice": dice.described(found.predicted_dice)} if dice else {}),
                "geometry": _described(opened.scan.volume),
                "windows": found.windows,
                **({} if found.refined is None else {"refined_voxels": found.refined}),
                **({"roi": found.roi.as_json()} if found.roi else {}),
                "postprocess": {name: change.as_json() for name, change in found.postprocessed.items()},
                "settings": self.segmenter.settings.as_json() | {"accumulators": found.accumulators},
                "device": str(self.segmenter.device),
                "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
                "warnings": list(warnings),
                "review": bool(found.review),
                "review_reasons": list(found.review),
                "provenance": provenance(),
            }
            beside = {path: data for files in others.values() for path, data in files.items()}
            digests = write_together({target: content, manifest_path(target): json_bytes(manifest), **beside})
        outputs = {name: tuple(files) for name, files in others.items()}
        return InferResult(
            target,
            found.label_map,
            self.labels,
            found.volumes_ml,
            warnings,
            manifest,
            outputs,
            digests,
            found.predicted_dice,
        )


def _described(volume: Volume) -> dict[str, Any]:
    return {
        "shape": list(volume.geometry.shape),
        "spacing_mm": list(volume.geometry.spacing_mm),
        "orientation": volume.geometry.orientation,
        "affine": volume.geometry.affine.tolist(),
    }
