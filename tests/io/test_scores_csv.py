import json
import math

import pytest

from medseg.core.errors import DataError
from medseg.io.scores_csv import read_scores, read_summary

HEAD = "case,structure,metric,value,unit\n"


def write(folder, text):
    (folder / "scores.csv").write_text(text)
    return folder


def test_values_and_how_the_masks_stood_are_read_back(tmp_path):
    rows = []
    for case, predicted, expected, dice in (
        ("a", 3, 4, "0.25"),
        ("b", 0, 4, "0.0"),
        ("c", 2, 0, "0.0"),
        ("d", 0, 0, ""),
    ):
        rows += [f"{case},liver,dice,{dice},ratio", f"{case},liver,volume_ml,{predicted}.0,mL"]
        rows += [f"{case},liver,reference_volume_ml,{expected}.0,mL", f"{case},,mean_iou,0.5,ratio"]
    scores = read_scores(write(tmp_path, HEAD + "\n".join(rows) + "\n"))
    dice = {s.case: (s.value, s.state) for s in scores if s.metric == "dice"}
    assert dice["a"] == (0.25, "scored")
    assert dice["b"] == (0.0, "missed")
    assert dice["c"] == (0.0, "spurious")
    assert dice["d"][1] == "both_empty"
    assert math.isnan(dice["d"][0])


def test_without_volumes_nothing_is_said_of_the_masks(tmp_path):
    (score,) = read_scores(write(tmp_path, HEAD + "a,liver,dice,0.5,ratio\n"))
    assert score.state == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "a,liver,dice,good,ratio\n", "line 2.*'good'"),
        (HEAD + "a,liver,dice,inf,ratio\n", "line 2.*finite"),
        (HEAD + "a,liver,dice,0.5,ratio\na,liver,dice,0.6,ratio\n", "line 3.*twice"),
        (HEAD + "a,liver,dice\n", "line 2.*fields"),
        (HEAD + "a,liver,dice,0.5,ratio,more\n", "line 2.*fields"),
        ("case,dice\na,0.5\n", "no column structure, metric, value, unit"),
        (HEAD, "empty"),
        ("", "no column"),
        (HEAD + 'a,"liver,dice,0.5,ratio\n', "not a table"),
    ],
)
def test_a_table_that_is_none_of_ours_is_refused_by_name_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as refused:
        read_scores(write(tmp_path, text))
    assert str(refused.value).startswith(str(tmp_path / "scores.csv"))


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_scores(tmp_path)
    (tmp_path / "scores.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a table"):
        read_scores(tmp_path)


def test_hashes_of_the_references_and_settings_come_from_the_summary(tmp_path):
    assert read_summary(tmp_path) == ({}, {})
    (tmp_path / "summary.json").write_text(
        json.dumps({"cases": [{"id": "a", "reference_sha256": "00"}], "settings": {"missed": "diagonal"}})
    )
    assert read_summary(tmp_path) == ({"a": "00"}, {"missed": "diagonal"})
    (tmp_path / "summary.json").write_text('{"cases": 3}')
    with pytest.raises(DataError, match=r"summary\.json: is not a summary"):
        read_summary(tmp_path)
