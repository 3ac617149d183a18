"""One case from its two files: read, brought onto one grid, scored."""

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from medseg.core.errors import DataError
from medseg.core.files import sha256_of
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.scores import Score, ScoredCase
from medseg.core.volume import LabelMap
from medseg.io.matching import FilePair
from medseg.io.reading import holds_named_masks, read_label_map
from medseg.io.source import shown
from medseg.metrics import score_case, score_regions, score_structures
from medseg.metrics.case_calibration import Calibration, score_probabilities
from medseg.metrics.grids import OnGrid, reordered, resampled
from medseg.metrics.pairs import CasePair
from medseg.metrics.settings import Settings


@dataclass(frozen=True)
class HowToScore:
    """The same for every case.

    ``labels`` name the values; without them each value names itself. ``open_labels``: a value that ``labels`` lack names
    itself, too, where it is an error otherwise. ``resample``: a prediction on another grid is brought onto its reference's.
    """

    settings: Settings
    labels: Labels | None = None
    open_labels: bool = False
    resample: bool = False

    def names(self, values: Iterable[int]) -> dict[int, str]:
        """What the structures of ``values`` are called."""
        named = names_by_value(self.labels)
        taken, found = set(named.values()), {}
        for value in values:
            name = named.get(value, str(value))
            while value not in named and name in taken:
                name += "_"
            found[value] = name
        return found

    @property
    def channel_values(self) -> tuple[int, ...] | None:
        """The values that the channels of probabilities stand for, the background's aside; None where they are their numbers."""
        return None if self.labels is None or self.open_labels else self.labels.values

    def onto_grid(self, prediction: LabelMap, grid: Geometry, *, names: tuple[str, str]) -> OnGrid:
        """``prediction`` on ``grid``; see ``metrics.grids``."""
        return (resampled if self.resample else reordered)(prediction, grid, names=names)


@dataclass(frozen=True)
class ReadMap:
    """A label map, the file it comes from, and the file's hash."""

    path: Path
    label_map: LabelMap
    sha256: str


@dataclass(frozen=True)
class CaseScores:
    """Scores of one case, by value where the case holds the value; what it lacks is filled in when all are known."""

    case: ScoredCase
    grid: Geometry
    by_value: dict[int, list[Score]]
    regions: list[Score]
    whole: list[Score]


def names_by_value(labels: Labels | None) -> dict[int, str]:
    """``{value: name}`` without the background."""
    return {s.value: s.name for s in labels.structures} if labels else {}


def read_ahead(
    pairs: Iterable[FilePair], labels: Labels | None
) -> Generator[tuple[FilePair, Future[ReadMap], Future[ReadMap]], None, None]:
    """Each pair with its two files being read on two threads, one case ahead of the scoring. Close the generator."""
    waiting: deque[tuple[FilePair, Future[ReadMap], Future[ReadMap]]] = deque()
    with ThreadPoolExecutor(2) as threads:
        try:
            for pair in pairs:
                # Submitted after what it may wait for, so that two threads never wait for each other.
                if holds_named_masks(pair.prediction) and not holds_named_masks(pair.reference):
                    reference = threads.submit(_read, pair.reference, labels)
                    prediction = threads.submit(_read, pair.prediction, labels, reference)
                else:
                    prediction = threads.submit(_read, pair.prediction, labels)
                    reference = threads.submit(_read, pair.reference, labels, prediction)
                waiting.append((pair, prediction, reference))
                if len(waiting) > 1:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


def _read(path: Path, labels: Labels | None, image: Future[ReadMap] | None = None) -> ReadMap:
    """The label map at ``path``; masks with names get the values of ``labels`` and, of DICOM, the grid of ``image``."""
    if not holds_named_masks(path):
        label_map = read_label_map(path)
    elif labels is None:
        raise DataError(
            f"{shown(path)}: its structures have names, and the values that stand for them are not known; give --labels, "
            "such as the model.json of the model that made the predictions"
        )
    else:
        like = None if image is None else image.result().label_map.geometry
        label_map = read_label_map(path, labels, like=like)
    try:
        return ReadMap(path, label_map, sha256_of(path))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror})") from None


def read_again(pair: FilePair, how: HowToScore) -> tuple[LabelMap, LabelMap]:
    """Prediction and reference on the reference's grid, for a picture."""
    with closing(read_ahead([pair], how.labels)) as reading:
        _, prediction, reference = next(reading)
        predicted, expected = prediction.result(), reference.result().label_map
    names = (shown(pair.prediction), shown(pair.reference))
    moved = how.onto_grid(predicted.label_map, expected.geometry, names=names)
    return LabelMap(moved.data, expected.geometry), expected


def score_files(
    pair: FilePair, prediction: ReadMap, reference: ReadMap, how: HowToScore, *, threads: int | None = None
) -> CaseScores:
    """Every metric of one case, for the values that it holds, on ``threads`` (as many as there are cores)."""
    grid = reference.label_map.geometry
    moved = how.onto_grid(prediction.label_map, grid, names=(shown(prediction.path), shown(reference.path)))
    maps = CasePair.of(moved.data, reference.label_map.data, grid)
    if how.labels is not None and not how.open_labels:
        _require_named(maps.predicted_voxels, prediction.path, how.labels)
        _require_named(maps.reference_voxels, reference.path, how.labels)
    names = how.names(v for v in maps.values if v)
    scores = score_structures(pair.id, names, maps, how.settings, threads=threads)
    calibration = Calibration()
    if pair.probabilities is not None:
        both = (prediction.label_map, reference.label_map)
        calibration = score_probabilities(pair.id, pair.probabilities, both, maps, names, how.channel_values)
        scores = {value: [*found, *calibration.by_value[value]] for value, found in scores.items()}
    told = (*prediction.label_map.warnings, *reference.label_map.warnings, *calibration.warnings)
    return CaseScores(
        ScoredCase(
            id=pair.id,
            prediction=shown(pair.prediction),
            reference=shown(pair.reference),
            prediction_sha256=prediction.sha256,
            reference_sha256=reference.sha256,
            shape=grid.shape,
            spacing_mm=grid.spacing_mm,
            warnings=tuple(dict.fromkeys(told)),
            resampled_from=moved.resampled_from,
            outside_ml=moved.outside_ml,
            probabilities=calibration.path,
            probabilities_sha256=calibration.sha256,
        ),
        grid,
        scores,
        score_regions(pair.id, how.labels.mapping() if how.labels else {}, maps, how.settings),
        [*score_case(pair.id, maps, how.settings.metrics), *calibration.whole],
    )


def _require_named(voxels: dict[int, int], path: Path, labels: Labels) -> None:
    unknown = [value for value, n in voxels.items() if n and value and value not in labels.values]
    if unknown:
        named = ", ".join(f"{name} {value}" for name, value in list(labels.mapping().items())[:12])
        more = ", ..." if labels.channels > 12 else ""
        raise DataError(
            f"{shown(path)}: label value {', '.join(map(str, unknown[:8]))} is not among the labels ({named}{more}); "
            "name it in the labels file, or take it out of the label map"
        )
