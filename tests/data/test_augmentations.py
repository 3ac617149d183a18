"""Every entry of AUGMENTATIONS keeps one contract; what each does is as its options say."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from medseg.core.component import Component
from medseg.core.config import config_from
from medseg.core.errors import ConfigError
from medseg.core.plan import Plan
from medseg.data import augment_changes
from medseg.data.augment import AUGMENTATIONS, CHANGES, OFF, augment, augmentation_for, extent_for, recipe
from tests.models.tiny_model import tiny_plan

SIZES = [(16, 16, 16), (9, 12, 10), (1, 24, 20), (12, 1, 9), (20, 18, 1)]
NO_SWAPS = (0, 1, 2)


def plan_of(size: tuple[int, int, int], *parts: Component, **changes: Any) -> Plan:
    plan = tiny_plan(patch_size=size, mirror_axes=[a for a in range(3) if size[a] > 1], **changes)
    return plan.model_copy(update={"augmentation": parts})


def always(name: str, **options: Any) -> Component:
    return Component(name=name, options={"share": 1.0, **options})


def block(
    size: tuple[int, int, int], batch: int = 6, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two channels; the first patch is constant, the second empty, the third of large values."""
    generator = torch.Generator().manual_seed(0)
    extent = [n if n == 1 else math.ceil(1.2 * n) for n in size]
    images = torch.randn(batch, 2, *extent, generator=generator)
    images[0], images[1] = 3.75, 0.0
    images[2] *= 1e4
    return images.to(dtype), torch.randint(0, 3, (batch, *extent), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_entry_keeps_shape_type_labels_and_numbers_and_is_a_function_of_seed_and_step(name, size, dtype):
    plan = plan_of(size, always(name))
    results = []
    for step in (0, 1, 0):
        torch.rand(7)  # whatever happens to the global generator in between
        results.append(augment(*block(size, dtype=dtype), plan, step, NO_SWAPS))
    for images, references in results:
        assert images.shape == (6, 2, *size)
        assert images.dtype == dtype
        assert references.shape == (6, *size)
        assert references.dtype == torch.int64
        assert torch.isfinite(images).all()
        assert set(references.unique().tolist()) <= {0, 1, 2}
    assert torch.equal(results[0][0], results[2][0])
    assert torch.equal(results[0][1], results[2][1])
    assert not torch.equal(results[0][0], results[1][0])
    other_seed = augment(*block(size, dtype=dtype), plan.model_copy(update={"seed": 1}), 0, NO_SWAPS)[0]
    assert not torch.equal(results[0][0], other_seed)
    if name in CHANGES and name != "noise":
        spread = images[:2].float().amax((2, 3, 4)) - images[:2].float().amin((2, 3, 4))
        assert spread.max() < 2e-2  # a constant patch stays constant


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_entry_changes_its_share_of_the_patches_and_no_other(name):
    images, references = block((6, 6, 6), batch=400)
    images[:3] = images[3:6]
    plan = plan_of((6, 6, 6), Component(name=name, options={"share": 0.3})).model_copy(update={"mirror_axes": ()})
    whole = extent_for(plan)
    result, _ = augment(images.clone(), references, plan, 1, NO_SWAPS)
    start = [(e - 6) // 2 for e in whole]
    cut = images[(slice(None), slice(None), *(slice(s, s + 6) for s in start))]
    assert abs(float((result != cut).flatten(1).any(1).float().mean()) - 0.3) < 0.07


@pytest.mark.parametrize("size", [(16, 16, 16), (24, 20, 1)], ids=str)
def test_nothing_on_the_way_waits_for_the_device(monkeypatch, size):
    """On the device of tensors without data, reading a value or mixing with the CPU is an error."""
    monkeypatch.setattr(augment_changes, "generator_on", lambda seed, like: None)
    parts = recipe({name: {"share": 0.6} for name in AUGMENTATIONS})
    assert len(parts) == len(AUGMENTATIONS)
    plan = plan_of(size, *parts)
    for step in range(4):
        images = torch.empty(4, 2, *extent_for(plan), device="meta")
        references = torch.empty(4, *extent_for(plan), dtype=torch.uint8, device="meta")
        out_images, out_references = augment(images, references, plan, step, (0, 2, 1))
        assert out_images.device.type == out_references.device.type == "meta"
        assert out_images.shape == (4, 2, *size)
    with pytest.raises((RuntimeError, NotImplementedError)):
        float(out_images.max())


def test_turning_one_off_leaves_the_draws_of_the_others():
    images, references = block((12, 12, 12))
    everything = {name: {"share": 0.5} for name in ("affine", "noise", "gamma")}
    with_noise, without = (
        recipe(dict.fromkeys(AUGMENTATIONS, False) | everything | more) for more in ({}, {"noise": False})
    )
    a, b = (augment(images.clone(), references, plan_of((12, 12, 12), *p), 3, NO_SWAPS) for p in (with_noise, without))
    assert torch.equal(a[1], b[1])
    same = (a[0] == b[0]).flatten(1).all(1)
    assert same.any()
    assert not same.all()


def bent(name: str, images: torch.Tensor, **options: Any) -> torch.Tensor:
    return CHANGES[name](share=1.0, **options)(images.clone(), np.random.default_rng(0))


@pytest.fixture
def patches() -> torch.Tensor:
    return torch.randn(200, 1, 10, 10, 10, generator=torch.Generator().manual_seed(0))


def test_brightness_and_contrast_stay_in_their_ranges(patches):
    factor = bent("brightness", patches) / patches
    assert 0.75 <= factor.min() < 0.77
    assert 1.23 < factor.max() <= 1.2501
    stretched = bent("contrast", patches)
    assert (stretched.amin((2, 3, 4)) >= patches.amin((2, 3, 4))).all()
    assert (stretched.amax((2, 3, 4)) <= patches.amax((2, 3, 4))).all()
    weaker = bent("contrast", patches, factor=[0.5, 0.5])
    torch.testing.assert_close(weaker.std((2, 3, 4)), 0.5 * patches.std((2, 3, 4)))


def test_gamma_keeps_mean_and_deviation_and_its_exponent_is_the_one_given(patches):
    result = bent("gamma", patches)
    torch.testing.assert_close(result.mean((2, 3, 4)), patches.mean((2, 3, 4)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.std((2, 3, 4)), patches.std((2, 3, 4)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bent("gamma", patches, power=[1, 1]), patches, rtol=1e-4, atol=1e-4)
    ramp = torch.linspace(0, 1, 10).reshape(1, 1, 10, 1, 1).expand(1, 1, 10, 10, 10)
    squared = bent("gamma", ramp, power=[2, 2], inverted=0)[0, 0, :, 0, 0].double().numpy()
    wanted = np.linspace(0, 1, 10) ** 2
    np.testing.assert_allclose((squared - squared[0]) / (squared[-1] - squared[0]), wanted, atol=1e-5)


def test_noise_has_the_variance_given_and_no_pattern(patches):
    added = bent("noise", patches, variance=0.1) - patches
    assert added.std((2, 3, 4)).max() < math.sqrt(0.1) * 1.1
    assert float(added.var()) == pytest.approx(0.05, rel=0.1)  # uniform from 0 to 0.1
    assert abs(float(np.corrcoef(added[0].flatten(), added[1].flatten())[0, 1])) < 0.1


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.5])
def test_blur_is_scipys_gaussian(patches, sigma):
    from scipy import ndimage

    result = bent("blur", patches[:2], sigma=[sigma, sigma])
    reach = max(2, math.ceil(2 * sigma))
    for found, image in zip(result[:, 0], patches[:2, 0], strict=True):
        wanted = ndimage.gaussian_filter(image.double().numpy(), sigma, mode="nearest", radius=reach)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(10, 10, 10), (12, 9, 7)], ids=str)
def test_low_resolution_is_torchs_interpolation_there_and_back(size):
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(1))
    found = bent("low_resolution", image, zoom=[0.5, 0.5])
    small = [max(1, round(n * 0.5)) for n in size]
    there = torch.nn.functional.interpolate(image, size=small, mode="nearest-exact")
    back = torch.nn.functional.interpolate(there, size=size, mode="trilinear")
    torch.testing.assert_close(found, back, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bent("low_resolution", image, zoom=[1, 1]), image, rtol=1e-5, atol=1e-5)


def test_a_bias_field_is_a_smooth_gain_above_black():
    images = torch.ones(8, 1, 32, 32, 32)
    images[:, :, 0, 0, 0] = 0.0
    gain = bent("bias_field", images, strength=0.3)
    assert float(gain[:, :, 0, 0, 0].abs().max()) == 0
    inside = gain[:, :, 2:, 2:, 2:].log()
    assert 0.08 < float(inside.std()) < 0.35
    assert float(inside.diff(dim=2).abs().max()) < 0.3


def test_a_ghost_of_every_second_line_lies_half_a_patch_away():
    """A point and its copy: weakening every second line of k-space by w leaves 1 - w / 2 of it and -w / 2 half-way round."""
    image = torch.zeros(1, 1, 64, 1, 1)
    image[0, 0, 10] = 1.0
    found = bent("ghosting", image, strength=[0.4, 0.4], ghosts=[2, 2])[0, 0, :, 0, 0]
    assert int(found.abs().argsort()[-2]) == 42
    assert float(found[10]) == pytest.approx(0.8, abs=0.05)
    assert float(found[42]) == pytest.approx(-0.2, abs=0.05)


def test_a_patient_who_moved_all_the_time_is_the_patient_shifted():
    """All lines but the centre from a shifted patient: the edges are where the shift put them."""
    image = torch.zeros(1, 1, 64, 1, 1)
    image[0, 0, 20:30] = 1.0
    still = bent("motion", image, shift=0.0, lines=1.0)
    torch.testing.assert_close(still, image, atol=1e-5, rtol=0)
    moved = bent("motion", image, shift=0.05, lines=1.0)
    assert 0.05 < float((moved - image).abs().max()) < 1.5
    torch.testing.assert_close(moved.mean(), image.mean(), atol=1e-5, rtol=0)  # the centre of k-space stays


CONFIG = {"data": {"root": "x"}, "labels": {"background": 0, "liver": 1}, "modality": "CT"}


def asked(value: Any) -> tuple[Component, ...]:
    return augmentation_for(config_from({**CONFIG, "train": {"augmentation": value}}))


def test_a_config_turns_entries_off_and_on_and_changes_them():
    assert [part.name for part in asked("auto")] == [name for name in AUGMENTATIONS if name not in OFF]
    assert asked("none") == ()
    changed = {part.name: part.options for part in asked({"noise": False, "elastic": True, "gamma": {"share": 0.1}})}
    assert "noise" not in changed
    assert changed["elastic"]["share"] > 0
    assert changed["gamma"]["share"] == 0.1
    assert changed["gamma"]["power"] == (0.7, 1.5)
    assert "blur" not in {part.name for part in asked({"blur": {"share": 0}})}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"nois": True}, "did you mean 'noise'"),
        ({"noise": {"shar": 0.2}}, "unknown option 'shar'; did you mean 'share'"),
        ({"noise": {"share": 2}}, "share 2 must be a number from 0 to 1"),
        ({"noise": {"share": "lots"}}, "share 'lots' must be a number"),
        ({"affine": {"scale": 1.2}}, r"scale 1.2 must be \[lowest, highest\]"),
        ({"affine": {"scale": [1.4, 0.7]}}, "scale 0.7 must be a number from 1.4"),
        ({"gamma": {"power": [0.0, 1.0]}}, "power 0.0 must be a number from 0.1"),
        ({"motion": {"lines": True}}, "lines True must be a number"),
        ("som", "augmentation"),
        ({"noise": 0.2}, "augmentation"),
    ],
)
def test_a_wrong_entry_is_named(value, words):
    with pytest.raises(ConfigError, match=words):
        asked(value)


def test_references_of_many_structures_keep_their_numbers():
    plan = plan_of((8, 8, 8), always("affine")).model_copy(update={"labels": {str(n): n for n in range(301)}})
    references = torch.from_numpy(np.full((6, *extent_for(plan)), 300, np.uint16))
    _, out = augment(torch.zeros(6, 1, *extent_for(plan)), references, plan, 1, tuple(range(301)))
    assert set(out.unique().tolist()) <= {0, 300}
    assert out.dtype == torch.int64
