"""Augmentation: image and reference move as one, sides stay sides, and every draw is a function of (seed, step)."""

import math

import numpy as np
import pytest
import torch

from medseg.core.labels import Labels
from medseg.data import augment as module
from medseg.data.augment import AUGMENTATIONS, augment, extent_for, mirror, spatial
from tests.models.tiny_model import tiny_plan

NO_SWAPS = (0, 1, 2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def block(extent: tuple[int, int, int], batch: int = 4, channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, *extent, generator=generator)
    return images, torch.randint(0, 3, (batch, *extent), generator=generator, dtype=torch.uint8)


def centre_cut(array: torch.Tensor, size: tuple[int, int, int]) -> torch.Tensor:
    start = [(e - s) // 2 for e, s in zip(array.shape[-3:], size, strict=True)]
    return array[(..., *(slice(a, a + s) for a, s in zip(start, size, strict=True)))]


def ball(extent: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> torch.Tensor:
    index = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in extent), indexing="ij"), -1)
    return ((index - torch.tensor(centre)).norm(dim=-1) < radius).to(torch.uint8)


def centroid(mask: torch.Tensor) -> np.ndarray:
    return np.argwhere(mask.numpy()).mean(axis=0)


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 12, 7), (1, 16, 16), (16, 16, 1)], ids=str)
def test_where_nothing_is_drawn_it_is_exactly_the_centre_cut(monkeypatch, size):
    monkeypatch.setattr(module, "SPATIAL_SHARE", 0.0)
    monkeypatch.setattr(module, "AUGMENTATIONS", {})
    plan = tiny_plan(patch_size=size, mirror_axes=[])
    images, references = block(extent_for(plan))
    out_images, out_references = augment(images, references, plan, 0, NO_SWAPS)
    assert torch.equal(out_images, centre_cut(images, size))
    assert torch.equal(out_references, centre_cut(references, size).long())


@pytest.mark.parametrize("extent", [(12, 12, 12), (13, 11, 9), (8, 9, 10)], ids=str)
@pytest.mark.parametrize("size", [(8, 8, 8), (7, 8, 5)], ids=str)
def test_sampling_without_a_turn_is_the_centre_cut(monkeypatch, extent, size):
    """The sampling grid has its centre where the cut has it, for even and odd sizes."""
    monkeypatch.setattr(module, "SPATIAL_SHARE", 1.0)
    monkeypatch.setattr(module, "SCALES", (1.0, 1.0))
    monkeypatch.setattr(module, "MAX_ANGLE", 0.0)
    images, references = block(extent)
    out_images, out_references = spatial(images, references, size, rng())
    torch.testing.assert_close(out_images, centre_cut(images, size), rtol=1e-4, atol=1e-4)
    assert torch.equal(out_references, centre_cut(references, size).long())


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_a_quarter_turn_is_numpys(monkeypatch, axis, plane):
    def quarter(size, random):
        matrix = np.eye(3)
        a, b = plane
        matrix[[a, a, b, b], [a, b, a, b]] = 0, -1, 1, 0
        return matrix

    monkeypatch.setattr(module, "SPATIAL_SHARE", 1.0)
    monkeypatch.setattr(module, "SCALES", (1.0, 1.0))
    monkeypatch.setattr(module, "_rotation", quarter)
    images, references = block((8, 8, 8))
    before, labels_before = images.clone(), references.clone()
    out_images, out_references = spatial(images, references, (8, 8, 8), rng())
    turns = [torch.rot90(before, k, [p + 2 for p in plane]) for k in (1, 3)]
    errors = [float((out_images - turn).abs().max()) for turn in turns]
    assert min(errors) < 1e-4
    same_turn = (1, 3)[errors.index(min(errors))]
    assert torch.equal(out_references, torch.rot90(labels_before, same_turn, [p + 1 for p in plane]).long())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("size", [(24, 24, 24), (24, 28, 20), (32, 32, 8), (1, 32, 32), (32, 32, 1)], ids=str)
def test_a_turned_and_scaled_ball_moves_with_its_reference(monkeypatch, seed, size):
    monkeypatch.setattr(module, "SPATIAL_SHARE", 1.0)
    plan = tiny_plan(patch_size=size)
    extent = extent_for(plan)
    centre = [
        (e - 1) / 2 + (0 if s == 1 else 0.15 * s * side) for e, s, side in zip(extent, size, (1, -1, 1), strict=True)
    ]
    mask = ball(extent, tuple(centre), 4.0)
    images, references = mask[None, None].float().repeat(3, 1, 1, 1, 1), mask[None].repeat(3, 1, 1, 1)
    out_images, out_references = spatial(images, references, size, rng(seed))
    for image, reference in zip(out_images[:, 0], out_references, strict=True):
        assert reference.any()
        assert np.linalg.norm(centroid(image > 0.5) - centroid(reference)) < 0.5
        agreement = ((image > 0.5) == (reference > 0)).float().mean()
        assert agreement > 0.97


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_scale_is_the_ratio_of_sampled_to_kept_voxels(monkeypatch, scale):
    monkeypatch.setattr(module, "SPATIAL_SHARE", 1.0)
    monkeypatch.setattr(module, "SCALES", (scale, scale))
    mask = ball((38, 38, 38), (18.5, 18.5, 18.5), 9.0)
    _, references = spatial(mask[None, None].float(), mask[None], (32, 32, 32), rng())
    radius = (3 * float((references > 0).sum()) / (4 * math.pi)) ** (1 / 3)
    assert radius == pytest.approx(9.0 / scale, rel=0.03)


def test_flat_and_thin_patches_turn_in_their_plane_only():
    for size, axis in (((1, 32, 32), 0), ((32, 32, 4), 2), ((20, 3, 24), 1)):
        for seed in range(20):
            matrix = module._rotation(size, rng(seed))
            unit = np.eye(3)[axis]
            np.testing.assert_allclose(matrix @ unit, unit)
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
            assert np.linalg.det(matrix) == pytest.approx(1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirror_is_numpys_flip_and_only_left_and_right_change_names(axis):
    labels = Labels.from_mapping({"background": 0, "kidney_left": 1, "kidney_right": 2, "liver": 3})
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 2, 4, 5, 6, generator=generator)
    references = torch.randint(0, 4, (64, 4, 5, 6), generator=generator)
    out_images, out_references = mirror(images, references, [axis], labels.mirror_swaps, rng())
    flipped = 0
    for n in range(64):
        if torch.equal(out_images[n], images[n]):
            assert torch.equal(out_references[n], references[n])
            continue
        flipped += 1
        np.testing.assert_array_equal(out_images[n], np.flip(images[n].numpy(), axis + 1))
        wanted = np.flip(references[n].numpy(), axis)
        if axis == 0:
            wanted = np.array([0, 2, 1, 3])[wanted]
        np.testing.assert_array_equal(out_references[n], wanted)
    assert 16 <= flipped <= 48


def test_axes_that_the_plan_does_not_mirror_are_never_flipped():
    images = torch.arange(8 * 4.0).reshape(8, 1, 4, 1, 1)
    out, _ = mirror(images, torch.zeros(8, 4, 1, 1, dtype=torch.long), [], NO_SWAPS, rng())
    assert torch.equal(out, images)


@pytest.mark.parametrize("size", [(16, 16, 16), (1, 24, 24)], ids=str)
def test_a_batch_is_a_function_of_seed_and_step(size):
    plan = tiny_plan(patch_size=size, mirror_axes=[a for a in range(3) if size[a] > 1])
    images, references = block(extent_for(plan))

    def at(step: int, plan=plan) -> torch.Tensor:
        return augment(images.clone(), references.clone(), plan, step, NO_SWAPS)[0]

    first = [at(step) for step in range(4)]
    torch.rand(7)  # whatever happened to the global generator in between
    assert all(torch.equal(at(step), first[step]) for step in (3, 0, 2, 1))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(at(0, plan.model_copy(update={"seed": 1})), first[0])


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("size", [(8, 9, 10), (1, 12, 11), (12, 1, 4), (4, 4, 4)], ids=str)
def test_every_entry_keeps_shape_and_stays_finite(name, size):
    for seed in range(12):
        images, _ = block(size, batch=6, channels=2)
        images[0] = 3.7  # constant patches
        images[1] = 0.0
        images[2] *= 1e4
        result = AUGMENTATIONS[name](images.clone(), rng(seed))
        assert result.shape == images.shape
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()
        if name != "noise":
            spread = result[:2].amax((2, 3, 4)) - result[:2].amin((2, 3, 4))
            assert spread.max() < 1e-3  # a constant patch stays constant


SHARES = {"noise": 0.1, "blur": 0.2, "brightness": 0.15, "contrast": 0.15, "low_resolution": 0.125, "gamma": 0.3}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_entry_changes_its_share_of_the_patches_and_no_other(name):
    images, _ = block((6, 6, 6), batch=400)
    result = AUGMENTATIONS[name](images.clone(), rng(1))
    changed = (result != images).flatten(1).any(1).float().mean()
    assert abs(float(changed) - SHARES[name]) < 0.06


def test_intensities_are_bent_as_said():
    images, _ = block((10, 10, 10), batch=200)
    brighter = module.brightness(images.clone(), rng()) / images
    assert brighter.min() >= 0.75
    assert brighter.max() <= 1.25
    bent = module.gamma(images.clone(), rng())
    torch.testing.assert_close(bent.mean((2, 3, 4)), images.mean((2, 3, 4)), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(bent.std((2, 3, 4)), images.std((2, 3, 4)), rtol=1e-3, atol=1e-3)
    stretched = module.contrast(images.clone(), rng())
    assert (stretched.amin((2, 3, 4)) >= images.amin((2, 3, 4))).all()
    assert (stretched.amax((2, 3, 4)) <= images.amax((2, 3, 4))).all()
    noisy = module.noise(images.clone(), rng()) - images
    assert noisy.std((2, 3, 4)).max() < math.sqrt(0.1) * 1.1
    flat = module.blur(images.clone(), rng())
    assert (flat.std((2, 3, 4)) <= images.std((2, 3, 4)) + 1e-6).all()


def test_references_of_many_structures_keep_their_numbers():
    plan = tiny_plan(patch_size=[8, 8, 8])
    images = torch.zeros(6, 1, *extent_for(plan))
    references = torch.from_numpy(np.full((6, *extent_for(plan)), 300, np.uint16))
    _, out = augment(images, references, plan, 1, tuple(range(301)))
    assert set(out.unique().tolist()) <= {0, 300}
    assert out.dtype == torch.int64
