"""Partial labels: which structures were annotated in which case, and that a wrong name is never taken for one."""

import pytest

from medseg.core.config import load_config
from medseg.core.errors import DataError
from medseg.core.labels import Labels
from medseg.data.layouts import list_cases
from tests.data.tiny_dataset import LABELS, config, tiny
from tests.workflows.train_command import written

NAMED = Labels.from_mapping(LABELS)


def cases_with(tmp_path, table: str, labels: Labels = NAMED):
    """The cases of a config beside the table ``annotated.csv``, given relative to it."""
    (tmp_path / "annotated.csv").write_text(table)
    content = config(tiny(tmp_path / "data").finish())
    content["data"]["annotated"] = "annotated.csv"
    content["labels"] = labels.mapping()
    return list_cases(load_config(written(tmp_path, content)).data, labels)


def test_a_table_says_what_was_annotated_and_all_else_is(tmp_path):
    found = cases_with(tmp_path, "case,annotated\ncase_01,liver\ncase_00,tumour;liver\ncase_02,all\n")
    assert [case.annotated for case in found] == [("liver", "tumour"), ("liver",), None, None]


def test_without_a_table_every_structure_is_annotated(tmp_path):
    content = config(tiny(tmp_path / "data").finish())
    found = list_cases(load_config(written(tmp_path, content)).data, NAMED)
    assert {case.annotated for case in found} == {None}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("case,annotated\ncase_01,lever\n", "case_01: annotated names 'lever'.*did you mean 'liver'"),
        ("case,annotated\ncase_01,background\n", "'background', which is no structure.*known: liver, tumour"),
        ("case,annotated\ncase_1,liver\n", "line 2: no case 'case_1'.*did you mean 'case_01'"),
        ("case,annotated\ncase_01,liver\ncase_01,tumour\n", "line 3: case 'case_01' is there twice, first on line 2"),
        ("case,anotated\ncase_01,liver\n", "unknown column 'anotated', did you mean 'annotated'"),
    ],
    ids=["structure", "background", "case", "twice", "column"],
)
def test_a_wrong_name_is_refused_with_the_nearest(tmp_path, table, words):
    with pytest.raises(DataError, match=words):
        cases_with(tmp_path, table)


def test_a_structure_left_out_of_the_training_may_be_named_and_is_dropped(tmp_path):
    liver = Labels.from_mapping({"background": 0, "liver": 1})
    found = cases_with(tmp_path, "case,annotated\ncase_00,liver|tumour\n", liver)
    assert found[0].annotated == ("liver",)


def test_a_case_in_which_nothing_asked_for_is_annotated_is_refused(tmp_path):
    liver = Labels.from_mapping({"background": 0, "liver": 1})
    with pytest.raises(DataError, match="case_00: none of liver is annotated"):
        cases_with(tmp_path, "case,annotated\ncase_00,tumour\n", liver)
