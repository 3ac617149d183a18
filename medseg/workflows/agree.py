"""Agreement of readers on the same cases: score every pair -> Dice, volumes, reliability; models among them; consensus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt

from medseg.core.case import check_group, patient_of
from medseg.core.errors import ConfigError
from medseg.core.files import check_writable
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.scores import defined
from medseg.io.header_names import HeaderNames, header_names_of
from medseg.io.matching import short_names
from medseg.io.nifti import label_map_bytes
from medseg.report.agreement import (
    Agreement,
    ModelAgreement,
    PairAgreement,
    ReaderAgreement,
    ReaderQuality,
    StructureAgreement,
)
from medseg.report.evaluation import Report
from medseg.statistics.agreement import limits_of_agreement, reliability
from medseg.statistics.bootstrap import mean_intervals
from medseg.statistics.consensus import LEAST_FOR_STAPLE, MOST_READERS, Method
from medseg.statistics.readers import against_readers
from medseg.workflows.consensus import CaseConsensus, consensus_of_case, files_by_case
from medseg.workflows.evaluate import evaluate

METRICS = ("dice", "volume_ml", "reference_volume_ml")
Pair = tuple[int, int]
Values = Mapping[tuple[str, str, str], float]  # by metric, structure and case
Floats = npt.NDArray[np.float64]


def agree(
    readers: Sequence[Path | str],
    *,
    models: Sequence[Path | str] = (),
    margin: float | None = None,
    consensus: Method | None = None,
    labels: Path | str | Labels | Mapping[str, int] | None = None,
    output: Path | str | None = None,
    group: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Agreement:
    """How well two or more readers (or models) agree: each is a folder of label maps with the same case ids.

    Every pair is scored as by ``evaluate``, so a case that one reader lacks, or that lies on another grid, is an error; a
    structure that one reader left out has Dice 0. Cases in which no reader drew a structure say nothing of it. ``group``
    names the patient in a case id. ``output`` is a folder for tables, figure, page and methods text.

    Each of ``models`` is set against the readers: does it agree with them as they agree with one another? ``margin`` is how
    much less Dice still counts as that. ``consensus`` makes one label map of the readers' for each case, in
    ``output/consensus``: by ``majority`` or by ``staple``, which also estimates each reader's sensitivity and specificity.

    Raises ConfigError for fewer than two readers or a choice that makes no sense, and DataError or GeometryError as
    ``evaluate`` does.
    """
    paths = [Path(path) for path in (*readers, *models)]
    _check(len(readers), margin, len(models), consensus, output)
    check_group(group)
    names = tuple(short_names(paths))
    if output is not None:
        check_writable(Path(output))
    count = len(readers)
    pairs = list(combinations(range(count), 2)) + [(r, m) for m in range(count, len(paths)) for r in range(count)]
    # The second is scored against the first: volume_ml is the second's, reference_volume_ml the first's.
    known = header_names_of([(paths[b], paths[a]) for a, b in pairs]) if labels is None else labels
    reports = {(a, b): evaluate(paths[b], paths[a], labels=known, metrics=METRICS, progress=progress) for a, b in pairs}
    study = _Study.of(names, len(readers), reports, group)
    found = Agreement(
        readers=names[: study.readers],
        structures=tuple(_structure(study, name) for name in study.structures),
        pairs=tuple(_pair(study, name, pair) for name in study.structures for pair in study.between),
        alone=tuple(_alone(study, name, reader) for name in study.structures for reader in range(study.readers)),
        models=tuple(_model(study, name, model, margin, seed) for model in study.models for name in study.structures),
        patients=study.patients,
        group=group,
        seed=seed,
    )
    if consensus is not None:
        values = {name: value for r in reports.values() for name, value in r.labels.mapping().items() if value}
        numbered = isinstance(known, HeaderNames) and known.labels is None
        named = None if numbered else reports[0, 1].labels
        cases = [
            consensus_of_case(case, files, values=values, labels=named, method=consensus)
            for case, files in files_by_case(paths[: study.readers]).items()
        ]
        found = _with_consensus(found, cases, consensus)
    if output is not None:
        found.save(Path(output))
    return found


def _check(readers: int, margin: float | None, models: int, consensus: str | None, output: Path | str | None) -> None:
    if readers < 2:
        raise ConfigError(f"{readers} reader(s) given; agree needs two or more folders of label maps")
    if margin is not None and not models:
        raise ConfigError("--margin is how much less a model may agree with the readers; give the model with --model")
    if margin is not None and not 0 < margin < 1:
        raise ConfigError(f"--margin {margin}: must be a Dice above 0 and below 1, such as 0.02")
    if consensus is None:
        return
    if consensus not in get_args(Method):
        raise ConfigError(f"--consensus {consensus!r}: choose {' or '.join(get_args(Method))}")
    if output is None:
        raise ConfigError("--consensus writes label maps: give the folder for them with --output")
    if consensus == "staple" and readers < LEAST_FOR_STAPLE:
        raise ConfigError(
            f"--consensus staple: {readers} readers cannot tell who is right, it needs {LEAST_FOR_STAPLE} or more; "
            "--consensus majority takes what both drew"
        )
    if readers > MOST_READERS:
        raise ConfigError(f"--consensus: {readers} readers are more than the {MOST_READERS} that it holds; give fewer")


@dataclass(frozen=True, eq=False)
class _Study:
    """Every pair's figures: the first ``readers`` names are readers, the others models; ``patients`` by case."""

    names: tuple[str, ...]
    readers: int
    values: Mapping[Pair, Values]
    structures: tuple[str, ...]
    patients: Mapping[str, str]

    @classmethod
    def of(cls, names: tuple[str, ...], readers: int, reports: Mapping[Pair, Report], group: str | None) -> "_Study":
        values = {pair: {(s.metric, s.structure, s.case): s.value for s in r.scores} for pair, r in reports.items()}
        structures = tuple(dict.fromkeys(name for report in reports.values() for name in report.labels.names))
        patients = {case.id: patient_of(case.id, group) for case in reports[0, 1].cases}
        return cls(names, readers, values, structures, patients)

    @property
    def between(self) -> list[Pair]:
        """The pairs of readers."""
        return list(combinations(range(self.readers), 2))

    @property
    def models(self) -> range:
        return range(self.readers, len(self.names))

    def dice(self, name: str, pairs: Sequence[Pair]) -> Floats:
        """Each case's mean over ``pairs`` (cases,); NaN where both masks of all of them are empty."""
        rows = [defined(self.values[p].get(("dice", name, case), np.nan) for p in pairs) for case in self.patients]
        return np.array([np.mean(row) if row else np.nan for row in rows])

    def volume(self, name: str, case: str, reader: int) -> float:
        """Of one reader, in mL; 0 where no pair that the reader is in knows the structure."""
        pair = (0, reader) if reader else (0, 1)
        metric = "volume_ml" if reader else "reference_volume_ml"
        return self.values[pair].get((metric, name, case), 0.0)


def _structure(study: _Study, name: str) -> StructureAgreement:
    by_case, people = study.dice(name, study.between), list(study.patients.values())
    (interval,) = mean_intervals(by_case[:, None], people)
    volumes = np.array([[study.volume(name, case, r) for r in range(study.readers)] for case in study.patients])
    drawn = volumes.any(axis=1)
    found = reliability(volumes[drawn])
    every = defined(
        values.get(("dice", name, c), np.nan)
        for p in study.between
        for values in [study.values[p]]
        for c in study.patients
    )
    return StructureAgreement(
        structure=name,
        cases=int(drawn.sum()),
        dice=float(np.nanmean(by_case)) if drawn.any() else np.nan,
        dice_low=interval.low,
        dice_high=interval.high,
        dice_interval=interval.method,
        icc=found.icc,
        icc_low=found.low,
        icc_high=found.high,
        sem_ml=found.sem,
        sdc_ml=found.sdc,
        least_dice=min(every, default=np.nan),
    )


def _pair(study: _Study, name: str, pair: Pair) -> PairAgreement:
    values, cases = study.values[pair], list(study.patients)
    volumes = np.array([[values.get((m, name, c), 0.0) for m in ("reference_volume_ml", "volume_ml")] for c in cases])
    drawn = volumes[volumes.any(axis=1)]
    dice = defined(values.get(("dice", name, c), np.nan) for c in cases)
    limits = limits_of_agreement(drawn[:, 1] - drawn[:, 0])
    mean = float(np.mean(dice)) if dice else np.nan
    first, second = (study.names[n] for n in pair)
    return PairAgreement(name, first, second, len(drawn), mean, limits.bias, limits.low, limits.high)


def _alone(study: _Study, name: str, reader: int) -> ReaderAgreement:
    """One reader against the others."""
    values = study.dice(name, [pair for pair in study.between if reader in pair])
    kept = values[~np.isnan(values)]
    return ReaderAgreement(name, study.names[reader], len(kept), float(kept.mean()) if len(kept) else np.nan)


def _model(study: _Study, name: str, model: int, margin: float | None, seed: int) -> ModelAgreement:
    between = study.dice(name, study.between)
    with_readers = study.dice(name, [(reader, model) for reader in range(study.readers)])
    found = against_readers(between, with_readers, list(study.patients.values()), seed=seed)
    verdict = None if margin is None else found.not_inferior(margin)
    return ModelAgreement(name, study.names[model], found, margin, verdict)


def _with_consensus(found: Agreement, cases: Sequence[CaseConsensus], method: Method) -> Agreement:
    files = {f"consensus/{c.case}.nii.gz": label_map_bytes(Path(f"{c.case}.nii.gz"), c.label_map) for c in cases}
    quality = []
    people = [found.patients[c.case] for c in cases]
    for structure in dict.fromkeys(name for c in cases for name in c.readers):
        for n, reader in enumerate(found.readers):
            rows = [
                (c.readers[structure].sensitivity[n], c.readers[structure].specificity[n])
                if structure in c.readers
                else (np.nan, np.nan)
                for c in cases
            ]
            figures = np.array(rows, float)
            intervals = mean_intervals(figures, people)
            means = [float(np.mean(kept)) if (kept := defined(column)) else np.nan for column in figures.T.tolist()]
            drawn = sum(structure in c.readers for c in cases)
            quality.append(ReaderQuality(structure, reader, drawn, means[0], intervals[0], means[1], intervals[1]))
    unsettled = sum(not s.settled for c in cases for s in c.readers.values())
    undecided = sum(c.undecided_ml for c in cases)
    return replace(
        found, consensus=method, files=files, quality=tuple(quality), unsettled=unsettled, undecided_ml=undecided
    )
