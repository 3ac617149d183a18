"""Score predictions against references: pairs -> read -> same grid? -> metrics -> report."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.core.case import check_group, patient_of
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import check_writable, sha256_of
from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.scores import Score
from medseg.core.volume import LabelMap
from medseg.io.matching import FilePair, match_files
from medseg.io.reading import holds_named_masks, read_label_map
from medseg.io.source import shown
from medseg.io.tables import labels_from_names, read_labels
from medseg.metrics import CasePair, MaskPair, Settings, score_case, score_regions, score_structure, score_structures
from medseg.metrics.grids import OnGrid, reordered, resampled
from medseg.metrics.rules import DEFAULT_BOUNDARY_MM, DEFAULT_LESION_IOU, DEFAULT_TOLERANCE_MM
from medseg.report.evaluation import Report, ScoredCase
from medseg.statistics import summarise, worst_scores


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    labels: Path | str | Labels | Mapping[str, int] | None = None,
    output: Path | str | None = None,
    metrics: Sequence[str] | None = None,
    tolerance_mm: float | Mapping[str, float] = DEFAULT_TOLERANCE_MM,
    boundary_mm: float | Mapping[str, float] = DEFAULT_BOUNDARY_MM,
    missed: str = "diagonal",
    lesions: Sequence[str] = (),
    lesion_iou: float = DEFAULT_LESION_IOU,
    regions: Mapping[str, Sequence[str]] | None = None,
    resample: bool = False,
    skip_bad: bool = False,
    group: str | None = None,
    worst: int = 5,
    images: Path | str | None = None,
    progress: Progress = silent,
) -> Report:
    """Score label maps against their references: two files, or folders whose files are matched by case id.

    A prediction stored in another axis order than its reference is the same prediction; one on another grid is an
    error, or with ``resample`` brought onto the reference's grid (nearest voxel), which the report says. Either may also be
    a DICOM segmentation, an RT structure set or a folder of one mask per structure: it is laid on the other's grid, and
    its names must be among ``labels``.

    ``labels`` names the structures (a labels file as of ``io.tables.read_labels``, ``Labels``, or ``{name: value}``);
    without it each value found anywhere is a structure of that name. ``output`` is a folder that gets ``scores.csv``,
    ``summary.json``, ``report.md`` and the page ``report.html`` with pictures of the worst cases, on their scans where
    ``images`` is the folder that holds them. ``group`` is a regular expression that names the patient in a case id, as
    ``data.group`` of a config: intervals are resampled by patient. ``worst`` scores are listed. Memory holds two cases at a time.

    ``metrics`` are names of METRICS and CASE_METRICS, or ``all``; without them DEFAULT_METRICS. ``tolerance_mm`` (for nsd)
    and ``boundary_mm`` (the width of the rim for boundary_iou) are one for all structures, or by structure with 2 mm for the
    rest. ``missed``: a distance where one mask is empty is the
    image's ``diagonal``, or ``undefined`` and with it the mean. ``lesions`` names structures that are also scored lesion by
    lesion; two lesions are the same from an IoU of ``lesion_iou`` on. ``regions`` are structures taken together under a name
    (``{"kidneys": ["kidney_left", "kidney_right"]}``), scored beside them and in no mean over structures; they need ``labels``.

    Raises DataError or GeometryError for the first thing wrong, with nothing written: a file missing on either side,
    unreadable, on another grid, or with a value that ``labels`` lacks. With ``skip_bad`` such cases go to
    ``Report.skipped`` and the rest is scored; where nothing is left it raises all the same.
    ConfigError for an unknown metric, structure or choice.

    >>> from medseg import evaluate
    >>> report = evaluate("predictions", "references", output="scores")  # doctest: +SKIP
    """
    settings = Settings.of(
        metrics=metrics,
        tolerance_mm=tolerance_mm,
        missed=missed,
        lesions=lesions,
        lesion_iou=lesion_iou,
        regions=regions,
        boundary_mm=boundary_mm,
    )
    named = _labels(labels)
    if named is None and settings.regions:
        raise ConfigError("--region: structures need names here; give --labels, which says their values")
    if named is not None:
        settings.require_structures(named.names)
    onto_grid = resampled if resample else reordered
    check_group(group)
    if output is not None:
        check_writable(Path(output))
    if images is not None and not Path(images).is_dir():
        raise DataError(f"{shown(Path(images))}: no folder of scans is there; give the folder that holds them")
    pairs, skipped = match_files(Path(predictions), Path(references))
    if skipped and not (skip_bad and pairs):
        rest = "; --skip-bad scores the rest" if pairs else "; no case is in both"
        raise DataError("; ".join(dict.fromkeys(skipped.values())) + rest)
    patients = {pair.id: patient_of(pair.id, group) for pair in pairs}
    cases: list[_CaseScores] = []
    for done, (pair, prediction, reference) in enumerate(_read_ahead(pairs, named), 1):
        try:
            cases.append(_score(pair, prediction.result(), reference.result(), named, settings, onto_grid))
        except DataError as error:
            if not skip_bad:
                raise
            skipped[pair.id] = str(error)
        del prediction, reference  # their voxels go before the next case is read
        progress("evaluate", done, len(pairs))
    if not cases:
        raise DataError(f"none of {len(pairs)} case(s) could be scored: {next(iter(skipped.values()))}")
    report = replace(_report(cases, named, skipped, patients, settings), group=group)
    report = replace(report, worst=tuple(worst_scores(report.scores, worst)))
    if output is not None:
        from medseg.report.gallery import worst_pictures
        from medseg.report.page import page_files

        by_id = {pair.id: pair for pair in pairs}

        def maps(case: str) -> tuple[LabelMap, LabelMap]:
            return _read_again(by_id[case], named, onto_grid)

        pictures = worst_pictures(report, maps, None if images is None else Path(images))
        report.save(Path(output), page_files(report, pictures))
    return report


@dataclass(frozen=True)
class _Read:
    """A label map, the file it comes from, and the file's hash."""

    path: Path
    label_map: LabelMap
    sha256: str


@dataclass(frozen=True)
class _CaseScores:
    """Scores of one case, by value where the case holds the value; what it lacks is filled in when all are known."""

    case: ScoredCase
    grid: Geometry
    by_value: dict[int, list[Score]]
    regions: list[Score]
    whole: list[Score]


def _labels(labels: Path | str | Labels | Mapping[str, int] | None) -> Labels | None:
    if labels is None or isinstance(labels, Labels):
        return labels
    return labels_from_names(dict(labels)) if isinstance(labels, Mapping) else read_labels(Path(labels))


def _read_ahead(
    pairs: list[FilePair], labels: Labels | None
) -> Iterator[tuple[FilePair, "Future[_Read]", "Future[_Read]"]]:
    """Each pair with its two files being read on two threads, one case ahead of the scoring."""
    waiting: deque[tuple[FilePair, Future[_Read], Future[_Read]]] = deque()
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


def _read(path: Path, labels: Labels | None, image: "Future[_Read] | None" = None) -> _Read:
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
        return _Read(path, label_map, sha256_of(path))
    except OSError as error:
        raise DataError(f"{shown(path)}: cannot be read ({error.strerror})") from None


def _read_again(pair: FilePair, labels: Labels | None, onto_grid: Callable[..., OnGrid]) -> tuple[LabelMap, LabelMap]:
    """Prediction and reference on the reference's grid, for a picture."""
    reading = _read_ahead([pair], labels)
    _, prediction, reference = next(reading)
    predicted, expected = prediction.result(), reference.result().label_map
    names = (shown(pair.prediction), shown(pair.reference))
    moved = onto_grid(predicted.label_map, expected.geometry, names=names)
    return LabelMap(moved.data, expected.geometry), expected


def _score(
    pair: FilePair,
    prediction: _Read,
    reference: _Read,
    labels: Labels | None,
    settings: Settings,
    onto_grid: Callable[..., OnGrid],
) -> _CaseScores:
    """Every metric of one case, for the values that it holds."""
    grid = reference.label_map.geometry
    moved = onto_grid(prediction.label_map, grid, names=(shown(prediction.path), shown(reference.path)))
    maps = CasePair.of(moved.data, reference.label_map.data, grid)
    _require_named(maps.predicted_voxels, prediction.path, labels)
    _require_named(maps.reference_voxels, reference.path, labels)
    names = _names(labels) if labels else {v: str(v) for v in maps.values if v}
    return _CaseScores(
        ScoredCase(
            id=pair.id,
            prediction=shown(pair.prediction),
            reference=shown(pair.reference),
            prediction_sha256=prediction.sha256,
            reference_sha256=reference.sha256,
            shape=grid.shape,
            spacing_mm=grid.spacing_mm,
            warnings=tuple(dict.fromkeys((*prediction.label_map.warnings, *reference.label_map.warnings))),
            resampled_from=moved.resampled_from,
            outside_ml=moved.outside_ml,
        ),
        grid,
        score_structures(pair.id, {v: names[v] for v in maps.values if v}, maps, settings),
        score_regions(pair.id, labels.mapping() if labels else {}, maps, settings),
        score_case(pair.id, maps, settings.metrics),
    )


def _require_named(voxels: dict[int, int], path: Path, labels: Labels | None) -> None:
    unknown = [
        value for value, n in voxels.items() if n and value and labels is not None and value not in labels.values
    ]
    if unknown and labels is not None:
        named = ", ".join(f"{name} {value}" for name, value in list(labels.mapping().items())[:12])
        more = ", ..." if labels.channels > 12 else ""
        raise DataError(
            f"{shown(path)}: label value {', '.join(map(str, unknown[:8]))} is not among the labels ({named}{more}); "
            "name it in the labels file, or take it out of the label map"
        )


def _names(labels: Labels) -> dict[int, str]:
    return {s.value: s.name for s in labels.structures}


def _report(
    cases: list[_CaseScores],
    labels: Labels | None,
    skipped: dict[str, str],
    patients: dict[str, str],
    settings: Settings,
) -> Report:
    """All scores, also of the structures that a case lacks, and their summaries."""
    if labels is None:
        values = sorted({value for case in cases for value in case.by_value})
        labels = Labels.from_mapping({"background": 0, **{str(v): v for v in values}}) if values else Labels(())
        settings.require_structures(labels.names)
    scores: list[Score] = []
    for case in cases:
        for value, name in _names(labels).items():
            found = case.by_value.get(value)
            if found is None:
                nothing = MaskPair.empty(case.grid, settings.rules(name))
                found = score_structure(case.case.id, name, nothing, settings.metrics_of(name))
            scores += found
        scores += case.regions + case.whole
    summaries = tuple(summarise(scores, patients=patients))
    listed = tuple(sorted(skipped.items()))
    return Report(tuple(scores), summaries, labels, tuple(case.case for case in cases), listed, settings=settings)
