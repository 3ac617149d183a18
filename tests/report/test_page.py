"""The page of an evaluation: what it must say, what may not break it, and figures by hand."""

import math
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from medseg.core.geometry import Geometry
from medseg.core.labels import Labels
from medseg.core.scores import Score, ScoredCase
from medseg.core.volume import LabelMap
from medseg.report.evaluation import Report
from medseg.report.gallery import Picture, worst_pictures
from medseg.report.page import page_files
from medseg.report.plots_evaluation import agreement_plot, strip_plot
from medseg.statistics import summarise, worst_scores
from medseg.statistics.agreement import limits_of_agreement

EVIL = "<script>alert('x')</script>"


def report_of(rows, **changes):
    """``rows``: (case, structure, dice, volume, reference volume, state)."""
    scores = []
    for case, structure, dice, volume, expected, state in rows:
        scores.append(Score(case, structure, "dice", dice, "ratio", state))
        scores.append(Score(case, structure, "volume_ml", volume, "mL", state))
        scores.append(Score(case, structure, "reference_volume_ml", expected, "mL", state))
    names = list(dict.fromkeys(s.structure for s in scores))
    labels = Labels.from_mapping({"background": 0, **{name: n + 1 for n, name in enumerate(names)}})
    cases = tuple(
        ScoredCase(c, f"p/{c}.nii", f"r/{c}.nii", "a" * 64, "b" * 64, (2, 3, 4), (1.0, 1.0, 5.0))
        for c in dict.fromkeys(s.case for s in scores)
    )
    report = Report(tuple(scores), tuple(summarise(scores)), labels, cases)
    return replace(report, worst=tuple(worst_scores(scores, 2)), **changes)


@pytest.fixture
def report():
    return report_of(
        [
            ("c1", "liver", 0.9, 10.0, 11.0, "scored"),
            ("c2", "liver", 0.0, 0.0, 5.0, "missed"),
            ("c3", "liver", 0.0, 3.0, 0.0, "spurious"),
            ("c1", "cyst", math.nan, 0.0, 0.0, "both_empty"),
        ],
        skipped=(("c4", "c4.nii: truncated"),),
    )


class Tags(HTMLParser):
    """The elements of a page, opened and closed in pairs, and where they point."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, page):
        super().__init__()
        self.names, self.links, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page_of(report, pictures=()):
    return page_files(report, pictures)["report.html"].decode()


def test_the_page_needs_nothing_from_elsewhere_and_is_whole(report):
    tags = Tags(page_of(report, [Picture("c2: liver", b"\x89PNG...", "no scan")]))
    assert not tags.open
    assert all(link.startswith(("data:image/", "#")) for link in tags.links)
    assert not {"script", "link", "iframe"} & set(tags.names)
    assert tags.names.count("img") == 1 + 1 + 1  # dice, volumes, one picture


def test_the_page_says_counts_policy_hashes_versions_and_what_was_skipped(report):
    page = page_of(report)
    for words in (
        "missed",
        "spurious",
        "BCa",
        "Empty masks",
        "a" * 64,
        "b" * 64,
        "numpy",
        "c4.nii: truncated",
        "@media print",
    ):
        assert words in page
    assert "In no prediction and no reference: cyst" in page
    assert "Not a medical device" in page


def test_names_cannot_become_part_of_the_page():
    evil = report_of([(EVIL, EVIL, 0.5, 1.0, 2.0, "scored")], skipped=((EVIL, EVIL),))
    page = page_of(evil, [Picture(EVIL, b"\x89PNG", EVIL)])
    assert EVIL not in page
    assert "&lt;script&gt;" in page
    assert "script" not in Tags(page).names


def test_markdown_holds_the_same_tables(report):
    text = page_files(report, [])["report.md"].decode()
    assert "| liver | 0.3000 [" in text
    assert "| c2 | liver | 0.0000 | missed |" in text
    assert "| c4 | c4.nii: truncated |" in text
    piped = report_of([("a|b", "liver", 0.5, 1.0, 2.0, "scored")])
    assert r"| a\|b | liver |" in page_files(piped, [])["report.md"].decode()


def test_the_same_report_gives_the_same_figures(report):
    assert strip_plot(report, "dice") == strip_plot(report, "dice")
    assert agreement_plot(report) == agreement_plot(report)
    assert strip_plot(report, "hd95") is None


def test_limits_of_agreement_by_hand():
    found = limits_of_agreement(np.array([1.0, 2.0, 3.0, 6.0]))
    deviation = math.sqrt((4 + 1 + 0 + 9) / 3)
    assert (found.bias, found.n) == (3.0, 4)
    assert (found.low, found.high) == pytest.approx((3 - 1.96 * deviation, 3 + 1.96 * deviation))
    assert math.isnan(limits_of_agreement(np.array([1.0])).low)


def test_a_page_without_any_structure_says_so():
    empty = Report((), (), Labels(()), ())
    assert "None is listed" in page_of(empty)


def test_a_picture_is_cut_to_its_structure(report):
    grid = Geometry((60, 50, 40), np.diag([2.0, 1.5, 3.0, 1.0]))
    data = np.zeros(grid.shape, np.uint8)
    data[30:34, 20:26, 10:12] = 1
    maps = LabelMap(data, grid, report.labels)
    (first, _) = worst_pictures(report, lambda case: (maps, maps), None)
    assert first.title == "c2: liver dice 0.0000, missed"
    assert first.png.startswith(b"\x89PNG")
    from medseg.report.gallery import _box

    # 15 mm are 8, 10 and 5 voxels.
    assert _box("liver", report.labels, {}, (maps, maps)) == ((22, 10, 5), (20, 26, 12))


def test_many_cases_do_not_make_a_huge_page():
    rng = np.random.default_rng(0)
    rows = [(f"c{n}", name, float(rng.random()), 3.0, 4.0, "scored") for n in range(1500) for name in "abcd"]
    many = report_of(rows)
    assert len(strip_plot(many, "dice")) < 500_000
    assert len(agreement_plot(many)) < 500_000
