"""Streaming against everything at once: a naive sliding window, MONAI's, and the memory that is held."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from medseg.core.errors import ModelError
from medseg.inference import stream
from medseg.inference.stream import slab_axis, stream_logits
from medseg.inference.windows import gaussian_weights, nnunet_weights, window_starts

CHANNELS = 3


def predictor(window: tuple[int, int, int]):
    """A convolution whose result also depends on the place in the window, so that the blending shows."""
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(CHANNELS, 2, 3, 3, 3, generator=generator)
    place = torch.randn(window, generator=generator)

    def predict(patches: torch.Tensor) -> torch.Tensor:
        assert patches.shape[1:] == (2, *window)
        assert patches.dtype == torch.float32
        return torch.nn.functional.conv3d(patches, kernel, padding=1) * place + place

    return predict


def one_by_one(predict):
    """``predict`` called with one patch at a time, whatever the batch, so that rounding does not depend on it."""
    return lambda patches: torch.cat([predict(patch[None]) for patch in patches])


def image_of(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=(2, *shape)).astype(np.float32)


def joined(slabs, axis: int) -> torch.Tensor:
    return torch.cat([slab.clone() for slab in slabs], dim=1).movedim(1, axis + 1)


def all_at_once(
    image: np.ndarray, predict, window: tuple[int, int, int], axis: int, overlap: float = 0.5
) -> torch.Tensor:
    """The Gaussian-weighted mean, with sums of the size of the whole padded volume, window after window along ``axis``."""
    before = [max(0, w - n) // 2 for n, w in zip(image.shape[1:], window, strict=True)]
    after = [max(0, w - n) - b for n, w, b in zip(image.shape[1:], window, before, strict=True)]
    padded = torch.from_numpy(np.pad(image, [(0, 0), *zip(before, after, strict=True)]))
    weights = torch.from_numpy(gaussian_weights(window))
    sums, norm = torch.zeros(CHANNELS, *padded.shape[1:]), torch.zeros(padded.shape[1:])
    for start in sorted(window_starts(tuple(padded.shape[1:]), window, overlap), key=lambda s: (s[axis], s)):
        place = tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
        sums[(slice(None), *place)].addcmul_(predict(padded[(slice(None), *place)][None])[0], weights)
        norm[place] += weights
    inside = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    return (sums / norm)[(slice(None), *inside)]


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 22)] * 3),
    window=st.tuples(*[st.sampled_from([4, 7, 8])] * 3),
    axis=st.integers(0, 2),
    batch=st.integers(1, 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
)
def test_the_slabs_are_bit_for_bit_the_weighted_mean_of_all_windows(shape, window, axis, batch, overlap):
    image, predict = image_of(shape), one_by_one(predictor(window))  # a convolution may round differently in a batch
    sizes = []

    def noted(slabs):
        for slab in slabs:
            sizes.append(slab.shape)
            yield slab

    slabs = noted(
        stream_logits(image, predict, channels=CHANNELS, window=window, axis=axis, batch=batch, overlap=overlap)
    )
    assert torch.equal(joined(slabs, axis), all_at_once(image, predict, window, axis, overlap))
    across = [n for a, n in enumerate(shape) if a != axis]
    assert all(size[0] == CHANNELS and list(size[2:]) == across for size in sizes)
    assert max(size[1] for size in sizes) <= window[axis]


# MONAI places windows int(9 / 2) = 4 voxels apart and moves the last one back; ours are spread evenly, as nnU-Net's.
# They agree where what is left is a few steps of 4, and on volumes no larger than the window (both pad evenly with 0).
# The window is odd, so that both have weights of the same floor (see test_windows).
@pytest.mark.parametrize("shape", [(13, 21, 9), (9, 9, 9), (25, 13, 17), (5, 9, 3), (7, 17, 13), (1, 1, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_it_equals_monais_sliding_window_where_the_windows_agree(shape, axis):
    window = (9, 9, 9)
    image, predict = image_of(shape), predictor(window)
    theirs = sliding_window_inference(
        torch.from_numpy(image)[None], window, 2, predict, overlap=0.5, mode="gaussian", sigma_scale=0.125
    )[0]
    ours = joined(stream_logits(image, predict, channels=CHANNELS, window=window, axis=axis, batch=2), axis)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [(1, 6, 6), (6, 1, 6), (6, 6, 1)])
def test_windows_one_voxel_thin_take_a_volume_apart_into_slices(window):
    image, predict = image_of((5, 9, 7)), one_by_one(predictor(window))
    slabs = stream_logits(image, predict, channels=CHANNELS, window=window, axis=1, batch=4)
    assert torch.equal(joined(slabs, 1), all_at_once(image, predict, window, 1))


def test_each_voxel_counts_its_own_place():
    """A predictor that gives the image back gives the image back, whatever the windows."""
    image = image_of((19, 7, 30))
    slabs = stream_logits(image, lambda patches: patches, channels=2, window=(8, 8, 8), axis=2)
    torch.testing.assert_close(joined(slabs, 2), torch.from_numpy(image), rtol=1e-5, atol=1e-5)


def test_windows_of_one_value_are_computed_once_and_nothing_changes():
    """A scan in a wide margin of one value, another margin of another one: most windows are the same."""
    image = np.full((2, 40, 24, 24), -1.0, np.float32)
    image[:, 20:] = [[[[3.0]]], [[[4.0]]]]
    image[:, 8:12, 8:14, 8:14] = image_of((4, 6, 6))
    window, calls = (8, 8, 8), []
    predict = one_by_one(predictor(window))

    def counted(patches: torch.Tensor) -> torch.Tensor:
        calls.extend(patches)
        return predict(patches)

    told = []
    slabs = stream_logits(
        image, counted, channels=CHANNELS, window=window, axis=0, batch=2, progress=lambda *what: told.append(what)
    )
    assert torch.equal(joined(slabs, 0), all_at_once(image, predict, window, 0))
    starts = window_starts((40, 24, 24), window, 0.5)
    constant = [np.ptp(image[:, i : i + 8, j : j + 8, k : k + 8], axis=(1, 2, 3)).max() == 0 for i, j, k in starts]
    assert sum(constant) > 150
    assert len(calls) == len(starts) - sum(constant) + 2
    assert told[-1] == ("windows", len(starts), len(starts))


def test_half_precision_sums_are_the_logits_to_three_digits():
    image, predict = image_of((19, 17, 30)), predictor((8, 8, 8))
    wanted = all_at_once(image, predict, (8, 8, 8), 2)
    slabs = stream_logits(image, predict, channels=CHANNELS, window=(8, 8, 8), axis=2, dtype=torch.float16)
    found = joined(slabs, 2)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), wanted, rtol=4e-3, atol=4e-3 * float(wanted.std()))


@pytest.mark.parametrize("order", [(2, 1, 0), (0, 2, 1)])
def test_sums_as_nnunet_makes_them_have_its_bits(order):
    """Its sums, by hand: float32 times weight added to float16 and rounded there, window after window in its order."""
    shape, window = (19, 17, 30), (8, 8, 8)
    image, predict = image_of(shape), one_by_one(predictor(window))
    weights = torch.from_numpy(10 * nnunet_weights(window)).half()
    sums, norm = torch.zeros(CHANNELS, *shape).half(), torch.zeros(shape).half()
    for start in sorted(window_starts(shape, window, 0.5), key=lambda s: [s[a] for a in order]):
        place = tuple(slice(s, s + 8) for s in start)
        sums[(slice(None), *place)] += predict(torch.from_numpy(image[(slice(None), *place)])[None])[0] * weights
        norm[place] += weights
    slabs = stream_logits(
        image,
        predict,
        channels=CHANNELS,
        window=window,
        axis=order[0],
        order=order,
        weigh=nnunet_weights,
        as_nnunet=True,
    )
    found = joined(slabs, order[0])
    assert found.dtype == torch.float16
    assert torch.equal(found, sums / norm)
    exact = joined(stream_logits(image, predict, channels=CHANNELS, window=window, axis=2, weigh=nnunet_weights), 2)
    assert not torch.equal(found.float(), exact)


def test_sums_as_nnunet_makes_them_never_overflow_in_silence():
    image = image_of((8, 8, 8))
    slabs = stream_logits(
        image, lambda patches: patches * 1e5, channels=2, window=(8, 8, 8), axis=0, weigh=nnunet_weights, as_nnunet=True
    )
    with pytest.raises(ModelError, match="too large for sums in float16"):
        list(slabs)


@pytest.mark.parametrize(
    ("shape", "window", "axis"),
    [
        ((40, 50, 60), (8, 8, 8), 2),
        ((100, 512, 512), (28, 256, 224), 0),
        ((5, 300, 200), (1, 64, 64), 0),
        ((1, 1, 1), (8, 9, 8), 1),
    ],
)
def test_the_slabs_lie_where_the_ring_is_smallest(shape, window, axis):
    assert slab_axis(shape, window) == axis


def test_memory_is_one_windows_depth_of_planes_however_long_the_volume(monkeypatch):
    largest = 0
    zeros = torch.zeros

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    monkeypatch.setattr(stream.torch, "zeros", lambda *size, **kwargs: noted(zeros(*size, **kwargs)))
    channels, window, shape = 40, (8, 8, 8), (10, 12, 200)
    planes = 0
    for slab in stream_logits(
        np.zeros((1, *shape), np.float32),
        lambda patches: zeros(len(patches), channels, *window),
        channels=channels,
        window=window,
        axis=2,
    ):
        assert slab.shape[1] <= 8
        noted(slab)
        planes += slab.shape[1]
    assert planes == 200
    assert largest <= channels * 8 * 10 * 12
