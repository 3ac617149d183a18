"""Splits that somebody else made, all held to one check: of another run, of nnU-Net, of a table's column."""

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from medseg.core.case import Case
from medseg.core.errors import DataError

Split = dict[str, list[str]]


def told_splits(cases: Sequence[Case], file: Path | None) -> list[Split] | None:
    """The splits in ``file``, else those of the cases' own folds; None where nobody made any. Raises DataError for a leak."""
    if file is not None:
        return read_splits(file, cases)
    return splits_of_folds(cases) if any(case.fold is not None for case in cases) else None


def read_splits(file: Path, cases: Sequence[Case]) -> list[Split]:
    """The folds in ``file``: a list of ``{"train": ids, "validation": ids}``, where nnU-Net writes ``val``.

    Raises DataError naming fold and case where it cannot be read, a fold leaks, trains or validates nothing or names a case
    twice or one that is not there, or where a case of the dataset is in no fold.
    """
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{file}: not found; data.splits is a splits.json or nnU-Net's splits_final.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(content, list) or not content:
        raise DataError(f'{file}: expected a list of folds, each {{"train": [ids], "validation": [ids]}}')
    splits = [_split(f"{file}, fold {fold}", entry) for fold, entry in enumerate(content)]
    for fold, split in enumerate(splits):
        check_split(split, cases, f"{file}, fold {fold}")
    named = {case for split in splits for side in split.values() for case in side}
    lost = [case.id for case in cases if case.id not in named]
    if lost:
        raise DataError(
            f"{file}: {lost[0]} of the dataset is in no fold ({len(lost)} such cases): neither learnt nor tested"
        )
    return splits


def splits_of_folds(cases: Sequence[Case]) -> list[Split]:
    """The splits that ``Case.fold`` tells: each fold validates its own cases and trains on the others.

    Raises DataError where a case has no fold, a fold no case, or one patient is in two folds.
    """
    folds = sorted({-1 if case.fold is None else case.fold for case in cases})
    if folds != list(range(len(folds))) or len(folds) < 2:
        told = ", ".join("none" if fold < 0 else str(fold) for fold in folds[:8])
        raise DataError(f"fold: the table's folds are {told}; expected 0, 1, ... without a gap, at least two of them")
    splits = [
        {"train": [c.id for c in cases if c.fold != fold], "validation": [c.id for c in cases if c.fold == fold]}
        for fold in folds
    ]
    for fold, split in enumerate(splits):
        check_split(split, cases, f"fold {fold} of the table")
    return splits


def check_split(split: Split, cases: Sequence[Case], source: str = "splits.json") -> None:
    """Raise DataError if a patient or a case is on both sides of ``split``, or a case of it is not in the dataset."""
    patient = {case.id: case.patient for case in cases}
    for name in (name for side in split.values() for name in side if name not in patient):
        near = get_close_matches(name, patient, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{source} names {name!r}, which is not in the dataset{meant}")
    training = {patient[c]: c for c in reversed(split["train"])}
    for held_out in split["validation"]:
        other = held_out if held_out in split["train"] else training.get(patient[held_out])
        if other == held_out:
            raise DataError(
                f"{source}: {held_out} is in training and in validation: a leak; take it out of one of them"
            )
        if other is not None:  # told by case ids: a patient's own name is nobody's business
            raise DataError(
                f"{source}: {other} (training) and {held_out} (validation) are of one patient: a leak; put both on one "
                "side of the split"
            )


def _split(where: str, entry: Any) -> Split:
    sides = entry if isinstance(entry, dict) else {}
    split = {"train": sides.get("train"), "validation": sides.get("validation", sides.get("val"))}
    for side, names in split.items():
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise DataError(f"{where}: {side} must be a list of case ids, got {str(names)[:60]}")
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise DataError(f"{where}: {twice[0]} is twice in {side}")
    return {side: list(names) for side, names in split.items() if names}
