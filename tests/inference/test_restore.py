"""Slab by slab onto the scan's grid, against torch's interpolation of everything at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from medseg.inference.decide import largest_in_float16, regions_in_order
from medseg.inference.restore import linear_matrix, nearest_matrix, restore


@given(source=st.integers(1, 60), target=st.integers(1, 60))
def test_the_matrix_is_torchs_linear_interpolation(source, target):
    eye = torch.eye(source, dtype=torch.float64)[None]
    theirs = interpolate(eye, size=target, mode="linear", align_corners=False)[0].T
    np.testing.assert_allclose(linear_matrix(source, target), theirs, atol=1e-6)


def cut(logits: torch.Tensor, axis: int, sizes: list[int]) -> list[torch.Tensor]:
    """Slabs (K, n, A, B) along ``axis``; ``sizes`` are repeated until they cover it."""
    moved, slabs, start = logits.movedim(axis + 1, 1), [], 0
    while start < moved.shape[1]:
        n = sizes[len(slabs) % len(sizes)]
        slabs.append(moved[:, start : start + n].clone())
        start += n
    return slabs


def assert_equals_all_at_once(logits: torch.Tensor, target: tuple[int, int, int], axis: int, sizes: list[int]) -> None:
    source = tuple(logits.shape[1:])
    ours = restore(cut(logits, axis, sizes), source=source, target=target, axis=axis, dtype=np.uint8)
    theirs = interpolate(logits.double()[None], size=target, mode="trilinear", align_corners=False)[0]
    best = theirs.topk(2, dim=0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    assert ours.shape == target
    assert ours.dtype == np.uint8
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(ours[clear], theirs.argmax(0).numpy()[clear])


sides = st.tuples(*[st.integers(1, 24)] * 3)


@settings(deadline=None, max_examples=150)
@given(source=sides, target=sides, axis=st.integers(0, 2), sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_any_slabs_give_what_interpolating_all_at_once_gives(source, target, axis, sizes):
    torch.manual_seed(0)
    assert_equals_all_at_once(torch.randn(3, *source), target, axis, sizes)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_thinner_than_the_distance_of_target_planes_are_not_lost(axis):
    """A scan with slices five times coarser than the plan's grid: whole slabs lie between two of its planes."""
    torch.manual_seed(1)
    source, target = [12, 11, 10], [12, 11, 10]
    source[axis], target[axis] = 40, 8
    for n in (1, 2, 3, 4, 5, 7):
        assert_equals_all_at_once(torch.randn(4, *source), tuple(target), axis, [n])


BLOCKS = (12, 50, 70)  # more than a tile an axis


def blocks(seed: int, outputs: int, level: int) -> torch.Tensor:
    """Whole logits (outputs, *BLOCKS) full of ties: in each block of 10 voxels one output is ``level`` above 0, 1 and 2."""
    random = np.random.default_rng(seed)
    winner = random.integers(0, outputs, [-(-n // 10) for n in BLOCKS])
    for a in range(3):
        winner = winner.repeat(10, axis=a)
    above = level * (np.arange(outputs)[:, None, None, None] == winner[: BLOCKS[0], : BLOCKS[1], : BLOCKS[2]])
    return torch.from_numpy((random.integers(0, 3, (outputs, *BLOCKS)) + above).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_leaving_out_what_cannot_win_changes_no_voxel_even_where_outputs_tie(axis, level, dtype):
    """At twice the voxels every share is 1/4 or 3/4, so that all sums of small whole numbers are exact."""
    logits = blocks(axis, 5, level)
    target = tuple(2 * n if a != 2 else n for a, n in enumerate(BLOCKS))
    theirs = interpolate(logits.double()[None], size=target, mode="trilinear", align_corners=False)[0].numpy()
    theirs = np.round(theirs * 16) / 16  # torch's own shares are a quarter but for rounding
    ties = (np.sort(theirs, axis=0)[-1] == np.sort(theirs, axis=0)[-2]).mean()
    assert level == 9 or ties > 0.02
    slabs = cut(logits.to(dtype), axis, [5, 3])
    common = {"source": BLOCKS, "target": target, "axis": axis, "dtype": np.uint8}
    np.testing.assert_array_equal(restore(slabs, **common), theirs.argmax(axis=0))
    wanted = np.zeros(target, np.uint8)
    for value, channel in zip(theirs - 2, (3, 1, 2, 5, 4), strict=True):
        wanted[value > 0] = channel
    below = [slab - 2 for slab in slabs]
    np.testing.assert_array_equal(restore(below, **common, decide=regions_in_order((3, 1, 2, 5, 4))), wanted)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_whatever_the_memory_order_of_a_slab_its_labels_are_the_same(axis):
    """Tiles follow the memory, so that other ones are made and joined."""
    target = (24, 100, 140)
    slabs = cut(blocks(axis, 5, 9), axis, [5, 3])
    turned = [slab.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1) for slab in slabs]
    common = {"source": BLOCKS, "target": target, "axis": axis, "dtype": np.uint8}
    found = restore(turned, **common)
    np.testing.assert_array_equal(found, restore(slabs, **common))
    assert np.unique(found).size == 5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_on_the_scans_own_grid_the_logits_are_decided_as_they_are(axis):
    logits = blocks(axis, 4, 1)
    slabs = cut(logits, axis, [5, 3])
    ours = restore(slabs, source=BLOCKS, target=BLOCKS, axis=axis, dtype=np.uint8)
    np.testing.assert_array_equal(ours, logits.numpy().argmax(axis=0))
    assert ours.flags.c_contiguous


@pytest.mark.parametrize(("source", "target"), [(4, 10), (10, 4), (7, 7), (3, 6)])
def test_the_nearest_voxel_is_torchs(source, target):
    eye = torch.eye(source)[None]
    theirs = interpolate(eye, size=target, mode="nearest-exact")[0].T
    np.testing.assert_array_equal(nearest_matrix(source, target), theirs)


def test_slabs_may_be_overwritten_once_the_next_is_asked_for():
    logits = blocks(3, 3, 9)

    def ring():
        for slab in cut(logits, 0, [5, 1, 4]):
            yield slab
            slab.fill_(torch.nan)

    common = {"source": BLOCKS, "target": (9, 33, 40), "axis": 0, "dtype": np.uint8}
    np.testing.assert_array_equal(restore(ring(), **common), restore(cut(logits, 0, [12]), **common))


def test_the_lowest_channel_wins_a_tie():
    logits = torch.zeros(4, 5, 6, 7)
    logits[2:] = 1.0
    ours = restore(cut(logits, 0, [2]), source=(5, 6, 7), target=(9, 6, 3), axis=0, dtype=np.uint16)
    assert ours.dtype == np.uint16
    assert (ours == 2).all()


@pytest.mark.parametrize("target", [(12, 50, 70), (24, 100, 70), (9, 33, 40)])
def test_logits_that_are_equal_once_rounded_to_float16_are_a_tie(target):
    logits = blocks(5, 4, 1) + 1000  # where float16 counts in halves
    logits += torch.from_numpy(np.random.default_rng(0).uniform(-0.6, 0.6, logits.shape).astype(np.float32))
    whole = interpolate(logits.double()[None], size=target, mode="trilinear", align_corners=False)[0].numpy()
    near = np.abs(np.mod(whole * 2, 1) - 0.5).min(axis=0) < 1e-3  # where single precision may round the other way
    wanted = whole.astype(np.float16).argmax(axis=0)
    slabs = cut(logits, 0, [5, 3])
    common = {"source": BLOCKS, "target": target, "axis": 0, "dtype": np.uint8}
    found = restore(slabs, **common, decide=largest_in_float16)
    assert near.mean() < 0.05
    np.testing.assert_array_equal(found[~near], wanted[~near])
    assert (wanted != whole.argmax(axis=0)).mean() > 0.02


def test_slabs_that_do_not_cover_the_source_are_refused():
    with pytest.raises(ValueError, match="cover"):
        restore([torch.zeros(2, 3, 4, 4)], source=(5, 4, 4), target=(5, 4, 4), axis=0, dtype=np.uint8)
