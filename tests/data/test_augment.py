"""Augmented patches: image and reference move as one, and sides stay sides."""

import math

import numpy as np
import pytest
import torch

from medseg.core.labels import Labels
from medseg.data.augment import MOVES, augment, extent_for, mirror, sides_changed
from medseg.data.augment_moves import Motion, PatchGrid, affine, elastic, sampled
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


def move(images, references, size, seed=0, spacing=(1.0, 1.0, 1.0), **options):
    """``images`` and ``references`` sampled under an affine with these options on every patch."""
    grid = PatchGrid(len(images), size, spacing)
    return sampled(images, references, grid, [affine(share=1.0, **options)(grid, rng(seed))])


STILL = {"angle": 0.0, "scale": (1.0, 1.0)}


@pytest.mark.parametrize("size", [(8, 8, 8), (9, 12, 7), (1, 16, 16), (16, 16, 1)], ids=str)
def test_where_nothing_is_drawn_it_is_exactly_the_centre_cut(size):
    plan = tiny_plan(patch_size=size, mirror_axes=[])
    images, references = block(extent_for(plan))
    out_images, out_references = augment(images, references, plan, 0, NO_SWAPS)
    assert torch.equal(out_images, centre_cut(images, size))
    assert torch.equal(out_references, centre_cut(references, size).long())


@pytest.mark.parametrize("extent", [(12, 12, 12), (13, 11, 9), (8, 9, 10), (12, 1, 13)], ids=str)
@pytest.mark.parametrize("size", [(8, 8, 8), (7, 8, 5)], ids=str)
def test_sampling_without_a_turn_is_the_centre_cut(extent, size):
    """The sampling grid has its centre where the cut has it, for even and odd sizes and for flat patches."""
    size = tuple(1 if e == 1 else s for e, s in zip(extent, size, strict=True))
    images, references = block(extent)
    out_images, out_references = move(images, references, size, **STILL)
    torch.testing.assert_close(out_images, centre_cut(images, size), rtol=1e-4, atol=1e-4)
    assert torch.equal(out_references, centre_cut(references, size).long())


@pytest.mark.parametrize(("axis", "plane"), [(0, (1, 2)), (1, (0, 2)), (2, (0, 1))])
def test_a_quarter_turn_is_numpys(axis, plane):
    quarter = np.eye(3)
    a, b = plane
    quarter[[a, a, b, b], [a, b, a, b]] = 0, -1, 1, 0
    images, references = block((8, 8, 8))
    motion = Motion(np.ones(4, bool), np.tile(quarter, (4, 1, 1)))
    out_images, out_references = sampled(images, references, PatchGrid(4, (8, 8, 8), (1.0, 1.0, 1.0)), [motion])
    turns = [torch.rot90(images, k, [p + 2 for p in plane]) for k in (1, 3)]
    errors = [float((out_images - turn).abs().max()) for turn in turns]
    assert min(errors) < 1e-4
    same_turn = (1, 3)[errors.index(min(errors))]
    assert torch.equal(out_references, torch.rot90(references, same_turn, [p + 1 for p in plane]).long())


@pytest.mark.parametrize("shift", [(2, 0, 0), (0, -1, 3)], ids=str)
def test_a_shift_by_whole_voxels_is_a_cut_elsewhere(shift):
    images, references = block((16, 16, 16))
    motion = Motion(np.ones(4, bool), shifts=np.tile(np.array(shift, float), (4, 1)))
    out_images, out_references = sampled(images, references, PatchGrid(4, (8, 8, 8), (1.0, 1.0, 1.0)), [motion])
    there = tuple(slice(4 + s, 12 + s) for s in shift)
    torch.testing.assert_close(out_images, images[(slice(None), slice(None), *there)], rtol=1e-4, atol=1e-4)
    assert torch.equal(out_references, references[(slice(None), *there)].long())


@pytest.mark.parametrize("entry", MOVES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [(24, 24, 24), (24, 28, 20), (32, 32, 8), (1, 32, 32), (32, 32, 1)], ids=str)
def test_a_moved_ball_moves_with_its_reference(entry, seed, size):
    extent = extent_for(tiny_plan(patch_size=size))
    centre = [
        (e - 1) / 2 + (0 if s == 1 else 0.15 * s * side) for e, s, side in zip(extent, size, (1, -1, 1), strict=True)
    ]
    mask = ball(extent, tuple(centre), 4.0)
    images, references = mask[None, None].float().repeat(3, 1, 1, 1, 1), mask[None].repeat(3, 1, 1, 1)
    grid = PatchGrid(3, size, (1.0, 1.0, 1.0))
    out_images, out_references = sampled(images, references, grid, [MOVES[entry](share=1.0)(grid, rng(seed))])
    for image, reference in zip(out_images[:, 0], out_references, strict=True):
        assert reference.any()
        assert np.linalg.norm(centroid(image > 0.5) - centroid(reference)) < 0.5
        agreement = ((image > 0.5) == (reference > 0)).float().mean()
        assert agreement > 0.97
        assert not torch.equal(reference, centre_cut(mask, size).long())


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
def test_scale_is_the_ratio_of_sampled_to_kept_voxels(scale):
    mask = ball((38, 38, 38), (18.5, 18.5, 18.5), 9.0)
    _, references = move(mask[None, None].float(), mask[None], (32, 32, 32), scale=(scale, scale))
    radius = (3 * float((references > 0).sum()) / (4 * math.pi)) ** (1 / 3)
    assert radius == pytest.approx(9.0 / scale, rel=0.03)


def test_a_turn_is_one_in_millimetres():
    """On voxels of 1 x 2 x 1.5 mm lengths and angles hold in the world, and flat or thin patches keep to their plane."""
    spacing = np.array([1.0, 2.0, 1.5])
    turns = affine(share=1.0, scale=(1.0, 1.0))(PatchGrid(20, (32, 20, 24), tuple(spacing)), rng()).matrices
    world = turns * spacing[:, None] / spacing[None, :]
    np.testing.assert_allclose(world @ world.transpose(0, 2, 1), np.tile(np.eye(3), (20, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(world), 1)
    assert np.degrees(np.arccos((np.trace(world, axis1=1, axis2=2) - 1) / 2)).max() > 20
    for size, axis in (((1, 32, 32), 0), ((32, 32, 4), 2), ((20, 3, 24), 1)):
        grid = PatchGrid(20, size, (1.0, 1.0, 1.0))
        turns = affine(share=1.0, scale=(1.0, 1.0), shear=0.2)(grid, rng()).matrices
        np.testing.assert_allclose(turns[:, axis], np.tile(np.eye(3)[axis], (20, 1)), atol=1e-12)
        np.testing.assert_allclose(turns[:, :, axis], np.tile(np.eye(3)[axis], (20, 1)), atol=1e-12)


def test_an_elastic_field_is_smooth_and_as_strong_as_said():
    """Neighbours move together: the ramp of a coordinate stays rising, and its displacement has the deviation asked for."""
    size = (48, 48, 48)
    ramp = torch.arange(58.0).reshape(1, 1, 58, 1, 1).expand(6, 1, 58, 58, 58).contiguous()
    grid = PatchGrid(6, size, (1.0, 1.0, 1.0))
    bent, _ = sampled(ramp, torch.zeros(6, 58, 58, 58), grid, [elastic(share=1.0, strength=0.03)(grid, rng())])
    moved = bent - centre_cut(ramp, size)
    inner = moved[:, :, 8:-8, 8:-8, 8:-8]
    assert 0.3 * 0.03 * 48 < float(inner.std()) < 1.2 * 0.03 * 48
    assert float(inner.diff(dim=2).abs().max()) < 1.0


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


def test_a_mirrored_body_keeps_its_left_kidney_on_its_left():
    """RAS: the left is where i is small. A phantom whose kidneys lie off centre, differ in size and lie at other heights."""
    labels = Labels.from_mapping({"background": 0, "Kidney_L": 1, "Kidney_R": 2, "spine": 3})
    body = torch.zeros(32, 24, 20, dtype=torch.uint8)
    body[ball(body.shape, (9, 12, 12), 5.0) > 0] = 1
    body[ball(body.shape, (25, 12, 8), 3.0) > 0] = 2
    body[16:18, 4:6] = 3
    images, references = body[None, None].float().repeat(40, 1, 1, 1, 1), body[None].long().repeat(40, 1, 1, 1)
    _, mirrored = mirror(images, references, [0, 1, 2], labels.mirror_swaps, rng())
    shapes = set()
    for reference in mirrored:
        left, right = (centroid(reference == channel) for channel in (1, 2))
        assert left[0] < 16 < right[0]
        shapes.add((int((reference == 1).sum()), tuple(left.round().astype(int))))
    large, small = int((body == 1).sum()), int((body == 2).sum())
    assert {count for count, _ in shapes} == {large, small}  # the larger kidney is now a left, now a right one
    assert len(shapes) == 8  # all eight ways to mirror, each with the left kidney where it must be


def test_voxels_to_ignore_are_no_side():
    labels = Labels.from_mapping({"background": 0, "left": 1, "right": 2})
    references = torch.tensor([-1, 0, 1, 2, 3, 255]).reshape(1, 6, 1, 1).repeat(20, 1, 1, 1)
    _, out = mirror(torch.zeros(20, 1, 6, 1, 1), references, [0], labels.mirror_swaps, rng())
    assert {tuple(row) for row in out[:, :, 0, 0].tolist()} == {(-1, 0, 1, 2, 3, 255), (255, 3, 1, 2, 0, -1)}


def test_sides_changed_names_the_patches_whose_structures_change_sides():
    """A voxel of the left kidney in each patch: it is the right one's exactly in the patches that were flipped."""
    labels = Labels.from_mapping({"background": 0, "kidney_left": 1, "kidney_right": 2})
    plan = tiny_plan(labels=labels.mapping(), mirror_axes=[1, 0], augmentation=[])
    references = torch.ones(16, *extent_for(plan), dtype=torch.int64)
    images = torch.zeros(16, 1, *extent_for(plan))
    seen = []
    for step in range(4):
        _, found = augment(images, references, plan, step, labels.mirror_swaps)
        changed = sides_changed(plan, step, 16)
        assert [set(patch.unique().tolist()) for patch in found] == [{2} if c else {1} for c in changed]
        seen += changed.tolist()
    assert 16 < sum(seen) < 48
    assert not sides_changed(plan.model_copy(update={"mirror_axes": (1, 2)}), 0, 16).any()
