"""Folds by patient: no leak, nothing lost, the same every time."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.core.case import Case
from medseg.core.config_data import DataConfig
from medseg.core.errors import ConfigError, DataError
from medseg.data.given_splits import check_split
from medseg.data.layouts import list_cases
from medseg.data.split import choose_fold, make_splits, split_by_patient, unlearnt


def cases_of(patients: list[int]) -> list[Case]:
    return [Case(f"case_{n}", f"patient_{p}", (), Path("label.nii")) for n, p in enumerate(patients)]


STRUCTURES = ("liver", "spleen", "tumour")


@given(
    patients=st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda p: len(set(p)) > 1),
    held=st.lists(st.sets(st.sampled_from(STRUCTURES)), min_size=60, max_size=60),
    folds=st.integers(2, 8),
    seed=st.integers(0, 5),
)
def test_every_case_validates_once_and_no_patient_is_on_both_sides(patients, held, folds, seed):
    cases = cases_of(patients)
    present = {case.id: held[n] for n, case in enumerate(cases)}
    splits = split_by_patient(cases, folds=folds, seed=seed, present=present)
    assert splits == split_by_patient(cases, folds=folds, seed=seed, present=present)
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


def counts(splits, present, structure, side):
    """In how many cases of each fold's side ``structure`` is."""
    return [sum(structure in present[case] for case in split[side]) for split in splits]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("owners", [2, 3, 5, 6, 11])
def test_a_rare_structure_is_in_every_training_and_where_it_can_be_in_every_validation(owners, seed):
    cases = cases_of(list(range(40)))
    random = np.random.default_rng(owners)
    rare = set(random.permutation(40)[:owners])
    present = {c.id: {"liver"} | ({"tumour"} if n in rare else set()) for n, c in enumerate(cases)}
    splits = split_by_patient(cases, folds=5, seed=seed, present=present)
    held_out = counts(splits, present, "tumour", "validation")
    assert max(held_out) - min(held_out) <= 1  # as even as can be: 2 owners stand in two folds, 11 in all
    assert min(counts(splits, present, "tumour", "train")) >= owners - 1 - (owners > 5) - (owners > 10) >= 1
    assert unlearnt(dict(enumerate(splits)), present) == []


def test_many_structures_lie_more_evenly_than_by_chance():
    """30 skewed datasets of 12 structures: the spread of their validation counts is half of that of shuffled patients."""
    spread = {"stratified": [], "shuffled": []}
    for seed in range(30):
        random = np.random.default_rng(seed)
        frequency = random.uniform(0.02, 0.6, 12)
        cases = cases_of(list(range(60)))
        present = {case.id: {f"s{n}" for n in np.flatnonzero(random.random(12) < frequency)} for case in cases}
        for name, known in (("stratified", present), ("shuffled", None)):
            splits = split_by_patient(cases, folds=5, seed=seed, present=known)
            spread[name] += [np.std(counts(splits, present, f"s{n}", "validation")) for n in range(12)]
    assert np.mean(spread["stratified"]) < 0.5 * np.mean(spread["shuffled"])


def test_what_a_fold_cannot_learn_is_told():
    cases = cases_of([0, 1, 2, 3])
    present = {case.id: {"liver"} | ({"tumour"} if n == 2 else set()) for n, case in enumerate(cases)}
    splits = split_by_patient(cases, folds=2, seed=0, present=present)
    alone = next(fold for fold, split in enumerate(splits) if "case_2" in split["validation"])
    assert unlearnt(dict(enumerate(splits)), present) == [
        f"fold {alone} will not learn tumour: all who have it are in its validation"
    ]
    assert unlearnt({"final": choose_fold([], "final", cases)}, present) == []


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
    with pytest.raises(DataError, match=r"case_0 \(training\) and case_1 \(validation\) are of one patient: a leak"):
        check_split(leak, cases)
    with pytest.raises(DataError, match="leak"):
        choose_fold([leak], 0, cases)


def test_a_split_of_another_dataset_is_refused():
    with pytest.raises(DataError, match=r"case_9.*not in the dataset"):
        check_split({"train": ["case_9"], "validation": ["case_0"]}, cases_of([1, 2]))


def given_file(folder, content):
    path = folder / "splits.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("key", ["validation", "val"], ids=["medseg", "nnU-Net"])
def test_given_splits_are_taken_as_they_are(tmp_path, key):
    cases = cases_of([1, 2, 3])
    told = [(["case_0", "case_1"], ["case_2"]), (["case_2"], ["case_1", "case_0"])]
    file = given_file(tmp_path, [{"train": train, key: held} for train, held in told])
    found = make_splits(cases, folds=5, seed=0, present={}, given=file)
    assert found == [{"train": train, "validation": held} for train, held in told]


def test_the_splits_of_a_run_are_those_of_the_next(tmp_path):
    cases = cases_of([1, 1, 2, 3, 4, 4])
    splits = split_by_patient(cases, folds=3, seed=3)
    assert make_splits(cases, folds=2, seed=0, present={}, given=given_file(tmp_path, splits)) == splits


GOOD = {"train": ["case_0", "case_1"], "validation": ["case_2"]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", "cannot be read as JSON"),
        ({"train": []}, "expected a list of folds"),
        ([], "expected a list of folds"),
        ([GOOD, {"train": ["case_0"]}], "fold 1: validation must be a list of case ids, got None"),
        ([GOOD | {"validation": []}], r"fold 0: validation must be a list of case ids, got \[\]"),
        ([GOOD | {"train": ["case_1", "case_1"]}], "fold 0: case_1 is twice in train"),
        ([GOOD | {"train": ["case_O", "case_1"]}], "fold 0 names 'case_O', which is not in the dataset; did you mean"),
        ([GOOD, GOOD | {"validation": ["case_2", "case_1"]}], "fold 1: case_1 is in training and in validation: a leak"),
        ([{"train": ["case_0", "case_2"], "validation": ["case_1"]}], r"fold 0: case_0 .* case_1 .* one patient: a leak"),
        ([GOOD | {"train": ["case_0"]}], r"case_1 of the dataset is in no fold \(1 such"),
    ],
)  # fmt: skip
def test_given_splits_that_leak_or_do_not_fit_are_refused(tmp_path, content, words):
    cases = cases_of([1, 1, 2])
    with pytest.raises(DataError, match=words):
        make_splits(cases, folds=5, seed=0, present={}, given=given_file(tmp_path, content))


def test_the_folds_of_a_table_are_taken(tmp_path):
    cases = [Case(f"c{n}", f"p{n // 2}", (), tmp_path, fold=n // 2) for n in range(6)]
    splits = make_splits(cases, folds=5, seed=0, present={})
    assert [split["validation"] for split in splits] == [["c0", "c1"], ["c2", "c3"], ["c4", "c5"]]
    assert splits[1]["train"] == ["c0", "c1", "c4", "c5"]


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ([0, 1, 0, 1], "c1 .*c0 .*one patient: a leak"),
        ([0, 0, 2, 2], "the table's folds are 0, 2; expected 0, 1"),
        ([0, 0, 0, 0], "at least two"),
        ([0, 0, 1, None], "the table's folds are none, 0, 1"),
    ],
)
def test_folds_of_a_table_that_leak_or_have_gaps_are_refused(tmp_path, folds, words):
    cases = [Case(f"c{n}", f"p{n // 2}", (), tmp_path, fold=fold) for n, fold in enumerate(folds)]
    with pytest.raises(DataError, match=words):
        make_splits(cases, folds=5, seed=0, present={})


def test_hippocampus_in_blocks_of_ten_ids(real_data):
    config = DataConfig(layout="msd", root=real_data / "Task04_Hippocampus", group=r"_(\d+)\d$")
    cases = list_cases(config)
    splits = split_by_patient(cases, folds=5, seed=0, present={case.id: ["anterior", "posterior"] for case in cases})
    blocks = [{case[:-1] for case in split["validation"]} for split in splits]
    assert sum(map(len, blocks)) == len(set().union(*blocks)) == len({case.patient for case in cases})
    assert sum(len(split["validation"]) for split in splits) == 208


def test_totalseg_ct_and_its_copied_slices_are_one_patient(real_data):
    root = real_data / "totalseg_ct"
    config = DataConfig(layout="folder", images=root / "images", labels=root / "labels", group="^(ct|mr)")
    splits = split_by_patient(list_cases(config), folds=5, seed=0)
    sides = [{side: {case[:2] for case in split[side]} for side in split} for split in splits]
    assert sorted(map(str, sides)) == sorted(
        str({"train": {a}, "validation": {b}}) for a, b in (("ct", "mr"), ("mr", "ct"))
    )
