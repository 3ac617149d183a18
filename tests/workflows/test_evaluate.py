import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg import evaluate
from medseg.core.errors import ConfigError, DataError, GeometryError, OutputError
from medseg.core.geometry import Geometry, all_storage_orders
from medseg.core.labels import Labels
from medseg.metrics import CASE_METRICS, METRICS

AFFINE = np.array([[0.8, -0.5, 0.1, 10.0], [0.6, 1.1, -0.3, -20.0], [0.0, 0.4, 3.0, 30.0], [0, 0, 0, 1]])
AFFINE[:3, :3] = np.linalg.qr(AFFINE[:3, :3])[0] * [0.8, 1.2, 3.0]  # oblique and anisotropic, without a shear
LABELS = {"background": 0, "liver": 1, "tumour": 5}
RATIOS = ("dice", "iou", "precision", "recall", "accuracy", "nsd")
DISTANCES = ("hd95", "assd")


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path


def boxes(shift: int = 0, *, liver: bool = True, tumour: bool = True) -> np.ndarray:
    """A liver of 6 x 8 x 4 voxels and a tumour of 2 x 2 x 2 inside it, ``shift`` voxels along i."""
    data = np.zeros((14, 12, 9), np.uint8)
    if liver:
        data[2 + shift : 8 + shift, 2:10, 2:6] = 1
    if tumour:
        data[4 + shift : 6 + shift, 4:6, 3:5] = 5
    return data


@pytest.fixture
def folders(tmp_path):
    """Three cases: perfect, shifted, tumour missed."""
    for name, prediction in {"a": boxes(), "b": boxes(1), "c": boxes(tumour=False)}.items():
        save(tmp_path / "predictions" / f"{name}_seg.nii.gz", prediction)
        (tmp_path / "predictions" / f"{name}_seg.json").write_text("{}")
        save(tmp_path / "references" / f"{name}.nii.gz", boxes())
    return tmp_path / "predictions", tmp_path / "references"


def value(report, case, structure, metric):
    (found,) = [s.value for s in report.scores if (s.case, s.structure, s.metric) == (case, structure, metric)]
    return found


def test_folders_are_matched_by_case_id_and_scored_by_hand(folders):
    report = evaluate(*folders, labels=LABELS)
    assert [c.id for c in report.cases] == ["a", "b", "c"]
    assert value(report, "a", "liver", "dice") == 1.0
    # b: both livers have 6 x 8 x 4 - 8 = 184 voxels; common are 5 x 8 x 4 less the union of the tumours, 3 x 2 x 2.
    assert value(report, "b", "liver", "dice") == pytest.approx(148 / 184)
    assert value(report, "b", "tumour", "dice") == pytest.approx(4 / 8)
    assert value(report, "b", "tumour", "volume_ml") == pytest.approx(8 * 0.8 * 1.2 * 3.0 / 1000)
    assert value(report, "c", "tumour", "dice") == 0.0
    assert report.mean("dice", "tumour") == pytest.approx((1 + 0.5 + 0) / 3)
    livers = (1 + 148 / 184 + 2 * 184 / (184 + 192)) / 3
    assert report.mean("dice", "liver") == pytest.approx(livers)
    assert report.mean("dice") == pytest.approx((livers + 0.5) / 2)
    (tumour,) = [s for s in report.summaries if (s.structure, s.metric) == ("tumour", "dice")]
    assert (tumour.n, tumour.undefined, tumour.missed, tumour.spurious) == (3, 0, 1, 0)


def test_two_files_are_a_pair_whatever_their_names(tmp_path):
    prediction = save(tmp_path / "output_17.nii", boxes(1))
    reference = save(tmp_path / "truth.nii.gz", boxes())
    report = evaluate(str(prediction), str(reference), labels=LABELS)
    assert [c.id for c in report.cases] == ["output_17"]
    assert report.mean("dice", "tumour") == 0.5


def test_one_file_finds_its_reference_in_a_folder(folders):
    predictions, references = folders
    assert [c.id for c in evaluate(predictions / "b_seg.nii.gz", references).cases] == ["b"]
    assert [c.id for c in evaluate(predictions, references / "b.nii.gz", skip_bad=True).cases] == ["b"]


@pytest.mark.parametrize("order", all_storage_orders(), ids=str)
def test_a_mask_stored_in_another_order_is_the_same_mask(tmp_path, order):
    prediction = boxes()
    stored = np.ascontiguousarray(order.array(prediction))
    save(tmp_path / "p.nii.gz", stored, order.geometry(Geometry(prediction.shape, AFFINE)).affine)
    save(tmp_path / "r.nii.gz", boxes())
    report = evaluate(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")
    assert {s.value for s in report.scores if s.metric in RATIOS} == {1.0}
    assert {s.value for s in report.scores if s.metric in DISTANCES} == {0.0}


def test_values_name_themselves_without_labels_and_structures_are_those_of_all_cases(tmp_path):
    save(tmp_path / "p" / "a.nii.gz", boxes(tumour=False))
    save(tmp_path / "r" / "a.nii.gz", boxes(tumour=False))
    save(tmp_path / "p" / "b.nii.gz", boxes())
    save(tmp_path / "r" / "b.nii.gz", boxes(tumour=False))
    report = evaluate(tmp_path / "p", tmp_path / "r")
    assert report.labels.names == ("1", "5")
    assert math.isnan(value(report, "a", "5", "dice"))
    assert value(report, "b", "5", "dice") == 0.0
    (five,) = [s for s in report.summaries if (s.structure, s.metric) == ("5", "dice")]
    assert (five.n, five.undefined, five.spurious) == (1, 1, 1)


def test_labels_come_from_a_file_a_mapping_or_labels(folders, tmp_path):
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"labels": {"0": "background", "1": "liver", "5": "tumour"}}))
    for labels in (file, str(file), LABELS, {"liver": 1, "tumour": 5}, Labels.from_mapping(LABELS)):
        assert evaluate(*folders, labels=labels).labels.mapping() == LABELS


@pytest.mark.usefixtures("blank_figures")
def test_output_holds_every_score_in_full_and_strict_json(folders, tmp_path):
    save(folders[0] / "d_seg.nii.gz", boxes(tumour=False))
    save(folders[1] / "d.nii.gz", boxes(tumour=False))
    report = evaluate(*folders, labels=LABELS, output=tmp_path / "out" / "scores")
    text = (tmp_path / "out" / "scores" / "scores.csv").read_text()
    assert text.splitlines()[0] == "case,structure,metric,value,unit"
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 4 * (2 * 11 + 2) == len(report.scores)
    for row, score in zip(rows, report.scores, strict=True):
        assert row["value"] == "" if math.isnan(score.value) else float(row["value"]) == score.value
    empty = {(r["case"], r["structure"], r["metric"]) for r in rows if r["value"] == ""}
    assert empty == {("d", "tumour", m) for m in (*RATIOS, *DISTANCES) if m != "accuracy"}
    assert {r["metric"] for r in rows if r["structure"] == ""} == {"mean_iou", "pixel_accuracy"}

    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads((tmp_path / "out" / "scores" / "summary.json").read_text(), parse_constant=refuse)
    (tumour,) = [s for s in summary["summaries"] if (s["structure"], s["metric"]) == ("tumour", "dice")]
    assert (tumour["n"], tumour["undefined"], tumour["missed"]) == (3, 1, 1)
    assert summary["labels"] == LABELS
    assert len(summary["cases"][0]["prediction_sha256"]) == 64
    assert "missed" in summary["empty_masks"]
    assert summary["provenance"]["versions"]["medseg"]
    written = {"scores.csv", "summary.json", "report.html", "report.md"}
    assert {p.name for p in (tmp_path / "out" / "scores").iterdir()} == written


@pytest.mark.usefixtures("blank_figures")
def test_a_second_run_replaces_its_files_and_leaves_others_alone(folders, tmp_path):
    out = tmp_path / "out"
    evaluate(*folders, output=out)
    (out / "notes.txt").write_text("mine")
    first = (out / "scores.csv").read_bytes()
    save(folders[0] / "a_seg.nii.gz", boxes(1))
    evaluate(*folders, output=out)
    assert (out / "scores.csv").read_bytes() != first
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("blank_figures")
def test_scores_are_dropped_where_the_summary_cannot_be_written(folders, tmp_path):
    (tmp_path / "out" / "summary.json").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"summary\.json"):
        evaluate(*folders, output=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["summary.json"]


def test_progress_counts_the_cases(folders):
    seen = []
    evaluate(*folders, progress=lambda stage, done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_both_files_empty_is_stated_and_not_scored(tmp_path):
    empty = np.zeros((5, 6, 7), np.uint8)
    p, r = save(tmp_path / "p.nii.gz", empty), save(tmp_path / "r.nii.gz", empty)
    report = evaluate(p, r, labels=LABELS)
    assert math.isnan(report.mean("dice"))
    assert {s.state for s in report.scores if s.structure} == {"both_empty"}
    assert evaluate(p, r).labels.structures == ()


def test_report_becomes_a_pandas_table_and_a_page(folders):
    report = evaluate(*folders, labels=LABELS)
    frame = report.to_frame()
    assert list(frame.columns) == ["case", "structure", "metric", "value", "unit", "state"]
    assert frame[frame.metric == "dice"].groupby("structure").value.mean()["tumour"] == pytest.approx(0.5)
    assert "tumour" in report._repr_html_()
    assert repr(report).startswith("Report(3 case(s), 2 structure(s), dice 0.7")
    with pytest.raises(KeyError, match="hd95_area"):
        report.mean("hd95_area")


def test_evaluation_imports_neither_torch_nor_pandas(folders):
    code = (
        "import sys, medseg; medseg.evaluate(sys.argv[1], sys.argv[2]); "
        "print(*sorted({'torch', 'monai', 'pandas', 'matplotlib', 'typer', 'rich'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *map(str, folders)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_predictions_moved_by_one_voxel_score_below_their_own_references(real_data, tmp_path):
    labels = real_data / "Task04_Hippocampus" / "labelsTr"
    for name in ("hippocampus_001", "hippocampus_003", "hippocampus_004"):
        image = nib.load(labels / f"{name}.nii.gz")
        data = np.asarray(image.dataobj).astype(np.uint8)
        save(tmp_path / "p" / f"{name}_seg.nii.gz", np.roll(data, 1, axis=1), image.affine)
        save(tmp_path / "r" / f"{name}.nii.gz", data, image.affine)
    report = evaluate(tmp_path / "p", labels, labels=real_data / "Task04_Hippocampus" / "dataset.json", skip_bad=True)
    assert report.labels.names == ("Anterior", "Posterior")
    assert len(report.cases) == 3
    assert 0.7 < report.mean("dice") < 0.95
    assert report.means() == evaluate(tmp_path / "p", tmp_path / "r", labels=report.labels).means()


# What is chosen.


def test_metrics_are_those_asked_for_in_the_order_of_the_table(folders):
    report = evaluate(*folders, labels=LABELS, metrics=["hd95_area", "dice", "mean_iou"])
    assert list(dict.fromkeys(s.metric for s in report.scores)) == ["dice", "hd95_area", "mean_iou"]
    assert {s.metric for s in evaluate(*folders, metrics=["all"]).scores} == {*METRICS, *CASE_METRICS}
    with pytest.raises(ConfigError, match=r"no metric is called 'dise'; choose from dice, iou"):
        evaluate(*folders, metrics=["dise"])


@pytest.mark.usefixtures("blank_figures")
def test_the_rim_has_one_width_for_all_or_one_by_structure(folders, tmp_path):
    report = evaluate(
        *folders, labels=LABELS, metrics=["boundary_iou"], boundary_mm={"": 0.5, "liver": 30.0}, output=tmp_path / "o"
    )
    assert report.to_dict()["settings"]["boundary_mm"] == {"default": 0.5, "liver": 30.0}
    # A rim as wide as the structure is the structure, and the surface of a tumour of 2 x 2 x 2 voxels is all of it.
    assert value(report, "b", "liver", "boundary_iou") == pytest.approx(148 / (184 + 184 - 148))
    assert value(report, "b", "tumour", "boundary_iou") == pytest.approx(4 / 12)
    assert "Width of the rim of boundary_iou" in (tmp_path / "o" / "report.html").read_text()


def test_tolerance_is_one_for_all_or_by_structure(folders):
    # b is moved by one voxel, 0.8 mm, along i.
    for tolerance, liver, tumour in (
        (0.9, 1.0, 1.0),
        ({"liver": 0.5}, None, 1.0),
        ({"": 0.5, "tumour": 0.9}, None, 1.0),
    ):
        report = evaluate(*folders, labels=LABELS, metrics=["nsd"], tolerance_mm=tolerance)
        assert value(report, "b", "tumour", "nsd") == tumour
        assert (value(report, "b", "liver", "nsd") == 1.0) == (liver == 1.0)
    assert report.to_dict()["settings"]["tolerance_mm"] == {"default": 0.5, "tumour": 0.9}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tolerance_mm": {"livre": 1.0}}, r"--tolerance: no structure is called 'livre'; there are: liver, tumour"),
        ({"tolerance_mm": -1.0}, "from 0"),
        ({"tolerance_mm": math.nan}, "from 0"),
        ({"lesions": ["lesion"]}, "--lesions: no structure is called 'lesion'"),
        ({"lesion_iou": 0.0}, "above 0"),
        ({"missed": "zero"}, "diagonal or undefined"),
    ],
)
def test_choices_that_make_no_sense_are_a_config_error_and_nothing_is_written(folders, tmp_path, options, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(*folders, labels=LABELS, output=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_structure_that_no_file_holds_has_no_tolerance_without_labels(folders):
    assert evaluate(*folders, tolerance_mm={"5": 1.0}).cases
    with pytest.raises(ConfigError, match="no structure is called '7'; there are: 1, 5"):
        evaluate(*folders, tolerance_mm={"7": 1.0})


def test_a_missed_tumour_is_as_far_as_the_image_is_wide_and_withheld_where_undefined(folders):
    diagonal = float(np.linalg.norm(np.array([14, 12, 9]) * [0.8, 1.2, 3.0]))
    report = evaluate(*folders, labels=LABELS)
    assert value(report, "c", "tumour", "hd95") == pytest.approx(diagonal)
    assert report.mean("hd95", "tumour") == pytest.approx((0 + 0.8 + diagonal) / 3)
    assert "diagonal" in report.to_dict()["empty_masks"]
    report = evaluate(*folders, labels=LABELS, missed="undefined")
    (tumour,) = [s for s in report.summaries if (s.structure, s.metric) == ("tumour", "hd95")]
    assert (tumour.n, tumour.undefined, tumour.missed) == (2, 1, 1)
    for figure in (tumour.mean, tumour.median, tumour.q1, tumour.q3, tumour.low, report.mean("hd95")):
        assert math.isnan(figure)
    assert report.mean("hd95", "liver") < 1.0
    assert "undefined, and with them every mean" in report.to_dict()["empty_masks"]


def test_missed_structures_are_counted_once_each(folders):
    counts = evaluate(*folders, labels=LABELS).to_dict()["structures"]
    assert counts["tumour"] == {"scored": 2, "both_empty": 0, "missed": 1, "spurious": 0}


def test_structures_named_as_lesions_are_scored_lesion_by_lesion(folders):
    report = evaluate(*folders, labels=LABELS, lesions=["tumour"])
    assert {s.structure for s in report.scores if s.metric.startswith("lesion_")} == {"tumour"}
    # b: 4 of 12 voxels are common, an IoU of 1/3.
    assert [value(report, case, "tumour", "lesion_f1") for case in "abc"] == [1.0, 1.0, 0.0]
    assert value(report, "b", "tumour", "lesion_pq") == pytest.approx(1 / 3)
    stricter = evaluate(*folders, labels=LABELS, lesions=["tumour"], lesion_iou=0.5)
    assert [value(stricter, case, "tumour", "lesion_f1") for case in "abc"] == [1.0, 0.0, 0.0]


# Other grids.


@pytest.mark.usefixtures("blank_figures")
def test_a_prediction_on_another_grid_is_resampled_on_request_and_the_report_says_so(tmp_path):
    fine = AFFINE @ np.diag([0.5, 0.5, 1.0, 1.0])
    fine[:3, 3] -= fine[:3, :3] @ [0.5, 0.5, 0.0]  # so that two fine voxels fill one
    save(tmp_path / "p" / "a.nii.gz", boxes().repeat(2, axis=0).repeat(2, axis=1), fine)
    save(tmp_path / "p" / "b.nii.gz", boxes())
    for name in "ab":
        save(tmp_path / "r" / f"{name}.nii.gz", boxes())
    with pytest.raises(GeometryError, match="--resample"):
        evaluate(tmp_path / "p", tmp_path / "r")
    report = evaluate(tmp_path / "p", tmp_path / "r", resample=True, output=tmp_path / "out")
    assert value(report, "a", "1", "dice") == 1.0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "shape 28x24x9" in summary["cases"][0]["resampled_from"]
    assert summary["cases"][0]["outside_ml"] == 0.0
    assert summary["cases"][1]["resampled_from"] == ""


def test_what_lies_beyond_the_reference_is_said_and_a_prediction_wholly_elsewhere_is_refused(tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] += AFFINE[:3, :3] @ [-4.0, 0.0, 0.0]  # two of the liver's six planes fall off
    p, r = save(tmp_path / "p.nii.gz", boxes(tumour=False), moved), save(tmp_path / "r.nii.gz", boxes(tumour=False))
    report = evaluate(p, r, resample=True)
    assert report.cases[0].outside_ml == pytest.approx(2 * 8 * 4 * 0.8 * 1.2 * 3.0 / 1000)
    assert value(report, report.cases[0].id, "1", "volume_ml") == pytest.approx(4 * 8 * 4 * 0.8 * 1.2 * 3.0 / 1000)
    moved[:3, 3] += 500.0
    save(tmp_path / "p.nii.gz", boxes(), moved)
    with pytest.raises(GeometryError, match="all of its structures lie outside"):
        evaluate(p, r, resample=True)


def test_a_prediction_stored_otherwise_is_not_resampled(tmp_path):
    order = all_storage_orders()[17]
    stored = np.ascontiguousarray(order.array(boxes()))
    save(tmp_path / "p.nii.gz", stored, order.geometry(Geometry(boxes().shape, AFFINE)).affine)
    save(tmp_path / "r.nii.gz", boxes())
    report = evaluate(tmp_path / "p.nii.gz", tmp_path / "r.nii.gz", resample=True)
    assert report.cases[0].resampled_from == ""
    assert report.mean("dice") == 1.0


# What is refused. The command's exit codes for all 23 kinds of shared/BADINPUTS.md are in tests/cli/test_cli_evaluate.py.


def test_missing_partners_are_named_on_both_sides_and_nothing_is_written(folders, tmp_path):
    (folders[0] / "b_seg.nii.gz").unlink()
    (folders[1] / "c.nii.gz").unlink()
    with pytest.raises(DataError) as error:
        evaluate(*folders, output=tmp_path / "out")
    assert "prediction missing for 1 of 2 case(s): b" in str(error.value)
    assert "reference missing for 1 of 2 case(s): c" in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("blank_figures")
def test_skip_bad_scores_the_rest_and_says_why(folders, tmp_path):
    (folders[0] / "a_seg.nii.gz").unlink()
    save(folders[0] / "b_seg.nii.gz", boxes()[:, :, :5])
    report = evaluate(*folders, skip_bad=True, output=tmp_path / "out")
    assert [c.id for c in report.cases] == ["c"]
    assert [case for case, _ in report.skipped] == ["a", "b"]
    assert "shape 14x12x5" in dict(report.skipped)["b"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["skipped"][0]["case"] == "a"
    assert "skipped" in report._repr_html_()


def test_skip_bad_with_nothing_left_is_an_error(folders, tmp_path):
    for file in folders[0].glob("*.nii.gz"):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 3 case\(s\) could be scored"):
        evaluate(*folders, skip_bad=True, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_grid_is_refused_with_both_grids_in_words(tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] += 0.3 * AFFINE[:3, 1]
    p, r = save(tmp_path / "p.nii.gz", boxes(), moved), save(tmp_path / "r.nii.gz", boxes())
    with pytest.raises(GeometryError) as error:
        evaluate(p, r)
    for words in (
        str(p),
        str(r),
        "14x12x9",
        "orientation",
        "0.8 x 1.2 x 3 mm",
        "0.3 voxels (0.36 mm)",
        "at most 0.05 voxels",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize(("part", "same"), [(0.04, True), (0.06, False)])
def test_a_corner_may_move_by_a_twentieth_of_a_voxel(tmp_path, part, same):
    moved = AFFINE.copy()
    moved[:3, 3] += part * AFFINE[:3, 2]
    p, r = save(tmp_path / "p.nii.gz", boxes(), moved), save(tmp_path / "r.nii.gz", boxes())
    if same:
        assert evaluate(p, r).mean("dice") == 1.0
    else:
        with pytest.raises(GeometryError):
            evaluate(p, r)


@pytest.mark.parametrize("second", ["a.nii", "a_seg.nii.gz", "a.nrrd"])
def test_two_files_of_one_case_are_ambiguous(folders, second):
    (folders[1] / second).write_bytes((folders[1] / "a.nii.gz").read_bytes())
    with pytest.raises(DataError, match=r"duplicate case 'a'.*ambiguous"):
        evaluate(*folders, skip_bad=True)


def test_a_folder_of_links_to_the_references_is_refused(folders, tmp_path):
    for file in folders[1].iterdir():
        (tmp_path / "links").mkdir(exist_ok=True)
        (tmp_path / "links" / file.name).symlink_to(file)
    with pytest.raises(DataError, match="identical files"):
        evaluate(tmp_path / "links", folders[1])


def test_labels_that_make_no_sense_are_a_config_error(folders):
    with pytest.raises(ConfigError, match="same value"):
        evaluate(*folders, labels={"liver": 1, "spleen": 1})


@pytest.mark.usefixtures("blank_figures")
def test_a_file_name_that_is_not_utf8_is_scored_and_written(tmp_path):
    for folder in ("p", "r"):
        save(tmp_path / folder / "x.nii.gz", boxes())
        (tmp_path / folder / "x.nii.gz").rename(tmp_path / folder / "caf\udce9.nii.gz")
    evaluate(tmp_path / "p", tmp_path / "r", output=tmp_path / "out")
    assert "caf\\udce9,1,dice,1.0,ratio" in (tmp_path / "out" / "scores.csv").read_text()


@pytest.mark.usefixtures("blank_figures")
def test_intervals_are_by_patient_and_the_worst_scores_listed(folders, tmp_path):
    report = evaluate(*folders, labels=LABELS, group="^[ab]|c", worst=2, output=tmp_path / "out")
    assert [(s.case, s.structure, s.state) for s in report.worst] == [
        ("c", "tumour", "missed"),
        ("b", "tumour", "scored"),
    ]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["group"] == "^[ab]|c"
    assert [s["case"] for s in summary["worst"]] == ["c", "b"]
    assert {s["patients"] for s in summary["summaries"]} == {3}
    one = evaluate(*folders, labels=LABELS, group="^.")
    assert {s.patients for s in one.summaries} == {3}
    assert {s.interval for s in evaluate(*folders, labels=LABELS, group="(?=)").summaries} == {""}


def test_a_group_that_fits_no_case_or_is_no_expression_is_refused(folders):
    with pytest.raises(DataError, match="a: group 'patient' does not match"):
        evaluate(*folders, group="patient")
    with pytest.raises(ConfigError, match="regular expression"):
        evaluate(*folders, group="(")


def test_the_page_shows_the_worst_cases_on_their_scans_or_says_why_not(folders, tmp_path):
    scans = tmp_path / "scans"
    save(scans / "c_0000.nii.gz", np.arange(14 * 12 * 9, dtype=np.int16).reshape(14, 12, 9))
    save(scans / "b.nii.gz", np.zeros((5, 5, 5), np.int16))
    evaluate(*folders, labels=LABELS, output=tmp_path / "out", worst=3, images=scans)
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "c: tumour dice 0.0000, missed" in page
    assert "b.nii.gz lies on another grid than the reference" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "| c | tumour | 0.0000 | missed |" in (tmp_path / "out" / "report.md").read_text()
    with pytest.raises(DataError, match="no folder of scans"):
        evaluate(*folders, images=tmp_path / "none", output=tmp_path / "out")


def test_the_page_of_a_mirrored_prediction_shows_both_masks_in_one_place(tmp_path):
    prediction, grid = boxes(1), Geometry(boxes().shape, AFFINE)
    order = all_storage_orders()[29]
    pages = []
    for name, data, affine in (
        ("as_is", prediction, AFFINE),
        ("stored", np.ascontiguousarray(order.array(prediction)), order.geometry(grid).affine),
    ):
        save(tmp_path / name / "p" / "x.nii.gz", data, affine)
        save(tmp_path / name / "r" / "x.nii.gz", boxes())
        evaluate(tmp_path / name / "p", tmp_path / name / "r", output=tmp_path / name / "out", worst=1)
        text = (tmp_path / name / "out" / "report.html").read_text()
        pages.append(text.split("data:image/png;base64,")[1].split('"')[0])
    assert pages[0] == pages[1]


@pytest.mark.usefixtures("blank_figures")
def test_a_region_is_scored_as_its_structures_taken_together_and_is_in_no_mean(tmp_path):
    prediction, reference = np.zeros((2, 8, 9, 10), np.uint8)
    reference[1:4, 2:6, 2:6], reference[4:7, 2:6, 2:6] = 1, 2
    prediction[1:5, 2:6, 2:6], prediction[5:7, 2:6, 2:6] = (
        1,
        2,
    )  # a border shifted between the two: together they are right
    p, r = save(tmp_path / "p.nii.gz", prediction), save(tmp_path / "r.nii.gz", reference)
    labels = {"background": 0, "left": 1, "right": 2, "other": 3}
    regions = {"both": ["left", "right"], "one": ["left", "other"]}
    report = evaluate(p, r, labels=labels, regions=regions, metrics=["dice", "hd"], output=tmp_path / "out")
    assert report.mean("dice", "both") == 1.0
    assert report.mean("hd", "both") == 0.0
    assert report.mean("dice", "one") == report.mean("dice", "left") == pytest.approx(2 * 48 / (48 + 64))
    assert report.mean("dice") == pytest.approx((report.mean("dice", "left") + report.mean("dice", "right")) / 2)
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["settings"]["regions"] == regions
    assert told["structures"]["both"]["scored"] == 1


@pytest.mark.parametrize(
    ("regions", "labels", "words"),
    [
        ({"both": ["left", "rihgt"]}, {"left": 1, "right": 2}, "no structure is called 'rihgt'"),
        ({"left": ["left", "right"]}, {"left": 1, "right": 2}, "'left' is a structure"),
        ({"both": ["left", "right"]}, None, "give --labels"),
    ],
)
def test_a_region_that_cannot_be_is_refused(folders, regions, labels, words):
    with pytest.raises(ConfigError, match=words):
        evaluate(*folders, labels=labels, regions=regions)
