"""evaluate --probabilities: files of NIfTI and nnU-Net, on their grids, and everything that can be wrong with them."""

import math

import nibabel as nib
import numpy as np
import pytest

from medseg import evaluate
from medseg.cli.app import run
from medseg.core.errors import DataError, GeometryError
from tests.workflows.test_evaluate import AFFINE, LABELS, boxes, save, value

CASES = ("a", "b", "c")
CHANNELS = (0, 1, 5)


def softmax_of(data, rng=None):
    """Probabilities (C, I, J, K) whose most probable label is that of ``data``."""
    rng = rng or np.random.default_rng(0)
    other = rng.dirichlet([1.0] * len(CHANNELS), data.shape)
    onehot = np.stack([data == v for v in CHANNELS], axis=-1)
    return np.moveaxis(0.55 * onehot + 0.45 * other, -1, 0).astype(np.float32)


def as_nifti(path, probabilities, affine=AFFINE):
    return save(path, np.moveaxis(probabilities, 0, -1), affine)


def as_nnunet(path, probabilities):
    """As nnU-Net 2.8 writes it: SimpleITK's order of the axes (export_prediction.py)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, probabilities=probabilities.transpose(0, 3, 2, 1))
    return path


@pytest.fixture
def folders(tmp_path):
    """Three cases: perfect, shifted, tumour missed; probabilities by case."""
    made = {}
    for n, (name, data) in enumerate(zip(CASES, (boxes(), boxes(1), boxes(tumour=False)), strict=True)):
        save(tmp_path / "predictions" / f"{name}.nii.gz", data)
        save(tmp_path / "references" / f"{name}.nii.gz", boxes())
        made[name] = softmax_of(data, np.random.default_rng(n))
        as_nifti(tmp_path / "nifti" / f"{name}.nii.gz", made[name])
        as_nnunet(tmp_path / "predictions" / f"{name}.npz", made[name])
    return tmp_path / "predictions", tmp_path / "references", made


def scores(folders, place, **given):
    predictions, references, _ = folders
    return evaluate(predictions, references, labels=LABELS, metrics=["dice"], probabilities=place, **given)


def all_values(report):
    return [(s.case, s.structure, s.metric, s.value, s.state) for s in report.scores]


def assert_alike(found, expected):
    """The same figures but for the order in which voxels are summed."""
    assert [(*f[:3], f[4]) for f in found] == [(*e[:3], e[4]) for e in expected]
    assert [f[3] for f in found] == pytest.approx([e[3] for e in expected], nan_ok=True, rel=1e-12)


def test_figures_by_hand(folders, tmp_path):
    report = scores(folders, tmp_path / "nifti")
    p, truth = folders[2]["b"], boxes()
    # The box of the tumour, 4:6, 4:6, 3:5, is 13, 9 and 4 voxels wider (0.8, 1.2 and 3 mm) and cut at the border.
    box = (slice(0, 14), slice(0, 12), slice(0, 9))
    expected = np.mean((p[2][box].astype(float) - (truth[box] == 5)) ** 2)
    assert value(report, "b", "tumour", "brier") == pytest.approx(expected)
    channels = np.stack([truth == v for v in CHANNELS])
    assert value(report, "b", "", "brier_multiclass") == pytest.approx(
        ((p - channels) ** 2).sum(axis=0).mean(), rel=1e-5
    )
    assert value(report, "a", "tumour", "brier") < value(report, "c", "tumour", "brier")
    assert 0 < value(report, "a", "liver", "ece") < 1
    assert report.cases[0].probabilities_sha256


def test_files_of_nnunet_beside_the_predictions_give_the_same_figures(folders, tmp_path):
    by_nifti, by_npz = scores(folders, tmp_path / "nifti"), scores(folders, folders[0])
    assert_alike(all_values(by_nifti), all_values(by_npz))


@pytest.mark.parametrize("orientation", ["RAS", "IPL", "SAR"])
def test_another_storage_order_is_the_same_forecast(folders, tmp_path, orientation):
    expected = all_values(scores(folders, tmp_path / "nifti"))
    turn = nib.orientations.axcodes2ornt(orientation)
    for name in CASES:
        path = tmp_path / "nifti" / f"{name}.nii.gz"
        nib.save(nib.load(path).as_reoriented(nib.orientations.ornt_transform(
            nib.orientations.io_orientation(AFFINE), turn)), path)  # fmt: skip
        path = folders[0] / f"{name}.nii.gz"
        nib.save(nib.load(path).as_reoriented(nib.orientations.ornt_transform(
            nib.orientations.io_orientation(AFFINE), turn)), path)  # fmt: skip
        turned = nib.load(tmp_path / "nifti" / f"{name}.nii.gz").get_fdata(dtype=np.float32)
        as_nnunet(folders[0] / f"{name}.npz", np.moveaxis(turned, -1, 0))
    for place in (tmp_path / "nifti", folders[0]):
        assert_alike(all_values(scores(folders, place)), expected)


def test_a_single_channel_is_the_only_structures(folders, tmp_path):
    one = {"background": 0, "liver": 1}
    for name in CASES:
        save(folders[0] / f"{name}.nii.gz", boxes(tumour=False))
        save(folders[1] / f"{name}.nii.gz", boxes(tumour=False))
        as_nifti(
            tmp_path / "one" / f"{name}.nii.gz", np.where(boxes(tumour=False) == 1, 0.8, 0.1)[None].astype(np.float32)
        )
    report = evaluate(folders[0], folders[1], labels=one, probabilities=tmp_path / "one")
    assert report.mean("ece", "liver") > 0
    liver = value(report, "a", "liver", "brier")
    assert value(report, "a", "", "brier_multiclass") == pytest.approx(2 * liver)


def test_missed_is_scored_spurious_and_absent_are_undefined(folders, tmp_path):
    for name in CASES:
        save(folders[1] / f"{name}.nii.gz", boxes(tumour=name != "a"))
    report = scores(folders, tmp_path / "nifti")
    found = {s.case: s for s in report.scores if (s.structure, s.metric) == ("tumour", "brier")}
    assert (found["a"].state, math.isnan(found["a"].value)) == ("spurious", True)
    assert (found["c"].state, math.isnan(found["c"].value)) == ("missed", False)
    (row,) = [s for s in report.summaries if (s.structure, s.metric) == ("tumour", "ece")]
    assert (row.n, row.undefined, row.missed, row.spurious) == (2, 1, 1, 1)


def test_a_structure_in_no_case_is_counted_as_undefined(folders, tmp_path):
    for name in CASES:
        save(folders[0] / f"{name}.nii.gz", boxes(tumour=False))
        save(folders[1] / f"{name}.nii.gz", boxes(tumour=False))
        as_nnunet(folders[0] / f"{name}.npz", softmax_of(boxes(tumour=False)))
    (row,) = [s for s in scores(folders, folders[0]).summaries if (s.structure, s.metric) == ("tumour", "brier")]
    assert (row.n, row.undefined) == (0, 3)


def test_the_report_says_over_which_voxels_and_scores_are_compared(folders, tmp_path):
    for name in CASES:
        sure = np.stack([boxes() == v for v in CHANNELS]).astype(np.float32)
        as_nifti(tmp_path / "sure" / f"{name}.nii.gz", 0.98 * sure + 0.02 / 3)
        save(tmp_path / "right" / f"{name}.nii.gz", boxes())
    labels = tmp_path / "labels.json"
    labels.write_text('{"labels": {"background": 0, "liver": 1, "tumour": 5}}')
    out, better = tmp_path / "out", tmp_path / "better"
    for place, prediction, probabilities in ((out, folders[0], "nifti"), (better, tmp_path / "right", "sure")):
        given = ["evaluate", str(prediction), str(folders[1]), "--probabilities", str(tmp_path / probabilities), "-q"]
        assert run([*given, "--output", str(place)]) == 3  # nothing says that 5 is the third channel
        assert run([*given, "--labels", str(labels), "--output", str(place)]) == 0
    assert "10 mm wider" in (out / "report.html").read_text()
    assert "15 bins" in (out / "summary.json").read_text()
    from medseg import compare

    rows = {(r.endpoint.metric, r.endpoint.structure): r for r in compare([out, better], metrics=["ece", "brier"]).rows}
    assert rows["brier", "tumour"].wins == 3
    assert rows["brier", "tumour"].mean < 0


def broken(folders, tmp_path, kind):
    """Probabilities of case a that are ``kind``."""
    good = folders[2]["a"]
    path = tmp_path / "bad" / "a.nii.gz"
    shifted = AFFINE.copy()
    shifted[0, 3] += 2
    nan = good.copy()
    nan[0, 0, 0, 0] = np.nan
    small = path.with_name("a.npz")
    kinds = {
        "logits": lambda: as_nifti(path, 10 * good - 3),
        "sigmoids": lambda: as_nifti(path, np.clip(good * 1.4, 0, 1)),
        "no background": lambda: as_nifti(path, good[1:]),
        "one too many": lambda: as_nifti(path, np.concatenate([good * 0.5, good[:1] * 0 + 0.5])),
        "nan": lambda: as_nifti(path, nan),
        "other grid": lambda: as_nifti(path, good, shifted),
        "flipped": lambda: as_nifti(path, good[:, ::-1]),
        "another case": lambda: as_nifti(path, softmax_of(np.roll(boxes(), 6, 0))),
        "labels swapped": lambda: as_nifti(path, good[[1, 2, 0]]),
        "all zero": lambda: as_nifti(path, 0 * good),
        "npz in voxel order": lambda: _saved(small, probabilities=good),
        "npz of another name": lambda: _saved(small, logits=good.transpose(0, 3, 2, 1)),
        "npz of integers": lambda: _saved(small, probabilities=good.transpose(0, 3, 2, 1).astype(int)),
        "npz with nan": lambda: as_nnunet(small, nan),
        "npz truncated": lambda: small.write_bytes(as_nnunet(small, good).read_bytes()[:-300]),
        "npz of objects": lambda: _saved(small, probabilities=np.array([{"a": 1}], object)),
        "no zip": lambda: small.write_bytes(b"text"),
    }
    path.parent.mkdir()
    kinds[kind]()
    return path.parent


def _saved(path, **arrays):
    np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("logits", DataError, "no probabilities"),
        ("sigmoids", DataError, "do not sum to 1"),
        ("no background", DataError, "do not sum to 1"),
        ("one too many", DataError, "4 channels of probabilities for 3 labels"),
        ("nan", DataError, "finite"),
        ("other grid", GeometryError, "another grid than the reference"),
        ("flipped", GeometryError, "another order of axes"),
        ("another case", GeometryError, "of another prediction"),
        ("labels swapped", GeometryError, "order of axes or labels"),
        ("all zero", DataError, "every probability is 0"),
        ("npz in voxel order", GeometryError, "do not fit the prediction"),
        ("npz of another name", DataError, "no array called probabilities"),
        ("npz of integers", DataError, "floats"),
        ("npz with nan", DataError, "finite"),
        ("npz truncated", DataError, "truncated or corrupt"),
        ("npz of objects", DataError, None),
        ("no zip", DataError, "truncated or corrupt"),
    ],
)
def test_what_is_wrong_is_refused(folders, tmp_path, kind, error, message):
    bad = broken(folders, tmp_path, kind)
    prediction, reference = folders[0] / "a.nii.gz", folders[1] / "a.nii.gz"
    with pytest.raises(error, match=message):
        evaluate(prediction, reference, labels=LABELS, probabilities=bad, output=tmp_path / "out")
    assert not (tmp_path / "out" / "scores.csv").exists()


def test_a_case_without_probabilities_is_refused_or_skipped(folders, tmp_path):
    (tmp_path / "nifti" / "b.nii.gz").unlink()
    with pytest.raises(DataError, match="probabilities missing for 1 of 3 case"):
        scores(folders, tmp_path / "nifti")
    report = scores(folders, tmp_path / "nifti", skip_bad=True)
    assert [name for name, _ in report.skipped] == ["b"]
    with pytest.raises(DataError, match="not found"):
        scores(folders, tmp_path / "nowhere")
    with pytest.raises(DataError, match="one file of probabilities for 3 cases"):
        scores(folders, tmp_path / "nifti" / "a.nii.gz")


def test_voxels_beyond_the_crop_of_an_early_nnunet_are_background_and_said(folders, tmp_path):
    cropped = folders[2]["a"].copy()
    cropped[:, :, :, 7:] = 0
    path = as_nnunet(tmp_path / "crop" / "a.npz", cropped)
    report = evaluate(folders[0] / "a.nii.gz", folders[1] / "a.nii.gz", labels=LABELS, probabilities=path)
    assert any("taken for background" in w for w in report.cases[0].warnings)


def test_half_precision_is_read(folders, tmp_path):
    path = as_nnunet(tmp_path / "half" / "a.npz", folders[2]["a"].astype(np.float16))
    prediction, reference = folders[0] / "a.nii.gz", folders[1] / "a.nii.gz"
    found = evaluate(prediction, reference, labels=LABELS, probabilities=path)
    full = evaluate(prediction, reference, labels=LABELS, probabilities=tmp_path / "nifti" / "a.nii.gz")
    assert value(found, "a", "tumour", "brier") == pytest.approx(value(full, "a", "tumour", "brier"), abs=1e-3)


def test_cases_on_child_processes_give_the_same_figures(folders, tmp_path, monkeypatch):
    from medseg.metrics import many_cases

    expected = all_values(scores(folders, tmp_path / "nifti"))
    monkeypatch.setattr(many_cases.Watch, "case_done", lambda self, voxels, left: setattr(self, "over", True))
    monkeypatch.setattr(many_cases.Watch, "processes", lambda self, left: 2)
    assert_alike(all_values(scores(folders, tmp_path / "nifti")), expected)
