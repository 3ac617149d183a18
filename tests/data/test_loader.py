"""Patches for training: where they lie, how often, and that they depend on (seed, step) alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.core.case import Case
from medseg.core.geometry import Geometry
from medseg.core.volume import LabelMap, Volume
from medseg.data.loader import load_batch
from medseg.data.store import build_store
from tests.models.tiny_model import tiny_plan


def stored_of(folder, pairs, plan):
    """Cases of given images (I, J, K) and references."""

    def load(case: Case) -> tuple[Volume, LabelMap]:
        image, reference = pairs[int(case.id)]
        grid = Geometry(reference.shape, np.eye(4))
        return Volume(image[None].astype(np.float32), grid), LabelMap(reference.astype(np.uint8), grid)

    return build_store(folder, [Case(str(n), str(n), (), Path("label.nii")) for n in range(len(pairs))], plan, load)


def numbered(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Each voxel of the image is its own number, from 1; the reference follows from the number."""
    number = np.arange(1, np.prod(shape) + 1).reshape(shape)
    return number, number % 3


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
    plan = tiny_plan(batch_size=3)
    stored = stored_of(tmp_path, [numbered((20, 15, 12)) for _ in range(4)], plan)
    forward = [load_batch(stored, plan, step, (10, 10, 10)) for step in range(6)]
    for step in (5, 2, 0, 2):
        again = load_batch(stored, plan, step, (10, 10, 10))
        np.testing.assert_array_equal(again.images, forward[step].images)
        np.testing.assert_array_equal(again.references, forward[step].references)
    assert not np.array_equal(forward[0].images, forward[1].images)
    other = load_batch(stored, plan.model_copy(update={"seed": 1}), 0, (10, 10, 10))
    assert not np.array_equal(other.images, forward[0].images)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_each_case_is_seen_equally_often(tmp_path, batch_size):
    plan = tiny_plan(batch_size=batch_size, patch_size=[4, 4, 4])
    pairs = [(np.full((4, 4, 4), n + 1), np.zeros((4, 4, 4))) for n in range(5)]
    stored = stored_of(tmp_path, pairs, plan)
    seen = [int(patch.max()) for step in range(40) for patch in load_batch(stored, plan, step, (4, 4, 4)).images]
    for start in range(0, len(seen) - 4, 5):  # one shuffled round after the other
        assert Counter(seen[start : start + 5]) == Counter(range(1, 6))
    assert len({tuple(seen[start : start + 5]) for start in range(0, len(seen) - 4, 5)}) > 1


@pytest.mark.parametrize("shape", [(30, 22, 18), (8, 8, 8), (5, 30, 3), (1, 2, 40)], ids=str)
@pytest.mark.parametrize("extent", [(8, 8, 8), (10, 10, 10), (11, 9, 13)], ids=str)
def test_image_and_reference_are_the_same_voxels_and_outside_is_zero(tmp_path, shape, extent):
    plan = tiny_plan(batch_size=2)
    stored = stored_of(tmp_path, [numbered(shape)], plan)
    for step in range(20):
        batch = load_batch(stored, plan, step, extent)
        assert batch.images.shape == (2, 1, *extent)
        assert batch.references.shape == (2, *extent)
        for image, reference in zip(batch.images[:, 0].astype(int), batch.references, strict=True):
            np.testing.assert_array_equal(reference, image % 3)  # number 0 is outside, its reference is background
            inside = np.argwhere(image)
            first = np.array(np.unravel_index(image[tuple(inside[0])] - 1, shape))
            voxels = np.array(np.unravel_index(image[tuple(inside.T)] - 1, shape)).T
            np.testing.assert_array_equal(voxels - first, inside - inside[0])  # shifted, nothing else


@pytest.mark.parametrize("shape", [(30, 22, 18), (8, 8, 8), (5, 30, 3)], ids=str)
def test_the_patch_within_the_extent_never_leaves_a_volume_that_is_larger(tmp_path, shape):
    plan = tiny_plan(batch_size=2)
    stored = stored_of(tmp_path, [numbered(shape)], plan)
    starts = [set(), set(), set()]
    for step in range(60):
        for image in load_batch(stored, plan, step, (12, 12, 12)).images[:, 0, 2:10, 2:10, 2:10]:
            covered = np.argwhere(image)
            for axis, size in enumerate(shape):
                extent = np.ptp(covered[:, axis]) + 1
                assert extent == min(size, 8)  # a larger volume fills the patch, a smaller one lies whole in it
                starts[axis].add(int(np.unravel_index(int(image.max()) - 1, shape)[axis]))
    assert all(len(found) > 5 for found, size in zip(starts, shape, strict=True) if size > 16)


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_the_share_of_foreground_patches_is_the_plans(tmp_path, fraction):
    """Two single voxels in 64,000: chance alone finds either in under 2 % of the patches."""
    plan = tiny_plan(batch_size=4, foreground_fraction=fraction, patch_size=[8, 8, 8])
    reference = np.zeros((40, 40, 40))
    reference[5, 20, 30] = 1
    reference[33, 8, 12] = 2
    stored = stored_of(tmp_path, [(reference, reference)], plan)
    found = Counter(
        int(patch.max()) for step in range(100) for patch in load_batch(stored, plan, step, (8, 8, 8)).references
    )
    share = (found[1] + found[2]) / 400
    assert abs(share - fraction) < (0.08 if fraction else 0.03)
    if fraction == 1:
        assert abs(found[1] - found[2]) < 80  # each structure is as likely as the other
        centres = [
            np.argwhere(patch)[0]
            for step in range(20)
            for patch in load_batch(stored, plan, step, (8, 8, 8)).references
        ]
        assert {tuple(c) for c in centres} == {(4, 4, 4)}


def test_a_case_without_foreground_gives_patches_all_the_same(tmp_path):
    plan = tiny_plan(batch_size=2, foreground_fraction=1.0)
    stored = stored_of(tmp_path, [(np.ones((20, 20, 20)), np.zeros((20, 20, 20)))], plan)
    assert load_batch(stored, plan, 0, (8, 8, 8)).images.min() == 1


def test_channels_stay_together(tmp_path):
    number, reference = numbered((20, 15, 12))
    grid = Geometry((20, 15, 12), np.eye(4))
    plan = tiny_plan(channels=2, intensity=[{"scheme": "z_score"}] * 2)
    stored = build_store(
        tmp_path,
        [Case("a", "a", (), Path("label.nii"))],
        plan,
        lambda case: (
            Volume(np.stack([number, -number]).astype(np.float32), grid),
            LabelMap(reference.astype(np.uint8), grid),
        ),
    )
    images = load_batch(stored, plan, 3, (10, 10, 10)).images
    np.testing.assert_array_equal(images[:, 0], -images[:, 1])


def two_voxels() -> np.ndarray:
    """Structure 1 at one voxel and 2 at another, of 64,000: chance alone finds either in under 2 % of the patches."""
    reference = np.zeros((40, 40, 40))
    reference[5, 20, 30] = 1
    reference[33, 8, 12] = 2
    return reference


def largest_channels(stored, plan, steps=50) -> Counter:
    return Counter(
        int(patch.max()) for step in range(steps) for patch in load_batch(stored, plan, step, (8, 8, 8)).references
    )


@pytest.mark.parametrize(
    ("sampling", "share"), [({"tumour": 3.0}, 0.75), ({"tumour": 0.0}, 0.0), ({"liver": 0.0}, 1.0)]
)
def test_a_structure_is_sampled_as_often_as_the_plan_weighs_it(tmp_path, sampling, share):
    plan = tiny_plan(batch_size=4, foreground_fraction=1.0, sampling=sampling)
    stored = stored_of(tmp_path, [(two_voxels(), two_voxels())], plan)
    assert abs(largest_channels(stored, plan)[2] / 200 - share) < 0.1 * (0 < share < 1) + 0.03


def test_structures_that_all_weigh_nothing_are_found_by_chance_alone(tmp_path):
    plan = tiny_plan(batch_size=4, foreground_fraction=1.0, sampling={"liver": 0.0, "tumour": 0.0})
    stored = stored_of(tmp_path, [(two_voxels(), two_voxels())], plan)
    assert largest_channels(stored, plan)[0] > 180


def test_a_structure_that_a_case_does_not_annotate_is_not_sampled_there(tmp_path):
    plan = tiny_plan(batch_size=4, foreground_fraction=1.0)
    stored = [replace(case, annotated=("tumour",)) for case in stored_of(tmp_path, [(two_voxels(),) * 2], plan)]
    assert largest_channels(stored, plan)[2] > 195


def test_a_batch_says_what_its_cases_annotate(tmp_path):
    plan = tiny_plan(batch_size=2, patch_size=[4, 4, 4])
    pairs = [(np.full((4, 4, 4), n + 1), np.zeros((4, 4, 4))) for n in range(2)]
    first, second = stored_of(tmp_path, pairs, plan)
    assert load_batch([first, second], plan, 0, (4, 4, 4)).annotated is None
    for step in range(4):
        batch = load_batch([first, replace(second, annotated=("tumour",))], plan, step, (4, 4, 4))
        of_case = {1: [True, True, True], 2: [True, False, True]}
        assert batch.annotated.tolist() == [of_case[int(image.max())] for image in batch.images]


def test_patches_lie_about_voxels_that_count_and_structures_are_still_sampled(tmp_path):
    """All but one slice is to be ignored: a patch about any voxel of the slice holds some of it."""
    plan = tiny_plan(batch_size=4, foreground_fraction=0.5, ignore=255)
    reference = np.full((40, 40, 40), 3)
    reference[20] = 0
    reference[20, 5, 5] = 2
    stored = stored_of(tmp_path, [(reference, reference)], plan)
    patches = [patch for step in range(25) for patch in load_batch(stored, plan, step, (8, 8, 8)).references]
    assert all((patch != 3).any() for patch in patches)
    assert 30 <= sum(bool((patch == 2).any()) for patch in patches) <= 70
