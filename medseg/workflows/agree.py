"""Agreement of readers on the same cases: score every pair of readers -> Dice, volumes, reliability."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from medseg.core.case import check_group, patient_of
from medseg.core.errors import ConfigError
from medseg.core.files import check_writable
from medseg.core.labels import Labels
from medseg.core.progress import Progress, silent
from medseg.core.scores import defined
from medseg.io.matching import short_names
from medseg.report.agreement import Agreement, PairAgreement, StructureAgreement
from medseg.report.evaluation import Report
from medseg.statistics.agreement import limits_of_agreement, reliability
from medseg.statistics.bootstrap import mean_intervals
from medseg.workflows.evaluate import evaluate

METRICS = ("dice", "volume_ml", "reference_volume_ml")
Pair = tuple[int, int]
Values = Mapping[tuple[str, str, str], float]  # by metric, structure and case


def agree(
    readers: Sequence[Path | str],
    *,
    labels: Path | str | Labels | Mapping[str, int] | None = None,
    output: Path | str | None = None,
    group: str | None = None,
    progress: Progress = silent,
) -> Agreement:
    """How well two or more readers (or models) agree: each is a folder of label maps with the same case ids.

    Every pair is scored as by ``evaluate``, so a case that one reader lacks, or that lies on another grid, is an error; a
    structure that one reader left out has Dice 0. Cases in which no reader drew a structure say nothing of it. ``group``
    names the patient in a case id. ``output`` is a folder for ``agreement.csv`` and ``pairs.csv``.

    Raises ConfigError for fewer than two readers, and DataError or GeometryError as ``evaluate`` does.
    """
    paths = [Path(reader) for reader in readers]
    if len(paths) < 2:
        raise ConfigError(f"{len(paths)} reader(s) given; agree needs two or more folders of label maps")
    names = tuple(short_names(paths))
    check_group(group)
    if output is not None:
        check_writable(Path(output))
    pairs = list(combinations(range(len(paths)), 2))
    # The second is scored against the first: volume_ml is the second's, reference_volume_ml the first's.
    reports = {
        (a, b): evaluate(paths[b], paths[a], labels=labels, metrics=METRICS, progress=progress) for a, b in pairs
    }
    values = {pair: {(s.metric, s.structure, s.case): s.value for s in r.scores} for pair, r in reports.items()}
    structures = list(dict.fromkeys(name for report in reports.values() for name in report.labels.names))
    patients = {c.id: patient_of(c.id, group) for c in reports[0, 1].cases}
    found = Agreement(
        names,
        tuple(_structure(name, values, patients, len(paths)) for name in structures),
        tuple(_pair(name, values[p], (names[p[0]], names[p[1]]), reports[p]) for name in structures for p in pairs),
    )
    if output is not None:
        found.save(Path(output))
    return found


def _structure(
    name: str, values: Mapping[Pair, Values], patients: Mapping[str, str], readers: int
) -> StructureAgreement:
    volumes = np.array([[_volume(values, name, case, reader) for reader in range(readers)] for case in patients])
    drawn = [case for case, row in zip(patients, volumes, strict=True) if row.any()]
    dice = [[of_pair.get(("dice", name, case), np.nan) for of_pair in values.values()] for case in drawn]
    by_case = np.array([np.mean(defined(row)) for row in dice])
    (interval,) = mean_intervals(by_case[:, None], [patients[case] for case in drawn])
    found = reliability(volumes[volumes.any(axis=1)])
    return StructureAgreement(
        structure=name,
        cases=len(drawn),
        dice=float(by_case.mean()) if drawn else np.nan,
        dice_low=interval.low,
        dice_high=interval.high,
        dice_interval=interval.method,
        icc=found.icc,
        icc_low=found.low,
        icc_high=found.high,
        sem_ml=found.sem,
        sdc_ml=found.sdc,
        least_dice=min((v for row in dice for v in defined(row)), default=np.nan),
    )


def _volume(values: Mapping[Pair, Values], name: str, case: str, reader: int) -> float:
    """Of one reader; 0 where no pair that the reader is in knows the structure."""
    pair = (0, reader) if reader else (0, 1)
    metric = "volume_ml" if reader else "reference_volume_ml"
    return values[pair].get((metric, name, case), 0.0)


def _pair(name: str, values: Values, readers: tuple[str, str], report: Report) -> PairAgreement:
    cases = [c.id for c in report.cases]
    volumes = np.array([[values.get((m, name, c), 0.0) for m in ("reference_volume_ml", "volume_ml")] for c in cases])
    drawn = volumes[volumes.any(axis=1)]
    dice = defined(values.get(("dice", name, c), np.nan) for c in cases)
    limits = limits_of_agreement(drawn[:, 1] - drawn[:, 0])
    mean = float(np.mean(dice)) if dice else np.nan
    return PairAgreement(name, *readers, len(drawn), mean, limits.bias, limits.low, limits.high)
