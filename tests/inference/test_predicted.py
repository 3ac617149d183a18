"""Predicted Dice: sums and limits by hand, coverage by drawing from known distributions; nothing is said without grounds."""

import math

import numpy as np
import pytest
import torch

from medseg.core.component import Component
from medseg.core.labels import Labels
from medseg.inference.expected import ExpectedDice
from medseg.inference.predicted import (
    PredictedDice,
    calibrated,
    deciding,
    poor,
    predictor_for,
    scans_of,
    shift_of,
)
from medseg.inference.settings import InferenceSettings
from medseg.models.how_to_run import DiceCalibration

LABELS = Labels.from_mapping({"background": 0, "liver": 4, "tumour": 9, "spleen": 2})
"""Channels by value: 1 spleen, 2 liver, 3 tumour."""
HERE = {"liver": 3.0, "tumour": 1.0, "spleen": 0.5}


def slabs(shares, planes=1):
    return torch.tensor(shares, dtype=torch.float32).split(planes, dim=1)


def summed(labels, parts, outputs, volumes_ml=HERE):
    sums = ExpectedDice(labels)
    before = [part.clone() for part in parts]
    for old, same in zip(before, sums.watched(parts, outputs), strict=True):
        assert torch.equal(old, same)
    return sums.of(volumes_ml)


# Four voxels, two to a slab: background, spleen, liver, tumour.
SHARES = np.array([[0.7, 0.1, 0.2, 0.0], [0.2, 0.6, 0.2, 0.0], [0.1, 0.3, 0.5, 0.1], [0.0, 0.1, 0.9, 0.0]]).T


@pytest.mark.parametrize("outputs", ["probabilities", "logits"])
@pytest.mark.parametrize("planes", [1, 2])
def test_soft_dice_is_that_of_the_voxels_by_hand(outputs, planes):
    given = SHARES if outputs == "probabilities" else np.log(np.maximum(SHARES, 1e-30)) + 5
    found = summed(LABELS, slabs(given.reshape(4, 2, 1, 2), planes), outputs)
    # spleen wins 1 voxel with 0.6 of 1.1 in all; liver 2 voxels with 1.4 of 1.8; tumour none
    assert found["spleen"] == pytest.approx(2 * 0.6 / (1 + 1.1))
    assert found["liver"] == pytest.approx(2 * 1.4 / (2 + 1.8))
    assert math.isnan(found["tumour"])


def test_many_small_blocks_sum_to_the_same_as_one(monkeypatch):
    torch.manual_seed(0)
    logits = 3 * torch.randn(4, 5, 7, 6)
    shares = torch.softmax(logits.double(), dim=0)
    mask = shares.argmax(dim=0)
    for size in (2**20, 64, 4):
        monkeypatch.setattr("medseg.inference.expected._BLOCK_VALUES", size)
        found = summed(LABELS, logits.split([3, 2], dim=1), "logits")
        for channel, name in enumerate(LABELS.names, 1):
            inside = mask == channel
            wanted = 2 * shares[channel][inside].sum() / (inside.sum() + shares[channel].sum())
            assert found[name] == pytest.approx(float(wanted), rel=1e-5)


def test_of_regions_a_voxel_is_what_the_last_one_writes():
    labels = Labels.from_mapping(
        {"background": 0, "liver": 1, "tumour": 2}, {"whole": ["liver", "tumour"], "tumour": ["tumour"]}
    )
    whole, tumour = [0.9, 0.8, 0.4, 0.9], [0.1, 0.7, 0.2, 0.5]
    found = summed(
        labels, slabs(np.array([whole, tumour]).reshape(2, 1, 1, 4)), "probabilities", {"liver": 1, "tumour": 1}
    )
    # tumour: voxel 2 alone; liver: voxels 1 and 4 (one half is not above one half)
    own = [0.9 * 0.9, 0.8 * 0.3, 0.4 * 0.8, 0.9 * 0.5]
    assert found["tumour"] == pytest.approx(2 * 0.7 / (1 + 1.5))
    assert found["liver"] == pytest.approx(2 * (own[0] + own[3]) / (2 + sum(own)))


def test_what_the_label_map_lost_has_no_expected_dice():
    found = summed(LABELS, slabs(SHARES.reshape(4, 2, 1, 2)), "probabilities", HERE | {"liver": 0.0})
    assert math.isnan(found["liver"])
    assert not math.isnan(found["spleen"])


def one_each(measured, expected=0.5):
    """Patients of one scan; the log odds of an expected 0.5 are 0, so that the limits are those of ``measured``."""
    return tuple(((expected, dice),) for dice in measured)


def limits(patients, expected=0.5):
    told = DiceCalibration.model_construct(settings={}, measured_on="", scans={"fold_0": {"liver": patients}})
    return predictor_for([told], InferenceSettings(), 1).of({"liver": expected})["liver"]


def test_limits_are_the_order_statistics_that_the_number_of_patients_asks_for():
    dice = np.random.default_rng(0).permutation(
        np.arange(1, 40) / 41
    )  # 39: ceil(40 * 0.95) = 38, the second from each end
    found = limits(one_each(dice))
    assert (found.low, found.dice, found.high) == pytest.approx((2 / 41, 20 / 41, 38 / 41))
    found = limits(one_each(dice[dice < 20 / 41]))  # 19: the smallest and the largest
    assert (found.low, found.dice, found.high) == pytest.approx((1 / 41, 10 / 41, 19 / 41))
    found = limits(one_each(dice[dice < 19 / 41]))  # 18 are too few for both sides: all that may miss lies below
    assert (found.low, found.high) == pytest.approx((1 / 41, 1))
    assert limits(one_each(dice[:9])).low == pytest.approx(dice[:9].min())


def test_too_few_patients_have_no_interval_and_say_so():
    found = limits(one_each([0.8] * 8))
    assert found.dice == pytest.approx(0.8)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert str(found) == "0.80 (an interval needs 9 patients, validation had 8)"
    assert found.as_json()["low"] is None
    assert poor({"liver": found}) == []


def test_the_odds_of_the_expected_dice_move_by_those_that_were_measured():
    # Expected odds 9, measured odds 3, so that an expected 0.8 (odds 4) predicts odds of 4/3.
    found = limits(one_each([0.75] * 9, expected=0.9), expected=0.8)
    assert (found.dice, found.low) == pytest.approx((4 / 7, 4 / 7))


def test_a_patient_of_many_scans_weighs_as_much_as_one_of_a_single_scan():
    many = (tuple((0.5, 0.1) for _ in range(50)),)
    others = one_each(np.arange(20, 38) / 41)  # with 18 others: 19 patients, whose limits are the extremes
    found = limits(many + others)
    assert (found.low, found.high, found.dice) == pytest.approx((0.1, 37 / 41, 28 / 41))
    # Of 39 patients the limit may leave 2 of 40 parts below: one patient's 0.1, and one half of the next one's scans.
    two = (((0.5, 0.2), (0.5, 0.3)),)
    rest = one_each(np.linspace(0.5, 0.9, 37))
    assert limits(many + two + rest).low == pytest.approx(0.2)
    assert limits((((0.5, 0.1), (0.5, 0.4)), *two, *rest)).low == pytest.approx(0.3)


def test_dice_of_0_and_1_move_limits_to_the_ends_and_never_to_nothing():
    found = limits(one_each([0.0, *[0.8] * 17, 1.0]))
    assert (found.low, found.high) == (0, 1)
    assert found.dice == pytest.approx(0.8)
    for said in (0.0, 1.0):
        assert 0 <= limits(one_each([0.5] * 19, expected=said), expected=said).low <= 1


@pytest.mark.parametrize(("n", "exact"), [(9, 0.9), (19, 0.9), (30, 29 / 31)])
def test_as_many_new_patients_lie_inside_as_was_promised(n, exact):
    """By drawing, for a network that is too sure of itself by a changing amount; of n limits each is crossed by 1 of n + 1."""
    random = np.random.default_rng(n)
    inside = 0
    for _ in range(1500):
        said = random.uniform(0.6, 0.99, n + 1)
        was = 1 / (1 + np.exp(-(np.log(said / (1 - said)) - random.gamma(2.0, 0.6, n + 1))))
        found = limits(tuple(((s, d),) for s, d in zip(said[1:], was[1:], strict=True)), said[0])
        inside += found.low <= was[0] <= found.high
    assert inside / 1500 == pytest.approx(exact, abs=0.025)  # three standard errors


def test_what_was_not_found_or_never_measured_is_undefined_and_says_why():
    told = DiceCalibration(settings={}, measured_on="", scans={"fold_0": {"liver": one_each([0.9] * 20), "spleen": ()}})
    found = predictor_for([told], InferenceSettings(), 1).of({"liver": math.nan, "spleen": 0.9})
    assert str(found["liver"]) == "not found in this scan"
    assert str(found["spleen"]) == "found in no validation scan"
    assert all(math.isnan(one.dice) and math.isnan(one.low) for one in found.values())
    assert found["spleen"].as_json() == {
        **{"dice": None, "low": None, "high": None, "expected": 0.9},
        "why": "found in no validation scan",
    }
    assert poor(found) == []


def test_a_lower_limit_below_0_7_is_a_reason_to_review():
    figures = {"liver": PredictedDice(0.9, 0.7, 0.95, 0.9), "tumour": PredictedDice(0.82, 0.41, 0.9, 0.9)}
    assert poor(figures) == ["tumour: predicted Dice 0.82, 90% interval 0.41 to 0.90; below 0.7 is poor"]


def test_a_calibration_keeps_scans_by_patient_and_only_where_both_figures_are_defined():
    said = [{"a": 0.9, "b": math.nan}, {"a": 0.8, "b": 0.7}, {"a": 0.7, "b": 0.6}]
    was = [{"a": 0.85, "b": 0.0}, {"a": 0.75}, {"a": 0.0, "b": 0.5}]  # b of the second case is not annotated
    assert scans_of(["anna", "bert", "anna"], said, was) == {
        "a": (((0.9, 0.85), (0.7, 0.0)), ((0.8, 0.75),)),
        "b": (((0.6, 0.5),),),
    }
    many = scans_of([str(n) for n in range(601)], [{"a": 0.9}] * 601, [{"a": 0.8}] * 601)
    assert len(many["a"]) == 201


def test_folds_are_taken_together_and_the_calibration_most_like_the_run_is_used():
    first = DiceCalibration(
        settings=deciding(InferenceSettings(), 1),
        measured_on="usual",
        scans={"fold_0": {"liver": one_each([0.8] * 5)}, "fold_1": {"liver": one_each([0.9] * 6)}},
    )
    steps = {"liver": (Component(name="largest_component"),)}
    fast = InferenceSettings(overlap=0.25, postprocess=steps)
    second = first.model_copy(update={"settings": deciding(fast, 1), "measured_on": "fast"})
    second = DiceCalibration.model_validate_json(second.model_dump_json())
    assert calibrated(first)["liver"].patients == 11
    both = (first, second)
    usual, quick = predictor_for(both, InferenceSettings(batch=4), 1), predictor_for(both, fast, 1)
    assert (usual.calibration.measured_on, quick.calibration.measured_on) == ("usual", "fast")
    assert usual.remark() == quick.remark() == ""
    other = predictor_for(both, InferenceSettings(mirror=(0, 1)), 2)
    assert other.calibration.measured_on == "usual"
    assert "calibrated with mirror off, folds 1; with mirror 0,1, folds 2 its interval may" in other.remark()
    assert predictor_for((), InferenceSettings(), 1) is None
    older = first.model_copy(update={"settings": {}})  # of a medseg that knew fewer settings: they were as is usual
    assert predictor_for((older,), InferenceSettings(), 1).unlike == {}


def test_a_structure_of_one_patient_has_a_shift_but_no_limits():
    shift = shift_of((((0.5, 0.5), (0.5, 0.75), (0.5, 0.9)),))
    assert shift.middle == pytest.approx(math.log(3))
    assert shift.patients == 1
    assert math.isnan(shift.low)
