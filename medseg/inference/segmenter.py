"""Segmenter: a loaded model that segments scan after scan, for notebooks, services and the workflows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields, replace
from html import escape
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from medseg.core.case import check_channel_order
from medseg.core.component import build
from medseg.core.errors import ConfigError, DataError, ModelError
from medseg.core.labels import Labels
from medseg.core.plan import Plan
from medseg.core.progress import Progress, silent
from medseg.core.volume import Volume
from medseg.inference.predicted import DicePredictor, poor, predictor_for
from medseg.inference.result import SegmenterResult, as_nibabel, coloured
from medseg.inference.review import always_there, oddities, other_modality, reasons
from medseg.inference.settings import InferenceOptions, InferenceSettings, settings_for
from medseg.io.given import check_beside, given_paths, given_scan
from medseg.io.reading import open_scan
from medseg.io.recorded import Recorded
from medseg.io.scan import MAX_VOXELS, ReadOptions, Scan
from medseg.io.source import shown

if TYPE_CHECKING:
    import torch

    from medseg.inference.ensemble import Outputs
    from medseg.inference.roi import Scout
    from medseg.inference.stream import Predict
    from medseg.models.bundle import Model
    from medseg.models.head import Head
    from medseg.models.model_json import ModelCard

MOST_NAMES = 8  # of structures, on a line
_ADVICE = "crop the scan, close other programs, or use a device with more memory"


@dataclass(frozen=True, eq=False)
class Segmenter:
    """A verified model, warm on its device. Any number of threads may call one object at once.

    Threads read, preprocess and restore side by side; on each device one forward pass runs at a time, because it keeps all
    cores or the whole GPU busy by itself. So the results are those of serial calls, to the bit.

    >>> import medseg
    >>> segmenter = medseg.Segmenter.load("runs/liver/model")  # doctest: +SKIP
    >>> segmenter("scan.nii.gz").volumes_ml  # doctest: +SKIP
    {'liver': 1432.8}
    """

    model: "Model"
    device: "torch.device"
    predict: "Predict"
    settings: InferenceSettings
    outputs: "Outputs" = "logits"
    say: Callable[[str], None] = lambda line: None
    dice_predictor: DicePredictor | None = None
    scout: "Scout | None" = None
    head: "Head | None" = None

    @classmethod
    def load(
        cls,
        model: Path | str | None = None,
        *,
        device: str = "auto",
        say: Callable[[str], None] = lambda line: None,
        **options: Any,
    ) -> "Segmenter":
        """Load and verify ``model``, a folder or an installed name, default the newest under ``./runs``, onto ``device``.

        ``options``: those of ``InferenceOptions``, such as ``overlap`` or ``max_memory``; the model folder's own wishes else.
        ``say`` is told what takes time, what was chosen instead of something else, and what a scan needs of ``max_memory``.

        Raises ModelError for the model, ConfigError for an option, ResourceError for a device that is not there.
        """
        from medseg.inference.backends import start
        from medseg.inference.device import choose_device, in_turn
        from medseg.inference.ensemble import ensembled, outputs_of
        from medseg.inference.features import blends_features
        from medseg.inference.roi import Scout
        from medseg.models.bundle import open_model
        from medseg.models.installed import find_model

        known = [field.name for field in fields(InferenceOptions)]
        if unknown := sorted(set(options) - set(known)):
            raise ConfigError(f"option {unknown[0]!r} is unknown; choose from {', '.join(known)}")
        if not isinstance(model, Path | str | None):
            raise ConfigError(f"model {model!r}: give a model folder, or the name of an installed model")
        asked = InferenceOptions(**options)
        chosen = choose_device(device)
        loaded = open_model(find_model(None if model is None else Path(model)))
        check_intensities(loaded)
        settings = settings_for(asked, loaded.card.inference, loaded.plan, weights=tuple(loaded.card.weights))
        loaded = loaded.of_folds(settings.folds)
        loaded = replace(loaded, headless=blends_features(loaded, settings))
        running = start(loaded, chosen, backend=settings.backend, precision=settings.precision, say=say)
        settings = replace(settings, backend=running.backend, precision=running.precision)
        outputs = outputs_of(len(running.predicts), settings.ensemble)
        predict = ensembled(running.predicts, outputs, regions=bool(loaded.labels.regions))
        dice = predictor_for(loaded.card.inference.predicted_dice, settings, len(running.predicts))
        if settings.roi and dice is not None:
            say("predicted Dice needs the whole scan's probabilities: with roi there is none")
            dice = None
        scout = Scout(in_turn(running.predicts[0], chosen), len(running.predicts))
        head = loaded.head(0) if loaded.headless else None
        return cls(loaded, chosen, in_turn(predict, chosen), settings, outputs, say, dice, scout, head)

    @property
    def plan(self) -> Plan:
        return self.model.plan

    @property
    def labels(self) -> Labels:
        return self.model.labels

    def __call__(
        self,
        scan: Any,
        *,
        affine: npt.ArrayLike | None = None,
        spacing_mm: Sequence[float] | None = None,
        series: str | None = None,
        on_gap: Literal["refuse", "resample"] = "refuse",
        max_voxels: int = MAX_VOXELS,
        progress: Progress = silent,
    ) -> SegmenterResult:
        """Segment ``scan`` on its own grid; nothing is written.

        ``scan``: a path of any format that is read (or the paths of the channels of one case), a numpy array (I, J, K) or
        (C, I, J, K) with its ``affine`` or ``spacing_mm``, a nibabel or SimpleITK image, or a Volume. ``series``, ``on_gap``,
        ``max_voxels``: see ``io.scan.ReadOptions``.

        Raises DataError for the scan, ConfigError where an array has no grid, ResourceError where the memory runs out.
        """
        clock = perf_counter()
        paths, options = given_paths(scan), ReadOptions(series, on_gap, max_voxels)
        check_beside(paths, series=series, grid=affine is not None or spacing_mm is not None)
        if paths is None:
            with self.enough_memory("the scan"):
                given = given_scan(scan, affine=affine, spacing_mm=spacing_mm, max_voxels=max_voxels)
                reading = perf_counter() - clock
                found = self.segment(given.volume, given.name, progress)
            found = replace(found, back=given.back)
        else:
            with (
                self.enough_memory(shown(paths[0])),
                self.open(paths, options) as opened,
            ):
                reading = perf_counter() - clock
                found = self.segment(opened.volume, shown(paths[0]), progress)
        return replace(found, seconds={"read": reading} | found.seconds)

    def open(self, paths: Sequence[Path], options: ReadOptions) -> AbstractContextManager[Scan]:
        """See ``open_for``."""
        return open_for(self.model.card, paths, replace(options, max_memory=self.settings.max_memory))

    def segment(
        self, volume: Volume, name: str, progress: Progress = silent, record: Recorded | None = None
    ) -> SegmenterResult:
        """Segment a ``volume`` that messages call ``name``; ``record`` keeps the probabilities.

        Raises DataError for the scan, ModelError for the network.
        """
        from medseg.inference.expected import ExpectedDice
        from medseg.inference.segment import segment

        expected = None if self.dice_predictor is None else ExpectedDice(self.labels)
        try:
            found = segment(
                volume,
                self.plan,
                self.predict,
                settings=self.settings,
                outputs=self.outputs,
                record=record,
                expected=expected,
                scout=self.scout,
                head=self.head,
                always=always_there(self.model.card.fingerprint),
                progress=progress,
                say=self.say,
            )
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        except RuntimeError as error:
            if "memory" in str(error):
                raise
            raise ModelError(
                f"{self.model.folder}: the network failed on patches of the plan's patch_size {self.plan.patch_size}; "
                f"is model.json changed? {error}"
            ) from error
        label_map = replace(found.label_map, labels=self.labels)
        volumes = label_map.volumes_ml()
        predicted = self.dice_predictor.of(expected.of(volumes)) if self.dice_predictor and expected else {}
        review = (*reasons(volume, label_map, volumes, self.plan, self.model.card.fingerprint), *poor(predicted))
        warnings = (
            *volume.warnings,
            *other_modality(volume, self.plan),
            *oddities(label_map, self.labels),
            *(found.roi.warnings if found.roi else ()),
            *(f"review: {reason}" for reason in review),
        )
        return SegmenterResult(
            label_map,
            self.labels,
            volumes,
            warnings,
            found.seconds,
            found.windows,
            found.accumulators,
            as_nibabel,
            found.postprocessed,
            record,
            review,
            predicted,
            found.refined,
            found.roi,
        )

    def enough_memory(self, work: str) -> AbstractContextManager[None]:
        """For the block, memory that runs out becomes a ResourceError that names ``work``."""
        from medseg.inference.device import enough_memory

        return enough_memory(self.device, work=work, advice=_ADVICE)

    def describe(self) -> str:
        """Model, inputs, structures and device on one line."""
        plan = self.plan
        inputs = f", channels {', '.join(plan.channel_names)}" if plan.channels > 1 else ""
        names = self.labels.names
        structures = ", ".join(names[:MOST_NAMES]) + f" and {len(names) - MOST_NAMES} more" * (len(names) > MOST_NAMES)
        ways = f"{self.device}, {self.settings.backend} {self.settings.precision}"
        name = f"{self.model.card.name}, {plan.modality}{inputs}, {structures}"
        return f"{self.model.folder} ({name}{self._folds}); device: {ways}"

    @property
    def _folds(self) -> str:
        """Which folds run, in words; empty for a model of one."""
        if self.settings.folds:
            names = ", ".join(name.removeprefix("fold_") for name in self.settings.folds)
            return f"; fold {names} alone" if len(self.settings.folds) == 1 else f"; mean of folds {names}"
        count = len(self.model.card.weights)
        return f"; mean of {count} folds" if count > 1 else ""

    def __repr__(self) -> str:
        return f"Segmenter({self.describe()})"

    def _repr_html_(self) -> str:
        plan = self.plan
        rows = {
            "model": escape(f"{self.model.card.name} ({self.model.folder})"),
            "scans": escape(f"{plan.modality}: {', '.join(plan.channel_names) or plan.channels}"),
            "structures": " ".join(coloured(s.name, s.colour) for s in self.labels.structures),
            "spacing mm": " x ".join(f"{n:.3g}" for n in plan.spacing_mm),
            "patch size": " x ".join(map(str, plan.patch_size)),
            "device": escape(f"{self.device}, {self.settings.backend} {self.settings.precision}"),
        }
        return f"<table>{''.join(f'<tr><th>{name}</th><td>{value}</td></tr>' for name, value in rows.items())}</table>"


@contextmanager
def open_for(card: "ModelCard", paths: Sequence[Path], options: ReadOptions) -> Iterator[Scan]:
    """The scan at ``paths`` as ``open_scan`` reads it for the model of ``card``. Raises DataError where it does not fit it."""
    plan = card.plan
    check_channel_order(paths, plan.channel_names)
    options = replace(options, channel_grids=plan.channel_grids)
    with open_scan(paths, channels=plan.channels, options=options) as scan:
        if scan.flat and plan.dimensions == 3:
            raise DataError(f"{shown(paths[0])}: a 2D picture, but the model {card.name} is 3D; give a 3D scan")
        yield scan


def check_intensities(model: "Model") -> None:
    """Raise ModelError where the plan's way to normalise intensities is not one that medseg has."""
    from medseg.data.intensity import INTENSITIES

    for intensity in model.plan.intensity:
        try:
            build("intensity", INTENSITIES, intensity.scheme)(np.zeros((1, 1, 1), np.float32))
        except Exception as error:  # options of any kind, from a file
            raise ModelError(f"{model.folder}: the plan's intensity cannot be used: {error}") from None
