"""Folds by patient: no leak, nothing lost, the same every time."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.case import Case
from medseg.core.errors import ConfigError, DataError
from medseg.data.split import check_split, choose_fold, split_by_patient


def cases_of(patients: list[int]) -> list[Case]:
    return [Case(f"case_{n}", f"patient_{p}", (), Path("label.nii")) for n, p in enumerate(patients)]


@given(
    patients=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda p: len(set(p)) > 1),
    folds=st.integers(2, 8),
    seed=st.integers(0, 5),
)
def test_every_case_validates_once_and_no_patient_is_on_both_sides(patients, folds, seed):
    cases = cases_of(patients)
    splits = split_by_patient(cases, folds=folds, seed=seed)
    assert splits == split_by_patient(cases, folds=folds, seed=seed)
    assert len(splits) == min(folds, len(set(patients)))
    patient = {case.id: case.patient for case in cases}
    assert sorted(c for split in splits for c in split["validation"]) == sorted(patient)
    sizes = []
    for split in splits:
        assert sorted(split["train"] + split["validation"]) == sorted(patient)
        assert not {patient[c] for c in split["train"]} & {patient[c] for c in split["validation"]}
        assert split["train"]
        assert split["validation"]
        check_split(split, cases)
        sizes.append(len({patient[c] for c in split["validation"]}))
    assert max(sizes) - min(sizes) <= 1


def test_the_order_of_the_cases_does_not_matter():
    cases = cases_of([3, 1, 4, 1, 5, 9, 2, 6])
    forward, backward = split_by_patient(cases, folds=3, seed=0), split_by_patient(cases[::-1], folds=3, seed=0)
    assert [{k: sorted(v) for k, v in s.items()} for s in forward] == [
        {k: sorted(v) for k, v in s.items()} for s in backward
    ]


def test_another_seed_is_another_split():
    cases = cases_of(list(range(20)))
    assert split_by_patient(cases, folds=5, seed=0) != split_by_patient(cases, folds=5, seed=1)


@pytest.mark.parametrize("patients", [[1], [1, 1, 1]])
def test_one_patient_cannot_be_split(patients):
    with pytest.raises(DataError, match=r"one patient.*--fold final"):
        split_by_patient(cases_of(patients), folds=5, seed=0)


def test_final_trains_on_every_case_and_validates_on_none():
    assert choose_fold([], "final", cases_of([1, 1, 2])) == {"train": ["case_0", "case_1", "case_2"], "validation": []}


@pytest.mark.parametrize("fold", [3, 7, "all", "first"])
def test_a_fold_that_is_not_there_is_refused(fold):
    cases = cases_of([1, 2, 3])
    with pytest.raises(ConfigError, match=f"fold {fold} does not exist: 3 folds"):
        choose_fold(split_by_patient(cases, folds=5, seed=0), fold, cases)


def test_a_split_that_leaks_is_refused():
    cases = cases_of([1, 1, 2])
    leak = {"train": ["case_0", "case_2"], "validation": ["case_1"]}
    with pytest.raises(DataError, match="leak"):
        check_split(leak, cases)
    with pytest.raises(DataError, match="leak"):
        choose_fold([leak], 0, cases)


def test_a_split_of_another_dataset_is_refused():
    with pytest.raises(DataError, match=r"case_9.*not in the dataset"):
        check_split({"train": ["case_9"], "validation": ["case_0"]}, cases_of([1, 2]))
