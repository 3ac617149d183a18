"""Everything that is wrong with a dataset, found in one reading before a second of training."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from medseg.core.case import Case
from medseg.core.errors import DataError
from medseg.core.findings import Finding, merged, named
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.data.examine import CONSTANT, NO_STRUCTURE, Examined, as_label, examine
from medseg.data.likeness import alike, groups
from medseg.data.measure import FOREGROUND_SAMPLES, CaseFacts
from medseg.data.outliers import odd_cases

__all__ = [
    "FOREGROUND_SAMPLES",
    "CaseFacts",
    "all_together",
    "as_label",
    "check_dataset",
    "examined",
    "joined",
    "odd_but_usable",
    "structures_in",
    "warnings_of",
]

_CASE_BY_CASE = {NO_STRUCTURE: "empty-label", CONSTANT: "constant-image", "": "reading"}
SAME_SCAN, SAME_PATIENT = "same-scan", "same-patient"
_ABOUT_CASES = (SAME_SCAN, SAME_PATIENT, "similar-images")  # sentences that lack their subject
WARNINGS_TOLD = 12
ODD_CASES_NAMED = 3  # where more share a warning, it is said once
_THREADS = 4
_PLACEHOLDER_CASES = 3  # one PatientID for so many cases, and for all of them, is what an anonymiser wrote


def check_dataset(cases: Sequence[Case], labels: Labels, *, progress: Progress = silent) -> list[CaseFacts]:
    """Read every case once; return its facts. Raises DataError naming each case that cannot be used and why."""
    found = list(examined(cases, labels, progress=progress))
    facts = [one.facts for one in found if one.facts is not None]
    together = all_together(facts, labels)
    refuse([*(finding for one in found for finding in one.findings), *together])
    return facts


def structures_in(facts: Sequence[CaseFacts]) -> dict[str, list[str]]:
    """The structures that each case holds, by its id."""
    return {f.case.id: [name for name, voxels in f.voxels.items() if voxels] for f in facts}


def refuse(findings: Sequence[Finding]) -> None:
    """Raise DataError that tells the errors among ``findings``, the first five of them whole."""
    problems = [one.line for one in findings if one.severity == "error"]
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise DataError(f"{len(problems)} problem(s) in the dataset: " + "; ".join(problems[:5]) + more)


def examined(cases: Sequence[Case], labels: Labels | None, *, progress: Progress = silent) -> Iterator[Examined]:
    """Each case read and examined, several at a time, in the order of ``cases``; memory does not grow with their number."""
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for done, result in enumerate(pool.map(lambda case: examine(case, labels), cases), 1):
            progress("check", done, len(cases))
            yield result


def all_together(facts: Sequence[CaseFacts], labels: Labels) -> list[Finding]:
    """What makes a set of sound cases unusable: images twice, other channels, nothing to segment."""
    return [*_identical(facts), *_other_channels(facts), *_nothing_to_learn(facts, labels)]


def warnings_of(facts: Sequence[CaseFacts], labels: Labels, *, modality: str = "other") -> list[str]:
    """What is odd but usable, in a few lines: constant images, cases without any structure, leaks, outliers."""
    lines = []
    for one in merged(odd_but_usable(facts, labels, modality=modality)):
        if one.severity != "warning":
            continue
        if one.code not in _CASE_BY_CASE.values():
            lines.append(f"{named(one.cases)} {one.message}" if one.code in _ABOUT_CASES else one.message)
        elif len(one.cases) <= ODD_CASES_NAMED:
            lines += [f"{case}: {one.message}" for case in one.cases]
        else:
            lines.append(f"{one.cases[0]} and {len(one.cases) - 1} more: {one.message}")
    more = len(lines) - WARNINGS_TOLD
    return lines if more <= 0 else [*lines[:WARNINGS_TOLD], f"and {more} more; `medseg check` tells all of them"]


def odd_but_usable(
    facts: Sequence[CaseFacts], labels: Labels, *, modality: str = "other", fold_of: Mapping[str, int] | None = None
) -> list[Finding]:
    """Warnings and remarks on usable cases. ``fold_of`` is the fold that each case would be in without them."""
    found = [
        Finding(_CASE_BY_CASE.get(warning, _CASE_BY_CASE[""]), "warning", (f.case.id,), warning)
        for f in facts
        for warning in f.warnings
    ]
    absent = [name for name in labels.names if facts and not any(f.voxels.get(name) for f in facts)]
    found += [
        Finding("absent-structure", "warning", (), f"structure {name!r} is in no case: it will not be learnt")
        for name in absent
    ]
    return [
        *found,
        *_same_scans(facts, fold_of or {}),
        *_same_patients(facts),
        *odd_cases(facts, labels, modality=modality),
    ]


def joined(cases: Sequence[Case], facts: Sequence[CaseFacts]) -> list[Case]:
    """``cases`` with one patient for those that show the same scan, so that no fold parts them."""
    patient = {case.patient: case.patient for case in cases}

    def root(name: str) -> str:
        while patient[name] != name:
            name = patient[name]
        return name

    by_id = {case.id: case.patient for case in cases}
    for one in _same_scans(facts, {}):
        if one.code != SAME_SCAN:
            continue  # they may only look alike
        first, *others = (root(by_id[case]) for case in one.cases)
        for other in others:
            patient[root(other)] = root(first)
    return [replace(case, patient=root(case.patient)) for case in cases]


def _identical(facts: Sequence[CaseFacts]) -> list[Finding]:
    """Equal images under two ids: one patient could be in training and in validation."""
    first: dict[str, str] = {}
    problems = []
    for f in facts:
        if not f.content:
            continue  # constant images are equal without being one scan
        if f.content in first:
            pair = first[f.content], f.case.id
            text = f"{pair[0]} and {pair[1]} have identical images (duplicate): remove one, or they leak across folds"
            problems.append(Finding("identical-images", "error", pair, text, text))
        first.setdefault(f.content, f.case.id)
    return problems


def _same_scans(facts: Sequence[CaseFacts], fold_of: Mapping[str, int]) -> list[Finding]:
    """Images that are parts or copies of one scan, though not equal: never to be split between training and validation."""
    pairs = [
        one
        for one in alike([f.look for f in facts])
        if not facts[one.first].content or facts[one.first].content != facts[one.second].content
    ]
    found = []
    for members, those in groups([one for one in pairs if one.how == "voxels"]):
        part = min(one.part for one in those)
        text = f"show one scan: they share {part:.0%} of the smaller image's voxels (cut out, moved, mirrored or saved anew)"
        found.append(_one_patient(SAME_SCAN, [facts[n] for n in members], text, fold_of))
    for members, those in groups([one for one in pairs if one.how == "detail"]):
        cases = tuple(facts[n].case.id for n in members)
        if len({facts[n].case.patient for n in members}) > 1:
            text = (
                f"look alike to the detail (correlation {min(one.part for one in those):.2f}), as resampled or filtered copies "
                "of one scan do: if they are, remove all but one, or name their patient by data.group"
            )
            found.append(Finding("similar-images", "warning", cases, text))
    return found


def _same_patients(facts: Sequence[CaseFacts]) -> list[Finding]:
    """Scans of one DICOM patient that the config or the dataset calls different patients; the PatientID is not told."""
    by_id: dict[str, list[CaseFacts]] = {}
    for f in facts:
        if f.patient_id:
            by_id.setdefault(f.patient_id, []).append(f)
    if len(by_id) == 1 and len(facts) >= _PLACEHOLDER_CASES:
        return []  # the placeholder of an anonymiser
    text = (
        "have the same DICOM PatientID, but are called different patients (data.group, or the dataset itself): if they are "
        "one, they leak across folds; correct the group"
    )
    several = [group for group in by_id.values() if len({f.case.patient for f in group}) > 1]
    return [Finding(SAME_PATIENT, "warning", tuple(f.case.id for f in group), text) for group in several]


def _one_patient(code: str, facts: Sequence[CaseFacts], text: str, fold_of: Mapping[str, int]) -> Finding:
    cases = tuple(f.case.id for f in facts)
    if len({f.case.patient for f in facts}) == 1:
        return Finding(code, "info", cases, f"{text}; they are of one patient, so no fold parts them")
    folds = sorted({fold_of[case] for case in cases if case in fold_of})
    leak = (
        f"; as patients of their own they would lie in folds {' and '.join(map(str, folds))}" if len(folds) > 1 else ""
    )
    advice = "training keeps them in one fold: remove all but one, or name their patient by data.group"
    return Finding(code, "warning", cases, f"{text}{leak}, which would leak; {advice}")


def _other_channels(facts: Sequence[CaseFacts]) -> list[Finding]:
    counts = Counter(f.channels for f in facts)
    if len(counts) < 2:
        return []
    usual = counts.most_common(1)[0][0]
    like = next(f.case.id for f in facts if f.channels == usual)
    return [
        Finding("channels", "error", (f.case.id,), text, f"{f.case.id} {text}")
        for f in facts
        if f.channels != usual
        for text in [f"has {f.channels} channel(s), {like} has {usual}; all must agree"]
    ]


def _nothing_to_learn(facts: Sequence[CaseFacts], labels: Labels) -> list[Finding]:
    if not facts or any(f.voxels.get(name) for f in facts for name in labels.names):
        return []
    names = " or ".join(labels.names)
    text = f"no case holds any foreground: no {names} in {len(facts)} label map(s), all are empty"
    return [Finding("no-foreground", "error", (), text, text)]
