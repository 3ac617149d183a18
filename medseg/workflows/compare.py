"""Compare models on the same cases: score each (or read its scores) -> same cases, same references? -> paired statistics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from medseg.core.case import check_group, patient_of
from medseg.core.errors import ConfigError, DataError
from medseg.core.files import check_writable
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.scores import Score
from medseg.io.header_names import HeaderNames, header_names_of
from medseg.io.matching import holds_label_maps, short_names
from medseg.io.scores_csv import RULES, SCORES, read_scores, read_summary
from medseg.io.source import shown
from medseg.metrics.rules import DEFAULT_BOUNDARY_MM, DEFAULT_TOLERANCE_MM
from medseg.report.comparison import Comparison
from medseg.statistics.comparison import Endpoint, ModelScores, compare_models
from medseg.statistics.direction import better
from medseg.statistics.ranking import rank_models
from medseg.workflows.evaluate import evaluate

DEFAULT_METRICS = ("dice", "hd95", "nsd")


def compare(
    models: Sequence[Path | str],
    *,
    reference: Path | str | None = None,
    labels: Path | str | Labels | Mapping[str, int] | HeaderNames | None = None,
    output: Path | str | None = None,
    metrics: Sequence[str] | None = None,
    margin: float | Mapping[str, float] | None = None,
    tolerance_mm: float | Mapping[str, float] = DEFAULT_TOLERANCE_MM,
    boundary_mm: float | Mapping[str, float] = DEFAULT_BOUNDARY_MM,
    group: str | None = None,
    all_pairs: bool = False,
    skip_bad: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> Comparison:
    """Paired comparison of two or more models, each against the first of them, or with ``all_pairs`` each with each.

    A model is a folder of its label maps, scored against ``reference`` as ``evaluate`` does, or a folder with the
    ``scores.csv`` of an earlier evaluation. ``metrics``: without them those of dice, hd95 and nsd that are there.
    ``margin``: how much worse a model may be and still count as not inferior, for every ratio, or by metric in its
    unit. ``tolerance_mm`` is that of nsd and ``boundary_mm`` that of boundary_iou, as for ``evaluate``. ``group`` names the
    patient in a case id. ``output`` is a folder for the tables, figures and methods text.
    Three or more models are ranked, too, with the stability of their ranking.

    Raises DataError where a model lacks a case that another has, or cases were scored against different references;
    with ``skip_bad`` a lacking case counts against that model instead. Raises ConfigError for fewer than two models,
    an unknown metric or a margin for a metric that is not compared.
    """
    paths = [Path(model) for model in models]
    if len(paths) < 2:
        raise ConfigError(f"{len(paths)} model(s) given; compare needs two or more folders of predictions or scores")
    check_group(group)
    if output is not None:
        check_writable(Path(output))
    asked = metrics or DEFAULT_METRICS
    scored: list[ModelScores] = []
    units: dict[str, str] = {}
    rules: dict[str, Mapping[str, Any]] = {}
    skipped: dict[str, Mapping[str, str]] = {}
    if labels is None and reference is not None:  # one name for a value in all models
        labels = header_names_of([(path, Path(reference)) for path in paths if not _is_scored(path, reference)])
    given: dict[str, Any] = {"labels": labels, "metrics": asked, "skip_bad": skip_bad}
    given |= {"tolerance_mm": tolerance_mm, "boundary_mm": boundary_mm}
    for name, path in zip(short_names(paths), paths, strict=True):  # the single scores of one model are held at a time
        source = _earlier(path) if _is_scored(path, reference) else _scored_now(path, reference, given, progress)
        units |= {s.metric: s.unit for s in source.scores}
        rules[name], skipped[name] = source.rules, source.skipped
        scored.append(_model(name, source, asked))
    _check_references(scored)
    judged = _same_rules(rules)
    if any(_is_scored(path, reference) for path in paths):
        _check_structures(scored)
    cases = sorted(set().union(*(m.cases for m in scored)))
    if not skip_bad:
        _check_cases(scored, cases)
    endpoints = _endpoints(scored, units, metrics)
    margins = _margins(margin, endpoints)
    pairs = list(combinations(range(len(scored)), 2)) if all_pairs else [(0, n) for n in range(1, len(scored))]
    patients = {case: patient_of(case, group) for case in cases}
    rows = compare_models(scored, endpoints, pairs=pairs, patients=patients, margins=margins, seed=seed)
    rankings = tuple(rank_models(scored, endpoints, patients=patients, seed=seed))
    result = Comparison(tuple(scored), tuple(endpoints), tuple(rows), patients, group, seed, judged, skipped, rankings)
    if output is not None:
        result.save(Path(output))
    return result


@dataclass(frozen=True)
class _Source:
    """What is known of one model: its scores, reference hashes by case, how the scores were made, and what was skipped why."""

    scores: Sequence[Score]
    references: Mapping[str, str]
    rules: Mapping[str, Any]
    skipped: Mapping[str, str]


def _earlier(path: Path) -> _Source:
    return _Source(read_scores(path), *read_summary(path), {})


def _scored_now(path: Path, reference: Path | str | None, given: dict[str, Any], progress: Progress) -> _Source:
    if reference is None:
        raise DataError(
            f"{shown(path)}: has no {SCORES}; give --reference to score its label maps, or the folder of an evaluation"
        )
    report = evaluate(path, reference, progress=progress, **given)
    hashes = {case.id: case.reference_sha256 for case in report.cases}
    rules = {rule: value for rule, value in report.settings.to_dict().items() if rule in RULES}
    return _Source(report.scores, hashes, rules, dict(report.skipped))


def _is_scored(path: Path, reference: Path | str | None) -> bool:
    """Whether the scores of ``path`` are read; else its label maps are scored."""
    return (path / SCORES).exists() and (reference is None or not holds_label_maps(path))


def _check_structures(models: Sequence[ModelScores]) -> None:
    first, *others = ({structure for _, structure in model.values} for model in models)
    for model, structures in zip(models[1:], others, strict=True):
        if structures != first:
            alone = ", ".join(sorted(structures ^ first)[:8])
            raise DataError(
                f"{model.name}: its scores name other structures than those of {models[0].name}: {alone} is in one of them "
                "only; score both with the same --labels"
            )


def _model(name: str, source: _Source, metrics: Sequence[str]) -> ModelScores:
    """What of the scores is compared; the states of all."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    states: dict[tuple[str, str], str] = {}
    cases: set[str] = set()
    for s in source.scores:
        cases.add(s.case)
        states[s.structure, s.case] = s.state
        if s.metric in metrics:
            values.setdefault((s.metric, s.structure), {})[s.case] = s.value
    return ModelScores(name, frozenset(cases), values, states, source.references)


def _check_references(models: Sequence[ModelScores]) -> None:
    known: dict[str, tuple[str, str]] = {}
    for model in models:
        for case, digest in model.references.items():
            other, expected = known.setdefault(case, (model.name, digest))
            if digest != expected:
                raise DataError(
                    f"{model.name}: case {case} was scored against another reference than in {other} (their sha256 "
                    "differ); score both against the same references"
                )


def _same_rules(made: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """How the scores of every model were made, where known. Raises DataError where two were made differently."""
    known = {name: rules for name, rules in made.items() if rules}
    first = next(iter(known), "")
    for name, rules in known.items():
        if any(rules[rule] != known[first][rule] for rule in rules.keys() & known[first].keys()):
            raise DataError(
                f"{name}: its scores were made with other settings than those of {first} ({dict(rules)}, {dict(known[first])}); "
                "score both with the same --tolerance, --boundary and --missed"
            )
    return known.get(first, {})


def _check_cases(models: Sequence[ModelScores], cases: Sequence[str]) -> None:
    for model in models:
        lacking = [case for case in cases if case not in model.cases]
        if lacking:
            listed = ", ".join(lacking[:8]) + (", ..." if len(lacking) > 8 else "")
            raise DataError(
                f"{model.name}: prediction or scores missing for {len(lacking)} of {len(cases)} case(s) that another model "
                f"has: {listed}; give them, or --skip-bad to count them against this model"
            )


def _endpoints(
    models: Sequence[ModelScores], units: Mapping[str, str], metrics: Sequence[str] | None
) -> list[Endpoint]:
    """By metric, then structure in order of appearance. Raises ConfigError for a metric unknown or without a better way."""
    known = [metric for metric, unit in units.items() if better(metric, unit)]
    for metric in metrics or ():
        if metric not in known:
            why = "is an amount, neither good nor bad" if metric in units else "is not among the scores"
            raise ConfigError(f"metric {metric} {why}; compare one of {', '.join(known)}")
    found = []
    for metric in metrics or [m for m in DEFAULT_METRICS if m in known]:
        way = better(metric, units[metric])
        structures = dict.fromkeys(key[1] for model in models for key in model.values if key[0] == metric)
        found += [Endpoint(metric, units[metric], way, structure) for structure in structures if way]
    if not found:
        raise ConfigError(f"none of {', '.join(DEFAULT_METRICS)} is scored; choose with --metric: {', '.join(known)}")
    return found


def _margins(margin: float | Mapping[str, float] | None, endpoints: Sequence[Endpoint]) -> dict[str, float]:
    units = {e.metric: e.unit for e in endpoints}
    if margin is None:
        return {}
    given = dict(margin) if isinstance(margin, Mapping) else {m: margin for m, unit in units.items() if unit == "ratio"}
    wrong = [metric for metric in given if metric not in units]
    if wrong or not given:
        raise ConfigError(
            f"margin: {', '.join(wrong) or 'no ratio'} is not compared; give METRIC=VALUE for {', '.join(units)}"
        )
    bad = [f"{metric}={value}" for metric, value in given.items() if not 0 < value < float("inf")]
    if bad:
        raise ConfigError(f"margin {', '.join(bad)} must be a number above 0, in the metric's unit")
    return given
