"""Folds by patient: the same every time, each structure spread over them, and never one patient on both sides."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from medseg.core.case import Case
from medseg.core.errors import ConfigError, DataError
from medseg.data.given_splits import Split, check_split, told_splits


def make_splits(
    cases: Sequence[Case], *, folds: int, seed: int, present: Mapping[str, Collection[str]], given: Path | None = None
) -> list[Split]:
    """One split per fold: those of the file ``given``, else those that the dataset tells, else stratified by patient.

    ``present``: the structures in each case, by its id. Raises DataError for a leak in any of them.
    """
    return told_splits(cases, given) or split_by_patient(cases, folds=folds, seed=seed, present=present)


def split_by_patient(
    cases: Sequence[Case], *, folds: int, seed: int, present: Mapping[str, Collection[str]] | None = None
) -> list[Split]:
    """One ``{"train": ids, "validation": ids}`` per fold; patients are dealt so that each has its share of every structure.

    Folds differ by one patient at most; with fewer patients than ``folds`` there are as many folds as patients. Without
    ``present`` patients are only shuffled by ``seed``. Raises DataError for a single patient.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise DataError(
            f"{len(cases)} case(s) of one patient cannot be split into training and validation; add cases, or use --fold "
            "final; where this is not one patient, set data.group, such as '.+' for each case"
        )
    held: dict[str, set[str]] = {patient: set() for patient in patients}
    for case in cases:
        held[case.patient] |= set((present or {}).get(case.id, ()))
    names = sorted(set().union(*held.values()))
    table = np.array([[name in held[patient] for name in names] for patient in patients], bool)
    folds = min(folds, len(patients))
    dealt = dict(zip(patients, _deal(table.reshape(len(patients), len(names)), folds, seed), strict=True))
    return [
        {
            "train": [c.id for c in cases if dealt[c.patient] != fold],
            "validation": [c.id for c in cases if dealt[c.patient] == fold],
        }
        for fold in range(folds)
    ]


def _deal(holds: npt.NDArray[np.bool_], folds: int, seed: int) -> list[int]:
    """The fold of each patient (n,); ``holds`` (n, structures) says who has what.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10): of the structure
    that the fewest patients left have, each patient goes where it is wanted most; here only where there is room, so that
    folds differ by one patient at most, and on a tie where the patient's other structures are wanted most.
    """
    random = np.random.default_rng(seed)
    count, totals = len(holds), np.maximum(holds.sum(axis=0), 1)
    wanted = np.tile(holds.sum(axis=0) / folds, (folds, 1))
    size = np.zeros(folds, int)
    fold_of = [-1] * count
    left = [int(n) for n in random.permutation(count)]
    while left:
        remaining = holds[left].sum(axis=0)
        rarest = int(np.argmin(np.where(remaining > 0, remaining, count + 1))) if remaining.any() else None
        batch = [n for n in left if rarest is None or holds[n, rarest]]
        for patient in batch:
            room = (size < count // folds) | (
                (size == count // folds) & ((size > count // folds).sum() < count % folds)
            )
            need = wanted[:, rarest] if rarest is not None else np.zeros(folds)
            others = (wanted * holds[patient] / totals).sum(axis=1)
            order = np.lexsort((random.random(folds), size, -others.round(9), -need.round(9), ~room))
            fold = int(order[0])
            fold_of[patient] = fold
            wanted[fold] -= holds[patient]
            size[fold] += 1
        left = [n for n in left if fold_of[n] < 0]
    return fold_of


def unlearnt(chosen: Mapping[int | str, Split], present: Mapping[str, Collection[str]]) -> list[str]:
    """In words, which structures of the dataset the training cases of a fold lack: too few patients have them."""
    names = sorted(set().union(*present.values()))
    found = []
    for fold, split in chosen.items():
        there = set().union(*(present[case] for case in split["train"]))
        lost = [name for name in names if name not in there]
        if lost:
            found.append(f"fold {fold} will not learn {', '.join(lost)}: all who have it are in its validation")
    return found


def choose_fold(splits: Sequence[Split], fold: int | str, cases: Sequence[Case]) -> Split:
    """The split of ``fold``; ``final`` trains on every case and validates on none.

    Raises ConfigError for a fold that is not there, DataError for a leak.
    """
    if fold == "final":
        return {"train": [case.id for case in cases], "validation": []}
    if not isinstance(fold, int) or fold >= len(splits):
        raise ConfigError(f"fold {fold} does not exist: {len(splits)} folds, numbered from 0")
    check_split(splits[fold], cases)
    return splits[fold]
