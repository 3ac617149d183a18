"""Sums in bricks against sums of the whole volume, and what is held at one time."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.core.errors import ModelError
from medseg.inference.bricks import Bricks, cuts_for, most_voxels
from medseg.inference.windows import gaussian_weights, nnunet_weights, window_starts

OUTPUTS = 3


def logits_of(starts, window):
    generator = torch.Generator().manual_seed(len(starts))
    return [torch.randn(OUTPUTS, *window, generator=generator) for _ in starts]


def in_order(shape, window, overlap, order):
    return sorted(window_starts(shape, window, overlap), key=lambda s: [s[a] for a in order])


def joined(bricks, starts, logits, shape):
    """The mean of the whole volume, each voxel of which comes once; and the most voxels that were held."""
    found, times, most = torch.zeros(OUTPUTS, *shape), np.zeros(shape, int), 0
    for start, one in zip(starts, logits, strict=True):
        for box, mean in bricks.add(one, start):
            found[(slice(None), *box)] = mean.float()
            times[box] += 1
            most = max(most, bricks._pool.made)
    assert (times == 1).all()
    assert not bricks._held
    return found, most


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*[st.tuples(st.sampled_from([1, 4, 7, 8]), st.integers(0, 18))] * 3),
    order=st.sampled_from(list(permutations(range(3)))),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    planes=st.booleans(),
)
def test_each_voxel_leaves_once_with_the_bits_of_the_whole_volumes_sums(sizes, order, overlap, planes):
    window = tuple(size for size, _ in sizes)
    shape = tuple(size + more for size, more in sizes)
    starts = in_order(shape, window, overlap, order)
    logits, weights = logits_of(starts, window), torch.from_numpy(gaussian_weights(window))
    sums, norm = torch.zeros(OUTPUTS, *shape), torch.zeros(shape)
    for start, one in zip(starts, logits, strict=True):
        place = tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
        sums[(slice(None), *place)].addcmul_(one, weights)
        norm[place] += weights
    cuts = cuts_for(starts, window, shape, order, planes=planes)
    found, most = joined(Bricks(OUTPUTS, starts, weights.numpy(), cuts), starts, logits, shape)
    assert torch.equal(found, sums / norm)
    assert most <= most_voxels(starts, window, cuts)


def test_bricks_hold_little_more_than_what_windows_to_come_overlap():
    """50 of the 96 planes of a window's depth are still open when a window's row of the next ones begins."""
    shape, window, order = (512, 512, 400), (96, 96, 96), (0, 1, 2)
    starts = in_order(shape, window, 0.5, order)
    planes, bricks = (
        most_voxels(starts, window, cuts_for(starts, window, shape, order, planes=p)) for p in (True, False)
    )
    assert 96 * 512 * 400 <= planes < 99 * 512 * 400
    assert 50 * 512 * 400 < bricks < 61 * 512 * 400


@pytest.mark.parametrize("exclusive", [False, True])
def test_sums_in_float16_are_the_same_whether_in_planes_or_bricks(exclusive):
    shape, window, order = (20, 17, 22), (8, 7, 8), (2, 0, 1)
    starts = in_order(shape, window, 0.5, order)
    logits, found = logits_of(starts, window), []
    for planes in (True, False):
        cuts = cuts_for(starts, window, shape, order, planes=planes)
        sums = Bricks(OUTPUTS, starts, gaussian_weights(window), cuts, dtype=torch.float16, exclusive=exclusive)
        found.append(joined(sums, starts, logits, shape)[0])
    assert torch.equal(*found)
    assert exclusive == bool((found[0].amax(dim=0) < 0.1).all())


def test_sums_as_nnunet_makes_them_never_overflow_in_silence():
    sums = Bricks(OUTPUTS, [(0, 0, 0)], nnunet_weights((4, 4, 4)), ([0, 4], [0, 4], [0, 4]), as_nnunet=True)
    with pytest.raises(ModelError, match="too large for sums in float16"):
        list(sums.add(torch.full((OUTPUTS, 4, 4, 4), 1e5), (0, 0, 0)))
