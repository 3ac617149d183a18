"""Streaming against everything at once: a naive sliding window, MONAI's, and the memory that is held."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from medseg.inference import stream
from medseg.inference.stream import stream_logits
from medseg.inference.windows import gaussian_weights, window_starts

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


def image_of(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=(2, *shape)).astype(np.float32)


def joined(slabs, axis: int) -> torch.Tensor:
    return torch.cat(list(slabs), dim=1).movedim(1, axis + 1)


def all_at_once(image: np.ndarray, predict, window: tuple[int, int, int]) -> torch.Tensor:
    """The Gaussian-weighted mean, with sums of the size of the whole padded volume."""
    before = [max(0, w - n) // 2 for n, w in zip(image.shape[1:], window, strict=True)]
    after = [max(0, w - n) - b for n, w, b in zip(image.shape[1:], window, before, strict=True)]
    padded = torch.from_numpy(np.pad(image, [(0, 0), *zip(before, after, strict=True)]))
    weights = torch.from_numpy(gaussian_weights(window)).double()
    sums, norm = torch.zeros(CHANNELS, *padded.shape[1:], dtype=torch.float64), torch.zeros(padded.shape[1:]).double()
    for start in window_starts(tuple(padded.shape[1:]), window, 0.5):
        place = tuple(slice(s, s + w) for s, w in zip(start, window, strict=True))
        sums[(slice(None), *place)] += predict(padded[(slice(None), *place)][None])[0] * weights
        norm[place] += weights
    inside = tuple(slice(b, b + n) for b, n in zip(before, image.shape[1:], strict=True))
    return (sums / norm)[(slice(None), *inside)]


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 22)] * 3),
    window=st.tuples(*[st.sampled_from([4, 7, 8])] * 3),
    axis=st.integers(0, 2),
    batch=st.integers(1, 3),
)
def test_the_slabs_are_the_weighted_mean_of_all_windows(shape, window, axis, batch):
    image, predict = image_of(shape), predictor(window)
    slabs = list(stream_logits(image, predict, channels=CHANNELS, window=window, axis=axis, batch=batch))
    torch.testing.assert_close(joined(slabs, axis).double(), all_at_once(image, predict, window), rtol=1e-4, atol=1e-4)
    across = [n for a, n in enumerate(shape) if a != axis]
    assert all(slab.shape[0] == CHANNELS and list(slab.shape[2:]) == across for slab in slabs)
    assert max(slab.shape[1] for slab in slabs) <= window[axis]


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
    image, predict = image_of((5, 9, 7)), predictor(window)
    slabs = stream_logits(image, predict, channels=CHANNELS, window=window, axis=1, batch=4)
    torch.testing.assert_close(joined(slabs, 1).double(), all_at_once(image, predict, window), rtol=1e-4, atol=1e-4)


def test_each_voxel_counts_its_own_place():
    """A predictor that gives the image back gives the image back, whatever the windows."""
    image = image_of((19, 7, 30))
    slabs = stream_logits(image, lambda patches: patches, channels=2, window=(8, 8, 8), axis=2)
    torch.testing.assert_close(joined(slabs, 2), torch.from_numpy(image), rtol=1e-5, atol=1e-5)


def test_memory_is_one_windows_depth_of_planes_however_long_the_volume(monkeypatch):
    largest = 0
    zeros, zeros_like = torch.zeros, torch.zeros_like

    def noted(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, tensor.numel())
        return tensor

    monkeypatch.setattr(stream.torch, "zeros", lambda *size, **kwargs: noted(zeros(*size, **kwargs)))
    monkeypatch.setattr(stream.torch, "zeros_like", lambda tensor: noted(zeros_like(tensor)))
    channels, window, shape = 40, (8, 8, 8), (10, 12, 200)
    planes = 0
    for slab in stream_logits(
        np.zeros((1, *shape), np.float32),
        lambda patches: torch.zeros_like(patches).expand(-1, channels, -1, -1, -1),
        channels=channels,
        window=window,
        axis=2,
    ):
        assert slab.shape[1] <= 8
        noted(slab)
        planes += slab.shape[1]
    assert planes == 200
    assert largest <= channels * 8 * 10 * 12
