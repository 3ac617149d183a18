"""Check: config -> cases -> each read once -> findings, all at once -> a corrected copy, if asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg.core.case import Case
from medseg.core.config import Config, config_from, despite_labels, load_despite_labels, override
from medseg.core.errors import ConfigError, DataError, MedsegError
from medseg.core.files import check_writable, write_json
from medseg.core.findings import Finding, merged
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.data.check import all_together, examined, joined, odd_but_usable, structures_in
from medseg.data.corrected import TABLE, require_new, write_corrected
from medseg.data.examine import Examined, unnamed
from medseg.data.given_splits import Split
from medseg.data.layouts import list_cases, remarks
from medseg.data.layouts.common import gathered
from medseg.data.measure import CaseFacts
from medseg.data.naming import labels_block, names_beside, yaml_text
from medseg.data.split import choose_fold, make_splits
from medseg.report.check import CheckedCase, Diagnosis, Fixed


def check(
    config: Config | Path | str | Mapping[str, Any],
    *,
    overrides: Mapping[str, str] | None = None,
    output: Path | str | None = None,
    fix: Path | str | None = None,
    progress: Progress = silent,
) -> Diagnosis:
    """Read every case of the dataset that ``config`` names once, and return everything that is wrong or odd with it.

    ``config`` is a file, a mapping or a Config; its labels may be missing or wrong: the diagnosis then holds those that fit.
    ``output`` is a JSON file for the diagnosis. ``fix`` is a new folder for a copy in which is put right what can be
    (``data.repair``); it is there only if it passes the check itself. Raises ConfigError where anything else in the config
    is wrong, OutputError where ``fix`` holds something; whatever is wrong with the data is a finding.
    """
    if output is not None:
        check_writable(Path(output).parent)
    if fix is not None:
        require_new(Path(fix))
    asked, wrong = _config(config, dict(overrides or {}))
    name = str(config) if isinstance(config, Path | str) else "config"
    read = _diagnosed(asked, wrong, name, progress)
    found = read.diagnosis
    if fix is not None:
        found = replace(found, fixed=_fixed(asked, read, Path(fix).absolute(), progress))
    if output is not None:
        write_json(Path(output), found.content())
    return found


@dataclass(frozen=True, eq=False)
class _Read:
    """A diagnosis and what it is of: the cases, no patient among them twice, and the labels that they were read with."""

    diagnosis: Diagnosis
    cases: list[Case]
    labels: Labels
    channels: int | None


def _diagnosed(config: Config, wrong: ConfigError | None, name: str, progress: Progress) -> _Read:
    """The diagnosis of a dataset; ``wrong`` is what is wrong with the labels of ``config``."""
    findings = [_labels_wrong(wrong)] if wrong else []
    cases, labels, unlisted = _listed(config, None if wrong else config.structure_labels)
    findings += unlisted
    results = list(examined(cases, labels, progress=progress))
    contradicted = labels is None and wrong is None
    mapping, origin = _names(config, results, labels, contradicted=contradicted)
    known = Labels.from_mapping(mapping) if len(mapping) > 1 else config.structure_labels
    facts = [_renamed(one.facts, known) for one in results if one.facts is not None]
    findings += [finding for one in results for finding in one.findings]
    findings += all_together(facts, labels or known)
    folds, unsplit = _folds(config, cases, facts)
    findings += unsplit
    if labels and cases:
        findings += [Finding("left-out", "warning", (), remark) for remark in remarks(config.data, labels)]
    findings += odd_but_usable(facts, labels or known, modality=config.modality, fold_of=folds)
    findings += _parts(config)
    unfit = labels is None or any(one.code == "label-values" for one in findings)
    block = labels_block(mapping) if unfit and len(mapping) > 1 else ""
    if block:
        findings = [
            replace(one, message=f"{one.message}; paste the labels below") if one.code == "labels" else one
            for one in findings
        ]
    diagnosis = Diagnosis(
        config=name,
        cases=_checked(results, facts, findings),
        labels=known.mapping(),
        findings=tuple(merged(findings)),
        labels_block=block,
        names_from=origin if unfit else "",
    )
    counts = Counter(f.channels for f in facts)
    usual = counts.most_common(1)[0][0] if counts else None
    return _Read(diagnosis, joined(cases, facts), labels or known, usual)


def _listed(config: Config, labels: Labels | None) -> tuple[list[Case], Labels | None, list[Finding]]:
    """The cases whose files are there, the labels unless the dataset contradicts them, and what is wrong with the others."""
    try:
        with gathered() as lost:
            listed = list_cases(config.data, labels)
    except MedsegError as error:
        if labels is not None and isinstance(error, ConfigError):
            cases, _, found = _listed(config, None)
            if cases:  # so it was the labels
                return cases, None, [_labels_wrong(error), *found]
        return [], labels, [Finding("layout", "error", (), str(error), str(error), error.exit_code)]
    cases = [case for case in listed if not any(case.id in ids for ids, _ in lost)]
    return cases, labels, [Finding("layout", "error", ids, str(error), str(error)) for ids, error in lost]


def _fixed(config: Config, read: _Read, folder: Path, progress: Progress) -> Fixed:
    """Write the corrected copy into ``folder`` and say what became of the cases; it passes the check or is not there."""

    def accept(table: Path) -> None:
        named = {one.name: one.value for one in read.labels.structures} | {read.labels.background: 0}
        copied = {"layout": "csv", "table": table}
        asked = config_from({**config.model_dump(), "data": copied, "labels": named})
        problem = _diagnosed(asked, None, str(table), silent).diagnosis.problem
        if problem:
            raise DataError(f"{folder}: not written, because the corrected copy would still be refused: {problem}")

    if not read.cases:
        raise DataError(f"{folder}: not written, because there is no case to copy: {read.diagnosis.problem}")
    unlisted = {case: one.message for one in read.diagnosis.errors for case in one.cases if one.code == "layout"}
    log = write_corrected(
        read.cases,
        read.labels,
        folder,
        channels=read.channels,
        lost=unlisted,
        accept=accept,
        progress=progress,
    )
    return Fixed(
        folder=str(folder),
        summary=log.summary,
        lines=tuple(log.lines),
        left_out=log.count("left out"),
        data_block=f"data:\n  layout: csv\n  table: {yaml_text(str(folder / TABLE))}",
    )


def _config(
    config: Config | Path | str | Mapping[str, Any], overrides: dict[str, str]
) -> tuple[Config, ConfigError | None]:
    if isinstance(config, Config):
        return despite_labels(override(config.model_dump(), overrides))
    if isinstance(config, Mapping):
        return despite_labels(override(dict(config), overrides))
    return load_despite_labels(config, overrides)


def _labels_wrong(error: ConfigError) -> Finding:
    return Finding("labels", "error", (), str(error), str(error), error.exit_code)


def _parts(config: Config) -> list[Finding]:
    """What the config names that cannot be built, and a device that is not here."""
    from medseg.inference.device import choose_device  # torch is loaded only once the data is read
    from medseg.training.parts import require_parts

    try:
        require_parts(config, choose_device(config.device))
    except ConfigError as error:
        return [Finding("config", "error", (), str(error), str(error), error.exit_code)]
    except MedsegError as error:
        return [Finding("device", "info", (), str(error))]
    return []


def _names(
    config: Config, results: Sequence[Examined], labels: Labels | None, *, contradicted: bool
) -> tuple[dict[str, int], str]:
    """``{name: value}`` of all values found, by the config, the dataset and its label files, and whence the names are.

    Where the dataset contradicts the config's names, its own are taken.
    """
    values = sorted({value for one in results for value in one.values})
    mapping = config.structure_labels.mapping() if labels else {"background": 0}
    own = dict.fromkeys(name for one in results for name in one.named.values())
    if own and not labels:
        return {"background": 0, **{name: n for n, name in enumerate(own, 1)}}, "the structures' own names"
    asked = {} if contradicted else {value: name for name, value in config.structure_labels.mapping().items()}
    named, origin = names_beside(config.data, values, [one.case.reference for one in results])
    for value in values:
        if value not in mapping.values():
            name = next((n for n in (asked.get(value), named.get(value)) if n and n != unnamed(value)), unnamed(value))
            mapping[name if name not in mapping else f"{name}_{value}"] = value
    used = origin if any(named.get(value) == name for name, value in mapping.items() if value) else "the values alone"
    return mapping, used


def _renamed(facts: CaseFacts, labels: Labels) -> CaseFacts:
    """``facts`` with the names that were found for values of which the reader knew none."""
    names = {unnamed(one.value): one.name for one in labels.structures}
    return replace(
        facts,
        voxels={names.get(name, name): n for name, n in facts.voxels.items()},
        extents={names.get(name, name): extent for name, extent in facts.extents.items()},
    )


def _folds(config: Config, cases: Sequence[Case], facts: Sequence[CaseFacts]) -> tuple[dict[str, int], list[Finding]]:
    """The fold that would validate each case by its patient alone, and why there can be no folds, or not those asked for."""
    if not cases or config.train.fold == "final":
        return {}, []
    try:
        splits = _splits(config, joined(cases, facts), facts)
        for fold in range(len(splits)) if config.train.fold == "all" else (config.train.fold,):
            choose_fold(splits, fold, joined(cases, facts))
        splits = _splits(config, cases, facts)
    except MedsegError as error:
        return {}, [Finding("split", "error", (), str(error), exit_code=error.exit_code)]
    return {case: fold for fold, split in enumerate(splits) for case in split["validation"]}, []


def _splits(config: Config, cases: Sequence[Case], facts: Sequence[CaseFacts]) -> list[Split]:
    present: dict[str, list[str]] = {case.id: [] for case in cases} | structures_in(facts)
    asked = config.train
    return make_splits(cases, folds=asked.folds, seed=asked.seed, present=present, given=config.data.splits)


def _checked(
    results: Sequence[Examined], facts: Sequence[CaseFacts], findings: Sequence[Finding]
) -> tuple[CheckedCase, ...]:
    bad = {case for one in findings if one.severity == "error" for case in one.cases}
    by_id = {f.case.id: f for f in facts}
    checked = []
    for one in results:
        case, f = one.case, by_id.get(one.case.id)
        usable = f is not None and case.id not in bad
        if f is None:
            checked.append(CheckedCase(case.id, case.patient, usable))
            continue
        volumes = {name: round(f.volume_ml(name), 6) for name in f.voxels}
        checked.append(
            CheckedCase(case.id, case.patient, usable, f.shape, f.spacing_mm, f.orientation, f.channels, volumes)
        )
    return tuple(checked)
