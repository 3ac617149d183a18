"""What a tuning measures: every case, segmented in every way that a model can be run."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg.core.case import Case
from medseg.core.errors import DataError
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.progress import Progress
from medseg.core.volume import LabelMap, Volume
from medseg.workflows.tune_cases import TuneCases
from medseg.workflows.tune_choice import Floats, Steps, Way

if TYPE_CHECKING:
    from medseg.inference.backends import Running
    from medseg.inference.roi import Roi, Scout
    from medseg.inference.settings import InferenceSettings
    from medseg.models.bundle import Model
    from medseg.models.head import Head

ByStructure = Mapping[str, Steps]


@dataclass(frozen=True, eq=False)
class Packed:
    """A label map, compressed: those of all cases are held until post-processing is chosen."""

    data: bytes
    dtype: np.dtype[Any]
    geometry: Geometry

    @classmethod
    def of(cls, label_map: LabelMap) -> "Packed":
        return cls(zlib.compress(label_map.data.tobytes(), 1), label_map.data.dtype, label_map.geometry)

    def label_map(self) -> LabelMap:
        values = np.frombuffer(zlib.decompress(self.data), self.dtype).reshape(self.geometry.shape)
        return LabelMap(values, self.geometry)


@dataclass(frozen=True, eq=False)
class Outcome:
    """One way on one case: the label map, the seconds, the Dice that the network expected.

    ``share``: of the forward passes of the whole scan, those that ran; above 1 where a first look was in vain.
    """

    label_map: Packed
    seconds: float
    expected: dict[str, float]
    share: float


@dataclass(frozen=True, eq=False)
class Run:
    """One case: its reference, and the outcome of each way."""

    case: Case
    reference: Packed
    outcomes: tuple[Outcome, ...]

    def with_more(self, other: "Run") -> "Run":
        """With the outcomes of further ways."""
        return replace(self, outcomes=self.outcomes + other.outcomes)


def settings_to_measure(way: Way, model: "Model") -> "InferenceSettings":
    """The settings to measure a way with, as the model wishes otherwise; without post-processing, which comes later."""
    from medseg.inference.settings import InferenceOptions, settings_for

    options = InferenceOptions(way.overlap, way.mirror, postprocess={}, roi=way.roi, refine=way.refine)
    return settings_for(options, model.card.inference, model.plan)


@dataclass(frozen=True, eq=False)
class Engine:
    """A model on a device: what runs each way, started when it is first asked for.

    A way whose windows are blended as features (``inference.features``) needs networks of its own.
    """

    model: "Model"
    device: Any
    say: Callable[[str], None]
    precision: str
    backend: str = "auto"
    started: "dict[bool, Running]" = field(default_factory=dict)

    def running(self, way: Way) -> "tuple[Running, Head | None]":
        """What runs ``way``, and the last layer where windows are blended before it."""
        from medseg.inference.backends import start
        from medseg.inference.features import blends_features

        headless = blends_features(self.model, settings_to_measure(way, self.model))
        model = replace(self.model, headless=headless)
        if headless not in self.started:
            self.started[headless] = start(
                model, self.device, backend=self.backend, precision=self.precision, say=self.say
            )
        return self.started[headless], model.head(0) if headless else None


def roi_ways(ways: Sequence[Way], found: TuneCases, model: "Model") -> tuple[list[Way], str]:
    """Those of ``ways`` for which a first look can save anything in some case, looking first; and why none, in words."""
    from medseg.data.preprocess import framed, shape_for
    from medseg.inference.roi import pays

    if model.card.inference.refine is not None:
        return [], "the model wishes a refinement, which needs the whole scan's probabilities"
    plan, folds, paying = model.plan, len(model.card.weights), set[Way]()
    for case in found.cases:
        if len(paying) == len(ways):
            break
        volume = _volume(case)
        with _named(case):
            shape = shape_for(framed(volume, plan)[0].geometry, plan)
        paying |= {way for way in ways if pays(shape, plan, settings_to_measure(way, model), folds)}
    return [replace(way, roi=True) for way in ways if way in paying], "" if paying else (
        "no case has windows enough for a first look to save any"
    )


@contextmanager
def _named(case: Case) -> Iterator[None]:
    """A DataError of the block names the ``case``."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{case.id}: {error}") from None


def _volume(case: Case) -> Volume:
    from medseg.io.reading import read_volumes
    from medseg.io.scan import ReadOptions

    return read_volumes(case.images, options=ReadOptions(channel_grids=case.channel_grids))


def measured(engine: Engine, found: TuneCases, ways: Sequence[Way], progress: Progress) -> list[Run]:
    """Every case segmented in every way, each timed without reading; the network's time is that of all folds."""
    from medseg.data.check import as_label
    from medseg.inference.ensemble import ensembled, outputs_of
    from medseg.inference.expected import ExpectedDice
    from medseg.inference.review import always_there
    from medseg.inference.roi import Scout
    from medseg.inference.segment import segment

    model, runs = engine.model, []
    all_folds = len(model.card.weights)
    for number, (case, folds) in enumerate(zip(found.cases, found.folds, strict=True)):
        volume = _volume(case)
        reference = as_label(case, model.plan.structure_labels, volume.geometry)
        outcomes = []
        for done, way in enumerate(ways, 1):
            settings, (running, head) = settings_to_measure(way, model), engine.running(way)
            predicts, outputs = running.predicts, outputs_of(len(folds), settings.ensemble)
            predict = ensembled([predicts[n] for n in folds], outputs, regions=bool(model.labels.regions))
            scout, looking = _timed(Scout(predicts[folds[0]], all_folds))
            said = None if way.roi else ExpectedDice(model.labels)
            with _named(case):
                made = segment(
                    volume,
                    model.plan,
                    predict,
                    settings=settings,
                    outputs=outputs,
                    expected=said,
                    scout=scout,
                    head=head,
                    always=always_there(model.card.fingerprint),
                )
            others = sum(value for stage, value in made.seconds.items() if stage != "network")
            looked = sum(looking)  # by one fold, however many are averaged afterwards
            outcomes.append(
                Outcome(
                    Packed.of(made.label_map),
                    others + looked + (made.seconds["network"] - looked) * all_folds / len(folds),
                    said.of(made.label_map.volumes_ml()) if said else dict.fromkeys(model.labels.names, np.nan),
                    _share(made.roi, all_folds * 2 ** len(settings.mirror)),
                )
            )
            progress("ways to run it", number * len(ways) + done, len(found.cases) * len(ways))
        runs.append(Run(case, Packed.of(reference), tuple(outcomes)))
    return runs


def _timed(scout: "Scout") -> tuple["Scout", list[float]]:
    """``scout``, and the seconds of each of its calls, which are added as they come."""
    seconds: list[float] = []

    def predict(patches: Any) -> Any:
        start = perf_counter()
        found = scout.predict(patches)
        seconds.append(perf_counter() - start)
        return found

    return replace(scout, predict=predict), seconds


def _share(roi: "Roi | None", passes: int) -> float:
    """The share of the whole scan's forward passes that ran, where a window needs so many ``passes``, and one to look."""
    if roi is None:
        return 1.0
    return (roi.first_look_windows + roi.windows * passes) / (roi.whole_scan_windows * passes)


def dice_of(runs: Sequence[Run], way: int, steps: Sequence[ByStructure], labels: Labels) -> Floats:
    """Dice (cases, structures) of one way after the ``steps`` of each case.

    NaN where it is undefined, and for a structure that a case does not annotate.
    """
    from medseg.inference.postprocess import postprocess
    from medseg.metrics.overlap import dice
    from medseg.training.validation import compared

    found = np.full((len(runs), len(labels.names)), np.nan)
    for row, (run, asked) in enumerate(zip(runs, steps, strict=True)):
        label_map, _ = postprocess(run.outcomes[way].label_map.label_map(), asked, labels)
        pair, _ = compared(run.case, label_map, run.reference.label_map(), labels)
        for column, structure in enumerate(labels.structures):
            if run.case.annotated is None or structure.name in run.case.annotated:
                found[row, column] = dice(pair.structure(structure.value))
    return found


def expected_of(runs: Sequence[Run], way: int, steps: Sequence[ByStructure], labels: Labels) -> Floats:
    """What the network expected of one way, as ``dice_of``; NaN where the steps leave nothing of a structure."""
    from medseg.inference.postprocess import postprocess

    found = np.full((len(runs), len(labels.names)), np.nan)
    for row, (run, asked) in enumerate(zip(runs, steps, strict=True)):
        label_map, _ = postprocess(run.outcomes[way].label_map.label_map(), asked, labels)
        for column, structure in enumerate(labels.structures):
            if (label_map.data == structure.value).any():
                found[row, column] = run.outcomes[way].expected[structure.name]
    return found


def seconds_of(runs: Sequence[Run], way: int) -> Floats:
    """Seconds (cases,) of one way."""
    return np.array([run.outcomes[way].seconds for run in runs])


def shares_of(runs: Sequence[Run], way: int) -> Floats:
    """Of each case (cases,), the share of the whole scan's forward passes that ran in one way."""
    return np.array([run.outcomes[way].share for run in runs])
