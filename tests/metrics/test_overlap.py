import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_iou

from medseg.core.geometry import Geometry
from medseg.metrics import CASE_METRICS, METRICS, CasePair, MaskPair, score_case, score_structure

ANISOTROPIC = np.diag([0.7, -0.9, 5.0, 1.0])
OVERLAPS = ("dice", "iou", "precision", "recall")


def masks(seed, shape=(9, 8, 7)):
    rng = np.random.default_rng(seed)
    return rng.random(shape) < rng.uniform(0.02, 0.9), rng.random(shape) < rng.uniform(0.02, 0.9)


def pair_of(prediction, reference):
    return MaskPair.of(prediction, reference, Geometry(prediction.shape, ANISOTROPIC))


def one_sided(state):
    prediction, reference = np.zeros((2, 4, 5, 6), bool)
    prediction[1:3, 1:3, 1:3] = state == "spurious"
    reference[1:3, 1:3, 1:3] = state == "missed"
    return pair_of(prediction, reference)


def test_two_boxes_by_hand():
    prediction, reference = np.zeros((2, 10, 12, 7), bool)
    prediction[1:5, 2:6, 1:4] = True  # 48 voxels
    reference[3:9, 3:7, 0:3] = True  # 72 voxels, 12 common
    expected = {
        "dice": 24 / 120,
        "iou": 12 / 108,
        "precision": 12 / 48,
        "recall": 12 / 72,
        "specificity": (840 - 108) / (840 - 72),
        "accuracy": (840 - 36 - 60) / 840,
        "volume_ml": 48 * 0.7 * 0.9 * 5.0 / 1000,
        "reference_volume_ml": 72 * 0.7 * 0.9 * 5.0 / 1000,
        "volume_difference_ml": -24 * 0.7 * 0.9 * 5.0 / 1000,
        "relative_volume_difference": -24 / 72,
        # Centres: (2.5, 3.5, 2) and (5.5, 4.5, 1).
        "centroid_distance_mm": math.hypot(3 * 0.7, 1 * 0.9, 1 * 5.0),
    }
    values = {name: METRICS[name](pair_of(prediction, reference)) for name in expected}
    assert values == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_dice_and_iou_equal_those_of_monai(seed):
    prediction, reference = masks(seed)
    tensors = [torch.from_numpy(m)[None, None] for m in (prediction, reference)]
    pair = pair_of(prediction, reference)
    assert METRICS["dice"](pair) == pytest.approx(compute_dice(*tensors).item(), abs=1e-6)
    assert METRICS["iou"](pair) == pytest.approx(compute_iou(*tensors).item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
def test_every_ratio_equals_a_direct_count(seed):
    p, r = masks(seed + 100)
    pair = pair_of(p, r)
    assert METRICS["precision"](pair) == np.mean(r[p])
    assert METRICS["recall"](pair) == np.mean(p[r])
    assert METRICS["accuracy"](pair) == np.mean(p == r)


def test_a_missed_structure_has_neither_accuracy_nor_specificity():
    assert METRICS["accuracy"](one_sided("missed")) == METRICS["specificity"](one_sided("missed")) == 0.0


def test_both_empty_is_undefined_for_overlap_and_not_for_accuracy():
    pair = one_sided("both_empty")
    assert all(math.isnan(METRICS[name](pair)) for name in OVERLAPS)
    assert METRICS["accuracy"](pair) == 1.0


def test_missed_is_zero_for_every_overlap():
    assert [METRICS[name](one_sided("missed")) for name in OVERLAPS] == [0.0] * 4


def test_spurious_is_zero_and_its_recall_undefined():
    pair = one_sided("spurious")
    assert [METRICS[name](pair) for name in ("dice", "iou", "precision")] == [0.0] * 3
    assert math.isnan(METRICS["recall"](pair))


def test_volume_counts_a_shear_by_its_determinant():
    sheared = np.array([[1.0, 0.5, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.3, 5.0, 0.0], [0, 0, 0, 1]])
    ones = np.ones((10, 10, 10), bool)
    pair = MaskPair.of(ones, ~ones, Geometry((10, 10, 10), sheared))
    assert METRICS["volume_ml"](pair) == pytest.approx(10.0)
    assert METRICS["reference_volume_ml"](pair) == 0.0


def test_mean_iou_leaves_the_background_out_and_counts_missed_and_spurious_as_zero():
    reference, prediction = np.zeros((2, 4, 4, 4), np.uint8)
    reference[0], prediction[0] = 1, 1  # iou 1
    reference[1, :2] = 5  # missed
    prediction[2] = 9  # spurious
    pair = CasePair.of(prediction, reference, Geometry((4, 4, 4), ANISOTROPIC))
    assert CASE_METRICS["mean_iou"](pair) == pytest.approx(1 / 3)
    assert CASE_METRICS["pixel_accuracy"](pair) == pytest.approx((16 + 64 - 16 - 8 - 16) / 64)


def test_mean_iou_of_nothing_is_undefined():
    empty = np.zeros((3, 3, 3), np.uint8)
    pair = CasePair.of(empty, empty, Geometry((3, 3, 3), ANISOTROPIC))
    assert math.isnan(CASE_METRICS["mean_iou"](pair))
    assert CASE_METRICS["pixel_accuracy"](pair) == 1.0


@pytest.mark.parametrize("name", METRICS)
class TestContract:
    """What every entry of METRICS keeps."""

    def test_has_a_source_or_a_formula_in_its_words(self, name):
        words = METRICS[name].function.__doc__
        assert words is not None
        assert "doi:" in words or "voxels times" in words
        assert METRICS[name].unit in ("ratio", "mL", "mm", "mm²", "%", "count")

    @pytest.mark.parametrize("state", ["both_empty", "missed", "spurious"])
    def test_empty_masks_give_a_figure_or_nan_and_never_fail(self, name, state):
        value = METRICS[name](one_sided(state))
        assert isinstance(value, float)
        assert not math.isinf(value)

    def test_value_does_not_depend_on_the_storage_order(self, name):
        p, r = masks(7)
        grid = Geometry(p.shape, ANISOTROPIC)
        turned = Geometry((7, 9, 8), np.diag([5.0, 0.7, -0.9, 1.0])[[1, 2, 0, 3]])
        value = METRICS[name](MaskPair.of(p.transpose(2, 0, 1), r.transpose(2, 0, 1), turned))
        assert value == pytest.approx(METRICS[name](MaskPair.of(p, r, grid)))

    def test_a_perfect_prediction_has_the_best_figure(self, name):
        p, _ = masks(3)
        best = {"ratio": 1.0, "mm": 0.0}.get(METRICS[name].unit)
        if "difference" in name:
            best = 0.0
        if best is not None:
            assert METRICS[name](pair_of(p, p)) == best


def test_scores_say_case_structure_unit_and_state():
    scores = score_structure("case_1", "liver", one_sided("missed"), METRICS)
    assert [s.metric for s in scores] == list(METRICS)
    assert {(s.case, s.structure, s.state) for s in scores} == {("case_1", "liver", "missed")}
    assert {s.metric: s.unit for s in scores}["volume_ml"] == "mL"


def test_scores_of_a_whole_case_have_no_structure():
    empty = np.zeros((3, 3, 3), np.uint8)
    scores = score_case("c", CasePair.of(empty, empty, Geometry((3, 3, 3), ANISOTROPIC)))
    assert [(s.structure, s.metric) for s in scores] == [("", "mean_iou"), ("", "pixel_accuracy")]
