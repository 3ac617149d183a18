"""Score predictions against references: pairs -> read -> same grid? -> metrics -> report."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from medseg.core.case import check_group, patient_of
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import check_writable
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.scores import Score
from medseg.core.volume import LabelMap
from medseg.io.header_names import HeaderNames, header_names
from medseg.io.matching import match_files
from medseg.io.probabilities import with_probabilities
from medseg.io.source import shown
from medseg.io.tables import labels_from_names, read_labels
from medseg.metrics import MaskPair, Settings, score_structure
from medseg.metrics.case_calibration import no_forecast
from medseg.metrics.case_files import CaseScores, HowToScore, names_by_value, read_again
from medseg.metrics.many_cases import score_all
from medseg.metrics.rules import DEFAULT_BOUNDARY_MM, DEFAULT_LESION_IOU, DEFAULT_TOLERANCE_MM
from medseg.report.evaluation import Report
from medseg.statistics import summarise, worst_scores


def evaluate(
    predictions: Path | str,
    references: Path | str,
    *,
    labels: Path | str | Labels | Mapping[str, int] | HeaderNames | None = None,
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
    probabilities: Path | str | None = None,
    progress: Progress = silent,
) -> Report:
    """Score label maps against their references: two files, or folders whose files are matched by case id.

    A prediction stored in another axis order than its reference is the same prediction; one on another grid is an
    error, or with ``resample`` brought onto the reference's grid (nearest voxel), which the report says. Either may also be
    a DICOM segmentation, an RT structure set or a folder of one mask per structure: it is laid on the other's grid, and
    its names must be among the ``labels``.

    ``labels`` names the structures (a labels file as of ``io.tables.read_labels``, ``Labels``, or ``{name: value}``). Without
    it the headers of the label maps do (``io.header_names``), and a value that none of them names is a structure of that
    name; that two headers disagree is an error. The report says where the names come from.

    ``output`` is a folder that gets ``scores.csv``, ``summary.json``, ``report.md`` and the page ``report.html`` with
    pictures of the worst cases, on their scans where ``images`` is the folder that holds them. ``group`` is a regular
    expression that names the patient in a case id, as ``data.group`` of a config: intervals are resampled by patient.
    ``worst`` scores are listed. Memory holds two cases at a time, or one for each process where many cases are spread over
    the cores (``metrics.many_cases``).

    ``metrics`` are names of METRICS and CASE_METRICS, or ``all``; without them DEFAULT_METRICS. ``tolerance_mm`` (for nsd)
    and ``boundary_mm`` (the width of the rim for boundary_iou) are one for all structures, or by structure with 2 mm for the
    rest. ``missed``: a distance where one mask is empty is the
    image's ``diagonal``, or ``undefined`` and with it the mean. ``lesions`` names structures that are also scored lesion by
    lesion; two lesions are the same from an IoU of ``lesion_iou`` on. ``regions`` are structures taken together under a name
    (``{"kidneys": ["kidney_left", "kidney_right"]}``), scored beside them and in no mean over structures; they need names.

    ``probabilities``: the predictions' probability maps (``io.probabilities``), matched by case id, which are scored by ece and
    brier, too (``metrics.calibration``).

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
        probabilities=probabilities is not None,
    )
    named = _named(labels)
    if named is not None and named.labels is not None and not isinstance(labels, HeaderNames):
        settings.require_structures(named.labels.names)
    check_group(group)
    if output is not None:
        check_writable(Path(output))
    if images is not None and not Path(images).is_dir():
        raise DataError(f"{shown(Path(images))}: no folder of scans is there; give the folder that holds them")
    pairs, skipped = match_files(Path(predictions), Path(references))
    if probabilities is not None:
        pairs, lacking = with_probabilities(pairs, Path(probabilities))
        skipped |= lacking
    if skipped and not (skip_bad and pairs):
        rest = "; --skip-bad scores the rest" if pairs else "; no case is in both"
        raise DataError("; ".join(dict.fromkeys(skipped.values())) + rest)
    known = named or header_names(pairs)
    if settings.regions:
        if known.labels is None:
            raise ConfigError("--region: structures need names here; give --labels, which says their values")
        settings.require_structures(known.labels.names)
    by_header = named is None or isinstance(labels, HeaderNames)
    how = HowToScore(settings, known.labels, open_labels=by_header, resample=resample)
    patients = {pair.id: patient_of(pair.id, group) for pair in pairs}
    cases: list[CaseScores] = []
    with closing(score_all(pairs, how)) as found:
        for done, (pair, scores) in enumerate(found, 1):
            if isinstance(scores, CaseScores):
                cases.append(scores)
            elif skip_bad:
                skipped[pair.id] = str(scores)
            else:
                raise scores
            progress("evaluate", done, len(pairs))
    if not cases:
        raise DataError(f"none of {len(pairs)} case(s) could be scored: {next(iter(skipped.values()))}")
    report = replace(_report(cases, how, skipped, patients), group=group, names_from=known.source)
    report = replace(report, worst=tuple(worst_scores(report.scores, worst)))
    if output is not None:
        from medseg.report.gallery import worst_pictures
        from medseg.report.page import page_files

        by_id = {pair.id: pair for pair in pairs}

        def maps(case: str) -> tuple[LabelMap, LabelMap]:
            return read_again(by_id[case], how)

        pictures = worst_pictures(report, maps, None if images is None else Path(images))
        report.save(Path(output), page_files(report, pictures))
    return report


def _named(labels: Path | str | Labels | Mapping[str, int] | HeaderNames | None) -> HeaderNames | None:
    """What ``labels`` name and where that stands; None where the headers are to be asked."""
    if labels is None or isinstance(labels, HeaderNames):
        return labels
    if isinstance(labels, Labels):
        return HeaderNames(labels, "labels given")
    if isinstance(labels, Mapping):
        return HeaderNames(labels_from_names(dict(labels)), "labels given")
    return HeaderNames(read_labels(Path(labels)), shown(Path(labels)))


def _report(cases: list[CaseScores], how: HowToScore, skipped: dict[str, str], patients: dict[str, str]) -> Report:
    """All scores, also of the structures that a case lacks, and their summaries."""
    labels, settings = how.labels, how.settings
    if labels is None or how.open_labels:
        values = {value for case in cases for value in case.by_value} | set(labels.values if labels else ())
        names = {name: value for value, name in how.names(sorted(values)).items()}
        labels = Labels.from_mapping({"background": 0, **names}) if names else Labels(())
        settings.require_structures(labels.names)
    scores: list[Score] = []
    for case in cases:
        for value, name in names_by_value(labels).items():
            found = case.by_value.get(value)
            if found is None:
                nothing = MaskPair.empty(case.grid, settings.rules(name))
                found = score_structure(case.case.id, name, nothing, settings.metrics_of(name))
                found += no_forecast(case.case.id, name) if settings.probabilities else []
            scores += found
        scores += case.regions + case.whole
    summaries = tuple(summarise(scores, patients=patients))
    listed = tuple(sorted(skipped.items()))
    return Report(tuple(scores), summaries, labels, tuple(case.case for case in cases), listed, settings=settings)
