import math

import pytest

from medseg.core.labels import Labels
from medseg.core.scores import Score, ScoredCase
from medseg.report.evaluation import Report, format_value
from medseg.statistics import summarise


@pytest.fixture
def report():
    scores = (
        Score("a, 1", "<liver>", "dice", 1 / 3, "ratio"),
        Score("a, 1", "cyst", "dice", math.nan, "ratio", "both_empty"),
        Score("a, 1", "<liver>", "volume_ml", 1523.456789, "mL"),
        Score("a, 1", "", "mean_iou", 0.2, "ratio"),
    )
    case = ScoredCase("a, 1", "p/a.nii", "r/a.nii", "0" * 64, "1" * 64, (2, 3, 4), (1.0, 1.0, 5.0))
    labels = Labels.from_mapping({"background": 0, "<liver>": 1, "cyst": 2})
    return Report(scores, tuple(summarise(scores)), labels, (case,), (("b", "<b>: truncated"),))


def test_csv_quotes_what_it_must_and_keeps_every_digit(report):
    assert report.to_csv().splitlines() == [
        "case,structure,metric,value,unit",
        f'"a, 1",<liver>,dice,{1 / 3!r},ratio',
        '"a, 1",cyst,dice,,ratio',
        '"a, 1",<liver>,volume_ml,1523.456789,mL',
        '"a, 1",,mean_iou,0.2,ratio',
    ]


def test_page_escapes_names_and_has_a_row_for_each_summary(report):
    page = report._repr_html_()
    assert "&lt;liver&gt;" in page
    assert "<liver>" not in page
    assert "&lt;b&gt;: truncated" in page
    assert page.count("<tr>") == 1 + 4
    assert "whole case" in page


def test_undefined_is_null_in_json_and_left_out_of_the_mean(report):
    content = report.to_dict()
    assert [s["mean"] for s in content["summaries"]][1] is None
    assert content["means"]["dice"] == pytest.approx(1 / 3)
    assert math.isnan(report.mean("dice", "cyst"))


def test_short_text_names_cases_skipped_and_structures(report):
    assert repr(report) == "Report(1 case(s), 1 skipped, 2 structure(s), dice 0.3333)"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "ratio", "0.0000"),
        (math.nan, "mL", "–"),
        (99.994, "mL", "99.99"),
        (-250.06, "mL", "-250.1"),
        (4, "mm", "4.00"),
        (120.04, "mm", "120.0"),
        (2.5, "count", "2.50"),
    ],
)
def test_figures_are_shortened_for_people(value, unit, text):
    assert format_value(value, unit) == text
