"""Majority and STAPLE by hand and against SimpleITK."""

import math

import numpy as np
import pytest
import SimpleITK

from medseg.statistics.consensus import consensus, staple


def drawn(truth, sensitivity, specificity, rng):
    return np.where(truth, rng.random(truth.shape) < sensitivity, rng.random(truth.shape) > specificity)


def patterns(masks):
    codes = sum(m.astype(int) << n for n, m in enumerate(masks))
    voxels = np.bincount(codes.ravel(), minlength=2 ** len(masks))
    votes = (np.arange(len(voxels))[:, None] >> np.arange(len(masks)) & 1).astype(bool)
    return votes, voxels, codes


@pytest.mark.parametrize("readers", [3, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_staple_is_that_of_simpleitk(readers, seed):
    rng = np.random.default_rng(seed)
    truth = np.zeros((12, 15, 18), bool)
    truth[3:9, 4:12, 5:14] = True
    masks = [drawn(truth, rng.uniform(0.75, 0.98), rng.uniform(0.9, 0.99), rng) for _ in range(readers)]
    votes, voxels, codes = patterns(masks)
    found = staple(votes, voxels)
    judge = SimpleITK.STAPLEImageFilter()
    judge.SetMaximumIterations(5000)
    expected = SimpleITK.GetArrayFromImage(
        judge.Execute([SimpleITK.GetImageFromArray(m.astype(np.uint8)) for m in masks])
    )
    assert found.settled
    assert found.sensitivity == pytest.approx(judge.GetSensitivity(), abs=1e-5)
    assert found.specificity == pytest.approx(judge.GetSpecificity(), abs=1e-5)
    assert found.truth[codes] == pytest.approx(expected, abs=1e-4)


def test_staple_finds_the_readers_that_made_the_votes():
    """Expected numbers of votes of three readers of known quality: their figures come back, and the prior's."""
    rng = np.random.default_rng(1)
    truth = rng.random(400_000) < 0.4
    quality = [(0.95, 0.9), (0.8, 0.97), (0.7, 0.8)]
    votes, voxels, _ = patterns([drawn(truth, p, q, rng) for p, q in quality])
    found = staple(votes, voxels)
    # The prior of the algorithm is the mean of all votes, 0.41 here, so that the estimates are not the maximum of likelihood.
    assert found.sensitivity == pytest.approx([p for p, _ in quality], abs=0.02)
    assert found.specificity == pytest.approx([q for _, q in quality], abs=0.02)


def test_readers_who_all_agree_are_right_and_never_wrong():
    votes = np.array([[False] * 3, [True] * 3])
    found = staple(votes, np.array([50, 20]))
    assert found.truth == pytest.approx([0.0, 1.0])
    assert found.sensitivity == pytest.approx([1.0] * 3)
    assert found.specificity == pytest.approx([1.0] * 3)
    only = staple(votes[1:], np.array([20]))
    assert only.truth == pytest.approx([1.0])
    assert all(math.isnan(q) for q in only.specificity)


def line(*values):
    return np.array(values, np.uint8).reshape(1, 1, -1)


def test_a_majority_is_more_than_half_and_ties_are_background_and_counted():
    maps = [line(1, 1, 1, 2, 0, 1), line(1, 1, 2, 2, 0, 0), line(1, 0, 0, 1, 0, 0)]
    found = consensus(maps, [1, 2], "majority")
    assert found.data.ravel().tolist() == [1, 1, 0, 2, 0, 0]
    assert found.undecided == 1  # the third voxel: 1, 2 and background, one each
    two = consensus(maps[:2], [1, 2], "majority")
    assert two.data.ravel().tolist() == [1, 1, 0, 2, 0, 0]
    assert two.undecided == 2
    assert two.readers == {}


def test_four_readers_two_against_two_are_undecided():
    found = consensus([line(3, 3), line(3, 3), line(0, 3), line(0, 0)], [3], "majority")
    assert found.data.ravel().tolist() == [0, 3]
    assert found.undecided == 1


def boxes(start):
    data = np.zeros((20, 20, 10), np.uint16)
    data[start : start + 8, 3:15, 2:8] = 300
    data[start + 8 : start + 11, 3:15, 2:8] = 7
    return data


@pytest.mark.parametrize("method", ["majority", "staple"])
def test_readers_one_voxel_apart_meet_in_the_middle(method):
    found = consensus([boxes(3), boxes(4), boxes(5)], [7, 300], method)
    assert np.array_equal(found.data, boxes(4))
    assert found.undecided == 0


def test_staple_does_not_depend_on_the_size_of_the_image_and_knows_each_structure_by_itself():
    maps = [boxes(3), boxes(4), boxes(5)]
    small = consensus(maps, [7, 300, 9], "staple")
    large = consensus([np.pad(m, 15) for m in maps], [7, 300, 9], "staple")
    assert np.array_equal(np.pad(small.data, 15), large.data)
    assert set(small.readers) == {7, 300}
    for value, readers in small.readers.items():
        assert readers.sensitivity.tolist() == large.readers[value].sensitivity.tolist()
    assert small.readers[300].sensitivity == pytest.approx([7 / 8, 1, 7 / 8], abs=1e-6)


def test_nobody_drew_anything():
    found = consensus([np.zeros((3, 3, 3), np.uint8)] * 3, [1], "staple")
    assert not found.data.any()
    assert found.readers == {}


def test_a_voxel_that_two_structures_claim_goes_to_the_more_probable():
    rng = np.random.default_rng(5)
    maps = [rng.choice([0, 1, 2], size=(12, 12, 12), p=[0.2, 0.4, 0.4]).astype(np.uint8) for _ in range(5)]
    found = consensus(maps, [1, 2], "staple")
    for value in (1, 2):
        votes, voxels, codes = patterns([m == value for m in maps])
        truth = staple(votes[voxels > 0], voxels[voxels > 0]).truth
        probability = np.zeros(len(voxels))
        probability[voxels > 0] = truth
        assert (probability[codes][found.data == value] > 0.5).all()
