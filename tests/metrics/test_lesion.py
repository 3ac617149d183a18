import math

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from medseg.core.geometry import Geometry, all_storage_orders
from medseg.metrics import LESION_METRICS, CasePair, MaskPair, Rules
from medseg.metrics.matching import match_lesions

GRID = np.diag([1.0, 2.0, 5.0, 1.0])  # 0.01 mL a voxel


def mask(*boxes, shape=(30, 12, 12)):
    """True in boxes of ((i, j, k), (length, width, height))."""
    found = np.zeros(shape, bool)
    for start, size in boxes:
        found[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return found


def figures(prediction, reference, iou=0.1):
    pair = MaskPair.of(prediction, reference, Geometry(reference.shape, GRID), Rules(lesion_iou=iou))
    return {name: metric(pair) for name, metric in LESION_METRICS.items()}


CUBE = (4, 4, 4)  # 0.64 mL


def test_two_found_one_missed_one_invented_by_hand():
    reference = mask(((1, 1, 1), CUBE), ((10, 1, 1), CUBE), ((20, 1, 1), (2, 2, 2)))
    prediction = mask(((1, 1, 1), CUBE), ((11, 1, 1), CUBE), ((20, 8, 8), (3, 3, 3)))
    # The first IoU is 1, the second 48 / 80; the small one is missed, and 0.27 mL are invented.
    assert figures(prediction, reference) == pytest.approx(
        {
            "lesion_f1": 2 / 3,
            "lesion_sensitivity": 2 / 3,
            "lesion_precision": 2 / 3,
            "lesion_sq": (1 + 0.6) / 2,
            "lesion_pq": (1 + 0.6) / 3,
            "lesion_false_positives": 1,
            "reference_lesions": 3,
            "lesion_sensitivity_0_to_0.5_ml": 0,
            "lesion_false_positives_0_to_0.5_ml": 1,
            "lesion_sensitivity_0.5_to_5_ml": 1,
            "lesion_false_positives_0.5_to_5_ml": 0,
            "lesion_sensitivity_from_5_ml": math.nan,
            "lesion_false_positives_from_5_ml": 0,
        },
        nan_ok=True,
    )


@pytest.mark.parametrize(("step", "lesions"), [((4, 0, 0), 1), ((4, 4, 4), 1), ((5, 0, 0), 2), ((4, 5, 0), 2)])
def test_voxels_that_touch_by_a_corner_are_one_lesion(step, lesions):
    second = tuple(1 + s for s in step)
    assert figures(mask(), mask(((1, 1, 1), CUBE), (second, CUBE)))["reference_lesions"] == lesions


@pytest.mark.parametrize(("iou", "found"), [(0.6, 1), (0.61, 0)])
def test_an_iou_equal_to_the_threshold_is_a_match(iou, found):
    lesions = figures(mask(((11, 1, 1), CUBE)), mask(((10, 1, 1), CUBE)), iou)
    assert lesions["lesion_sensitivity"] == lesions["lesion_f1"] == found


def test_a_prediction_that_joins_two_lesions_finds_one_of_them():
    reference = mask(((1, 1, 1), CUBE), ((6, 1, 1), CUBE))
    found = figures(mask(((1, 1, 1), (9, 4, 4))), reference)
    assert (found["lesion_sensitivity"], found["lesion_precision"]) == (0.5, 1.0)


def test_a_lesion_found_in_two_pieces_is_found_once_and_has_a_false_positive():
    found = figures(mask(((1, 1, 1), CUBE), ((6, 1, 1), CUBE)), mask(((1, 1, 1), (9, 4, 4))))
    assert (found["lesion_sensitivity"], found["lesion_false_positives"]) == (1.0, 1.0)


def test_the_most_pairs_are_matched_before_the_best_ones():
    # One long prediction over two lesions, and a short one beside it: the greedy best pair would leave one alone.
    reference = mask(((0, 0, 0), (10, 1, 1)), ((11, 0, 0), (6, 1, 1)))
    prediction = mask(((0, 2, 0), (1, 1, 1)))
    prediction[0:2, 0, 0] = True  # overlaps the first only: 2 of 10
    prediction[3:17, 0, 0] = True  # 7 of the first's, all 6 of the second's
    prediction[0, 2, 0] = False
    found = figures(prediction, reference)
    assert found["lesion_f1"] == 1.0
    assert found["lesion_sq"] == pytest.approx((2 / 10 + 6 / 14) / 2)


@pytest.mark.parametrize("seed", range(20))
def test_matching_in_groups_is_as_good_as_one_over_all_lesions(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = rng.random((2, 12, 12, 12)) < 0.12
    from scipy.ndimage import label

    (p, np_), (r, nr) = (label(m, np.ones((3, 3, 3))) for m in (prediction, reference))
    iou = np.zeros((np_, nr))
    for a in range(np_):
        for b in range(nr):
            iou[a, b] = np.sum((p == a + 1) & (r == b + 1)) / np.sum((p == a + 1) | (r == b + 1))
    iou[iou < 0.1] = 0
    worth = np.where(iou > 0, 1000 + iou, 0)
    rows, columns = linear_sum_assignment(worth, maximize=True)
    expected = iou[rows, columns]
    lesions = match_lesions(prediction, reference, voxel_ml=1.0, least_iou=0.1)
    assert lesions.found == np.count_nonzero(expected)
    assert lesions.reference_iou.sum() == pytest.approx(expected.sum())
    assert lesions.predicted_iou.sum() == pytest.approx(expected.sum())
    assert sorted(lesions.reference_ml) == sorted(np.bincount(r.ravel())[1:])


def test_figures_are_the_same_in_every_storage_order():
    rng = np.random.default_rng(4)
    prediction, reference = (rng.random((2, 9, 8, 7)) < 0.1).astype(np.uint8)
    grid = Geometry(reference.shape, GRID)
    expected = figures(prediction > 0, reference > 0)
    for order in all_storage_orders()[::5]:
        pair = CasePair.of(order.array(prediction), order.array(reference), order.geometry(grid)).structure(1)
        assert {name: metric(pair) for name, metric in LESION_METRICS.items()} == pytest.approx(expected, nan_ok=True)


RATIOS = [name for name, metric in LESION_METRICS.items() if metric.unit == "ratio"]


def test_where_all_lesions_are_missed_every_ratio_is_0():
    found = figures(mask(), mask(((1, 1, 1), CUBE), ((10, 1, 1), (2, 2, 2))))
    assert {found[name] for name in RATIOS if "from_5" not in name} == {0.0}
    assert math.isnan(found["lesion_sensitivity_from_5_ml"])
    assert found["lesion_false_positives"] == 0.0


def test_where_all_lesions_are_invented_sensitivity_is_undefined_and_the_rest_0():
    found = figures(mask(((1, 1, 1), CUBE)), mask())
    assert math.isnan(found["lesion_sensitivity"])
    assert [found[name] for name in ("lesion_f1", "lesion_precision", "lesion_sq", "lesion_pq")] == [0.0] * 4
    assert found["lesion_false_positives"] == 1.0


def test_where_there_are_no_lesions_every_ratio_is_undefined():
    found = figures(mask(), mask())
    assert all(math.isnan(found[name]) for name in RATIOS)
    assert found["lesion_false_positives"] == found["reference_lesions"] == 0.0


def test_thousands_of_specks_are_matched_at_once():
    rng = np.random.default_rng(0)
    prediction, reference = rng.random((2, 120, 120, 60)) < 0.02
    lesions = match_lesions(prediction, reference, voxel_ml=1.0, least_iou=0.1)
    assert len(lesions.reference_ml) > 9000
    assert lesions.found > 100
