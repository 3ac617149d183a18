"""CSV as people save it, and each thing that is wrong with one named by its line."""

import os

import pytest

from medseg.core.errors import DataError
from medseg.data.layouts.table import read_table


def rows_of(tmp_path, content: bytes, required=("case", "image"), optional=("patient", "fold")):
    path = tmp_path / "cases.csv"
    path.write_bytes(content)
    return read_table(path, required, optional)


@pytest.mark.parametrize(
    "content",
    [
        b"case,image\na,a.nii\nb,b.nii\n",
        b"\xef\xbb\xbfcase,image\r\na,a.nii\r\nb,b.nii\r\n",
        b"Case;IMAGE\na;a.nii\nb;b.nii",
        b"case\timage\na\ta.nii\n\nb\tb.nii\n\t\n",
        b'"case", image\n"a"," a.nii "\nb,b.nii\n',
    ],
    ids=["plain", "excel", "semicolon", "tab and blank lines", "quotes and spaces"],
)
def test_tables_as_programs_save_them_read_alike(tmp_path, content):
    assert [row.cells for row in rows_of(tmp_path, content)] == [
        {"case": "a", "image": "a.nii"},
        {"case": "b", "image": "b.nii"},
    ]


def test_a_line_break_in_quotes_belongs_to_its_cell_and_lines_stay_right(tmp_path):
    rows = rows_of(tmp_path, b'case,image,note\na,a.nii,"two\nlines; with, both"\n\nb,b.nii,\n')
    assert [(row.line, row.cells["note"]) for row in rows] == [(2, "two\nlines; with, both"), (5, "")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"case,image\n", "no cases"),
        (b"case\na\n", "line 1: column 'image' is missing"),
        (b"case,image,pateint\na,a,1\n", "line 1: unknown column 'pateint', did you mean 'patient'"),
        (b"case,image,PatientID\na,a,1\n", "line 1: unknown column 'PatientID', did you mean 'patient'"),
        (b"case,image,case\na,a,b\n", "line 1: column 'case' is there twice"),
        (b"case,image\na,b.nii\n\nc,d,e\n", "line 4: 3 cells"),
        (b'case,image\na,b\nc,"d\n', "line 3: is not valid CSV"),
        ("case,image\nmüller,a.nii\n".encode("latin-1"), "not UTF-8"),
    ],
    ids=["empty", "blank", "header only", "column", "typo", "foreign name", "doubled", "cells", "quote", "latin-1"],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, content, words):
    with pytest.raises(DataError, match=words) as caught:
        rows_of(tmp_path, content)
    assert str(tmp_path / "cases.csv") in str(caught.value)


def test_columns_of_ones_own_are_let_pass(tmp_path):
    (row,) = rows_of(tmp_path, b"case,image,age,sex\na,a.nii,71,f\n")
    assert row.cells["age"] == "71"


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: this table was not found"):
        read_table(tmp_path / "nowhere.csv", ("case",))


def test_a_table_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(DataError, match="no regular file"):
        read_table(tmp_path / "t.csv", ("image",))
