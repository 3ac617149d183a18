"""Folds by patient: the same every time, and never one patient on both sides."""

from collections.abc import Sequence

import numpy as np

from medseg.core.case import Case
from medseg.core.errors import ConfigError, DataError

Split = dict[str, list[str]]


def split_by_patient(cases: Sequence[Case], *, folds: int, seed: int) -> list[Split]:
    """One ``{"train": ids, "validation": ids}`` per fold; patients are shuffled by ``seed`` and dealt to the folds.

    With fewer patients than ``folds`` there are as many folds as patients. Raises DataError for a single patient.
    """
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        raise DataError(
            f"{len(cases)} case(s) of one patient cannot be split into training and validation; add cases, or use --fold final"
        )
    order = np.random.default_rng(seed).permutation(len(patients))
    fold_of = {patients[p]: n % min(folds, len(patients)) for n, p in enumerate(order)}
    return [
        {
            "train": [c.id for c in cases if fold_of[c.patient] != fold],
            "validation": [c.id for c in cases if fold_of[c.patient] == fold],
        }
        for fold in range(min(folds, len(patients)))
    ]


def check_split(split: Split, cases: Sequence[Case]) -> None:
    """Raise DataError if a patient is on both sides of ``split`` or a case of it is not in the dataset."""
    patient = {case.id: case.patient for case in cases}
    unknown = [c for side in split.values() for c in side if c not in patient]
    if unknown:
        raise DataError(f"splits.json names {unknown[0]!r}, which is not in the dataset")
    training = {patient[c]: c for c in reversed(split["train"])}
    for held_out in split["validation"]:
        if patient[held_out] in training:  # told by case ids: a patient's own name is nobody's business
            raise DataError(
                f"{training[patient[held_out]]} (training) and {held_out} (validation) are of one patient: a leak; put "
                "both on one side of the split"
            )


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
