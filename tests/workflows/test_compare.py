import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest

from medseg import compare, evaluate
from medseg.core.errors import ConfigError, DataError, OutputError
from tests.workflows.test_evaluate import LABELS, boxes, save

FILES = {
    "comparison.html",
    "comparison.csv",
    "comparison.md",
    "comparison.tex",
    "methods.md",
    "forest.png",
    "forest.svg",
    "box.png",
}


@pytest.fixture
def models(tmp_path):
    """References of four cases; model a shifts c0 and misses the tumour of c1, model b shifts c2; references on request."""
    for n in range(4):
        save(tmp_path / "ref" / f"c{n}.nii.gz", boxes())
        save(tmp_path / "a" / f"c{n}_seg.nii.gz", boxes(1 if n == 0 else 0, tumour=n != 1))
        save(tmp_path / "b" / f"c{n}_seg.nii.gz", boxes(1 if n == 2 else 0))
    return tmp_path / "a", tmp_path / "b", tmp_path / "ref"


def row_of(result, metric, structure):
    (row,) = [r for r in result.rows if (r.endpoint.metric, r.endpoint.structure) == (metric, structure)]
    return row


def test_label_maps_are_scored_and_paired_by_hand(models):
    a, b, reference = models
    row = row_of(compare([a, b], reference=reference, labels=LABELS, metrics=["dice"]), "dice", "tumour")
    # a: 0.5, 0, 1, 1; b: 1, 1, 0.5, 1
    assert (row.mean_first, row.mean_second, row.mean) == pytest.approx((0.625, 0.875, 0.25))
    assert (row.wins, row.ties, row.losses, row.n) == (2, 1, 1, 4)
    assert (row.first, row.second) == ("a", "b")


@pytest.mark.usefixtures("blank_figures")
def test_scores_of_earlier_evaluations_give_the_same_rows(models, tmp_path):
    a, b, reference = models
    for model in (a, b):
        evaluate(model, reference, labels=LABELS, output=tmp_path / f"scores_{model.name}")
    again = compare([tmp_path / "scores_a", tmp_path / "scores_b"], metrics=["dice", "recall"])
    fresh = compare([a, b], reference=reference, labels=LABELS, metrics=["dice", "recall"])
    for one, other in zip(again.rows, fresh.rows, strict=True):
        assert (one.mean, one.low, one.high, one.wins) == (other.mean, other.low, other.high, other.wins)
    mixed = compare([tmp_path / "scores_a", b], reference=reference, labels=LABELS)
    assert row_of(mixed, "dice", "tumour").mean == row_of(fresh, "dice", "tumour").mean


def test_a_spurious_structure_that_no_other_model_has_counts_against_its_model(models):
    a, b, reference = models
    spurious = boxes()
    spurious[0, 0, 0] = 9
    save(b / "c3_seg.nii.gz", spurious)
    row = row_of(compare([a, b], reference=reference, metrics=["dice"]), "dice", "9")
    assert (row.n, row.both_undefined, row.against_second, row.losses) == (0, 3, 1, 1)
    assert math.isnan(row.mean)


def test_every_file_is_written_and_says_what_was_done(models, tmp_path):
    a, b, reference = models
    out = tmp_path / "out"
    compare([a, b], reference=reference, labels=LABELS, metrics=["dice"], margin=0.02, output=out, group="^c.")
    assert {p.name for p in out.iterdir()} == FILES
    rows = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    assert [r["structure"] for r in rows] == ["liver", "tumour"]
    assert float(rows[1]["mean"]) == pytest.approx(0.25)
    methods = (out / "methods.md").read_text()
    for words in (
        "4 cases, 4 patients",
        "`^c.`",
        "seed 0",
        "4999",
        "all 2 rows",
        "dice 0.02",
        "10.1080/01621459.1987.10478410",
    ):
        assert words in methods
    assert "b − a" in (out / "comparison.md").read_text()
    assert r"b $-$ a & 4 &" in (out / "comparison.tex").read_text()


@pytest.mark.usefixtures("blank_figures")
def test_the_page_is_whole_needs_nothing_from_elsewhere_and_escapes_names(models, tmp_path):
    a, b, reference = models
    evil = b.rename(tmp_path / "<b>")
    (evil / "c3_seg.nii.gz").unlink()
    compare([a, evil], reference=reference, labels=LABELS, output=tmp_path / "out", skip_bad=True)
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt; − a" in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/") == 2
    for words in ("prediction missing", "against &lt;b&gt;", "Holm", "seed 0", "</html>"):
        assert words in page


def test_a_second_run_gives_the_same_bytes(models, tmp_path):
    a, b, reference = models
    for name in ("one", "two"):
        compare([a, b], reference=reference, labels=LABELS, output=tmp_path / name)
    for name in FILES - {"comparison.html"}:  # which says when it was made
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_three_models_go_against_the_first_or_each_with_each(models, tmp_path):
    a, b, reference = models
    for n in range(4):
        save(tmp_path / "c" / f"c{n}.nii.gz", boxes(2))
    given = {"reference": reference, "labels": LABELS, "metrics": ["dice"]}
    assert {(r.first, r.second) for r in compare([a, b, tmp_path / "c"], **given).rows} == {("a", "b"), ("a", "c")}
    every = compare([a, b, tmp_path / "c"], all_pairs=True, **given)
    assert [(r.first, r.second) for r in every.rows][::2] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_case_that_a_model_lacks_is_refused_or_counts_against_it(models):
    a, b, reference = models
    (b / "c3_seg.nii.gz").unlink()
    with pytest.raises(DataError, match="prediction missing for 1 of 4"):
        compare([a, b], reference=reference, labels=LABELS)
    result = compare([a, b], reference=reference, labels=LABELS, metrics=["dice"], skip_bad=True, margin=0.5)
    row = row_of(result, "dice", "liver")
    assert (row.n, row.against_second, row.losses, row.non_inferior) == (3, 1, 2, False)
    assert list(result.skipped["b"]) == ["c3"]
    assert "c3" in result.methods()


@pytest.mark.usefixtures("blank_figures")
def test_scores_that_lack_a_case_or_have_other_references_or_structures_are_refused(models, tmp_path):
    a, b, reference = models
    one, other = tmp_path / "one", tmp_path / "other"
    evaluate(a, reference, labels=LABELS, output=one)
    save(reference / "c1.nii.gz", boxes(2))
    evaluate(b, reference, labels=LABELS, output=other)
    with pytest.raises(DataError, match="other: case c1 was scored against another reference"):
        compare([one, other])
    (other / "summary.json").unlink()
    text = (other / "scores.csv").read_text()
    (other / "scores.csv").write_text(text.replace("tumour", "cyst"))
    with pytest.raises(DataError, match=r"other structures.*cyst, tumour"):
        compare([one, other])
    (other / "scores.csv").write_text("".join(line for line in text.splitlines(keepends=True) if "c2," not in line))
    with pytest.raises(DataError, match=r"other: prediction or scores missing for 1 of 4 .* c2"):
        compare([one, other])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metrics": ["volume_ml"]}, "volume_ml is an amount"),
        ({"metrics": ["sharpness"]}, "no metric is called 'sharpness'"),
        ({"margin": -0.1}, "above 0"),
        ({"margin": {"iou": 0.1}}, "iou is not compared"),
        ({"group": "("}, "regular expression"),
    ],
)
def test_what_was_asked_wrongly_is_refused(models, given, message):
    a, b, reference = models
    with pytest.raises(ConfigError, match=message):
        compare([a, b], reference=reference, labels=LABELS, **given)


@pytest.mark.usefixtures("blank_figures")
def test_scores_made_with_another_tolerance_are_refused_and_the_tolerance_is_stated(models, tmp_path):
    a, b, reference = models
    evaluate(a, reference, labels=LABELS, output=tmp_path / "one", tolerance_mm=1.0)
    with pytest.raises(DataError, match="other settings"):
        compare([tmp_path / "one", b], reference=reference, labels=LABELS)
    result = compare([tmp_path / "one", b], reference=reference, labels=LABELS, tolerance_mm=1.0, metrics=["nsd"])
    assert "Tolerance of nsd: default 1 mm" in result.methods()


def test_one_model_twice_one_alone_or_one_without_scores_is_refused(models, tmp_path):
    a, b, reference = models
    with pytest.raises(ConfigError, match="given twice"):
        compare([a, a], reference=reference)
    with pytest.raises(ConfigError, match="two or more"):
        compare([a], reference=reference)
    with pytest.raises(DataError, match=r"no scores\.csv; give --reference"):
        compare([a, b])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        compare([a, b], reference=reference, output=tmp_path / "file")


def test_folders_of_one_name_are_told_apart_by_their_parents(models, tmp_path):
    _, _, reference = models
    for name in ("x", "y"):
        for n in range(4):
            save(tmp_path / name / "predictions" / f"c{n}.nii.gz", boxes(1 if name == "x" else 0))
    result = compare([tmp_path / "x" / "predictions", tmp_path / "y" / "predictions"], reference=reference)
    assert [m.name for m in result.models] == ["x/predictions", "y/predictions"]


def test_a_better_segmentation_of_real_scans_wins_in_every_case(real_data, tmp_path):
    labels = real_data / "Task04_Hippocampus" / "labelsTr"
    for path in sorted(labels.glob("hippocampus_0*.nii.gz"))[:6]:
        image = nib.load(path)
        data = np.asarray(image.dataobj).astype(np.uint8)
        for name, shift in (("far", 2), ("near", 1)):
            save(tmp_path / name / path.name, np.roll(data, shift, axis=1), image.affine)
        save(tmp_path / "ref" / path.name, data, image.affine)
    result = compare([tmp_path / "far", tmp_path / "near"], reference=tmp_path / "ref", metrics=["dice"])
    assert [(r.wins, r.losses, r.rank_biserial, r.permutation_p) for r in result.rows] == [(6, 0, 1.0, 2 / 64)] * 2
    assert all(r.low > 0 for r in result.rows)
    assert json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.usefixtures("blank_figures")
def test_the_width_of_the_rim_is_stated_and_scores_from_before_it_was_are_no_reason_to_refuse(models, tmp_path):
    a, b, reference = models
    evaluate(a, reference, labels=LABELS, metrics=["boundary_iou"], boundary_mm=3.0, output=tmp_path / "one")
    given = {"reference": reference, "labels": LABELS, "metrics": ["boundary_iou"]}
    with pytest.raises(DataError, match="other settings"):
        compare([tmp_path / "one", b], **given)
    result = compare([tmp_path / "one", b], boundary_mm={"": 3.0}, **given)
    assert "Width of the rim of boundary_iou: default 3 mm" in result.methods()
    summary = json.loads((tmp_path / "one" / "summary.json").read_text())
    del summary["settings"]["boundary_mm"]
    (tmp_path / "one" / "summary.json").write_text(json.dumps(summary))
    assert compare([tmp_path / "one", b], **given).rows


@pytest.mark.usefixtures("blank_figures")
def test_three_models_are_ranked_with_the_stability_of_it(models, tmp_path, capsys):
    from medseg.cli.app import run

    a, b, reference = models
    for n in range(4):
        save(tmp_path / "<c>" / f"c{n}.nii.gz", boxes(2))
    out = tmp_path / "out"
    given = [str(a), str(b), str(tmp_path / "<c>"), "--reference", str(reference), "--metric", "dice,hd95"]
    assert run(["compare", *given, "--output", str(out)]) == 0
    assert "Kendall's tau" in capsys.readouterr().out
    assert {p.name for p in out.iterdir()} == FILES | {"ranking.csv", "ranking.png", "ranking.svg"}
    rows = list(csv.DictReader((out / "ranking.csv").read_text().splitlines()))
    assert len(rows) == 2 * 3 * 2 * 3  # metrics, both structures and each, rules, models
    first = [r for r in rows if (r["metric"], r["structures"], r["rule"]) == ("dice", "2", "mean then rank")]
    assert [(r["model"], r["rank"]) for r in first] == [("b", "1"), ("a", "2"), ("<c>", "3")]
    assert float(first[0]["figure"]) == pytest.approx(((3 + 148 / 184) / 4 + 0.875) / 2)
    assert sum(float(first[0][f"share_rank_{n}"]) for n in (1, 2, 3)) == pytest.approx(1)
    page, methods = (out / "comparison.html").read_text(), (out / "methods.md").read_text()
    assert "<c>" not in page
    assert page.count("data:image/") == 3
    for words in ("10.1038/s41598-021-82017-6", "1000 bootstrap samples of whole patients"):
        assert words in methods


def test_a_comparison_of_two_has_no_ranking(models):
    a, b, reference = models
    result = compare([a, b], reference=reference, metrics=["dice"])
    assert result.rankings == ()
    assert result.ranking_table() == []
    assert "ranked" not in result.methods()


def test_a_model_without_a_prediction_is_ranked_last(models, tmp_path):
    a, b, reference = models
    for n in range(4):
        save(tmp_path / "c" / f"c{n}.nii.gz", boxes(2))
    (b / "c3_seg.nii.gz").unlink()
    given = {"reference": reference, "labels": LABELS, "metrics": ["dice"], "skip_bad": True}
    result = compare([a, b, tmp_path / "c"], **given)
    assert result.rankings[0].ranks.tolist() == [1, 3, 2]
    assert json.dumps(result.to_dict(), allow_nan=False)


def test_sources_are_numbered_as_they_are_cited_and_none_is_listed_that_is_not(models):
    import re

    a, b, reference = models
    for margin in (None, 0.02):
        text = compare([a, b], reference=reference, metrics=["dice"], margin=margin).methods()
        body, _, sources = text.partition("\n1. ")
        cited = [int(n) for n in re.findall(r"\[(\d+)\]", body)]
        assert list(dict.fromkeys(cited)) == list(range(1, 2 + len(re.findall(r"\n\d+\. ", sources))))
        assert ("jama" in sources) == (margin is not None)
