"""AUGMENTATIONS, batched, on the training device; every draw is a function of (seed, step).

Each entry takes images (B, C, I, J, K) and a numpy generator, and returns images of the same shape; those that
move voxels come first and move the references with them. Strengths follow Isensee 2021, doi:10.1038/s41592-020-01008-z.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medseg.core.plan import Plan, Triple

Random = np.random.Generator
SCALES = (0.7, 1.4)
MAX_ANGLE = math.radians(30.0)
SPATIAL_SHARE = 0.4  # of the patches are rotated and scaled


def extent_for(plan: Plan) -> Triple:
    """The voxels to load so that a turned and shrunk patch still finds image at most of its corners: 1.2 patches an axis."""
    i, j, k = (size if size == 1 else math.ceil(size * 1.2) for size in plan.patch_size)
    return i, j, k


def augment(images: Tensor, references: Tensor, plan: Plan, step: int, swaps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Patches of ``plan.patch_size`` from loaded ``images`` (B, C, *extent) and ``references`` (B, *extent), int64.

    ``swaps[c]`` is the channel that channel ``c`` becomes when left and right change sides (see ``mirror_swaps``).
    """
    random = np.random.default_rng((plan.seed, 3, step))
    images, references = spatial(images, references, plan.patch_size, random)
    images, references = mirror(images, references, plan.mirror_axes, swaps, random)
    for entry in AUGMENTATIONS.values():
        images = entry(images, random)
    return images, references


def spatial(images: Tensor, references: Tensor, size: Triple, random: Random) -> tuple[Tensor, Tensor]:
    """Rotate and scale a share of the patches about their centre; cut all of them to ``size``."""
    moved = random.random(len(images)) < SPATIAL_SHARE
    draws = [(_rotation(size, random), random.uniform(*SCALES)) for _ in range(len(images))]
    start = [(outer - inner) // 2 for outer, inner in zip(images.shape[2:], size, strict=True)]
    cut = tuple(slice(s, s + inner) for s, inner in zip(start, size, strict=True))
    out_images = images[(slice(None), slice(None), *cut)].contiguous()
    out_references = references[(slice(None), *cut)].to(torch.int64)
    if not moved.any():
        return out_images, out_references
    chosen = torch.as_tensor(np.flatnonzero(moved), device=images.device)
    matrices = np.stack([rotation * scale for (rotation, scale), m in zip(draws, moved, strict=True) if m])
    grid = _grid(matrices, size, tuple(images.shape[2:])).to(images.device)
    source = images[chosen]
    out_images[chosen] = functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
    masks = references[chosen][:, None].to(images.dtype)
    nearest = functional.grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=True)
    out_references[chosen] = nearest[:, 0].to(torch.int64)
    return out_images, out_references


def _rotation(size: Triple, random: Random) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """A random rotation (3, 3) in voxel space; flat patches turn in their plane only."""
    angles = random.uniform(-MAX_ANGLE, MAX_ANGLE, 3)
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = (other for other in range(3) if other != axis)
        thin = min(size[a], size[b]) < 0.5 * max(size[a], size[b])  # turning a thin slab leaves it
        turn = np.eye(3)
        cos, sin = math.cos(angle * (not thin)), math.sin(angle * (not thin))
        turn[[a, a, b, b], [a, b, a, b]] = cos, -sin, sin, cos
        matrix = matrix @ turn
    return matrix


def _grid(matrices: np.ndarray[tuple[int, ...], np.dtype[np.float64]], size: Triple, extent: tuple[int, ...]) -> Tensor:
    """Sampling positions (B, *size, 3) for ``grid_sample`` with ``align_corners`` (its order is k, j, i)."""
    axes = [torch.arange(n, dtype=torch.float32) - (n - 1) / 2 for n in size]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    turned = points.reshape(1, -1, 3) @ torch.as_tensor(matrices, dtype=torch.float32).transpose(1, 2)
    # Centre of the cut patch within the loaded block, as `spatial` cuts it.
    offset = torch.tensor([(e - s) // 2 + (s - 1) / 2 - (e - 1) / 2 for e, s in zip(extent, size, strict=True)])
    half = torch.tensor([max((e - 1) / 2, 0.5) for e in extent])
    return ((turned + offset) / half).flip(-1).reshape(len(matrices), *size, 3)


def mirror(
    images: Tensor, references: Tensor, axes: Sequence[int], swaps: Sequence[int], random: Random
) -> tuple[Tensor, Tensor]:
    """Flip each patch along each of ``axes`` with probability one half; a flip along axis 0 (left-right) swaps sides."""
    table = torch.as_tensor(swaps, device=references.device)
    for axis in axes:
        chosen = torch.as_tensor(np.flatnonzero(random.random(len(images)) < 0.5), device=images.device)
        if len(chosen):
            images = images.index_copy(0, chosen, images[chosen].flip(axis + 2))
            flipped = references[chosen].flip(axis + 1)
            references = references.index_copy(0, chosen, table[flipped] if axis == 0 else flipped)
    return images, references


def _each(images: Tensor, random: Random, share: float, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``change`` to a share of the patches (C, I, J, K), one by one."""
    chosen = np.flatnonzero(random.random(len(images)) < share)
    for n in chosen:
        images[n] = change(images[n])
    return images


def noise(images: Tensor, random: Random) -> Tensor:
    """Gaussian noise of variance up to 0.1 on a tenth of the patches."""

    def add(image: Tensor) -> Tensor:
        generator = torch.Generator(device="cpu").manual_seed(int(random.integers(2**62)))
        sd = math.sqrt(random.uniform(0, 0.1))
        return image + sd * torch.randn(image.shape, generator=generator).to(image.device)

    return _each(images, random, 0.1, add)


def blur(images: Tensor, random: Random) -> Tensor:
    """Gaussian blur of 0.5 to 1 voxels on a fifth of the patches."""

    def smooth(image: Tensor) -> Tensor:
        sigma = random.uniform(0.5, 1.0)
        offsets = torch.arange(-2, 3, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
        kernel = kernel / kernel.sum()
        result = image[:, None]
        for axis in range(3):
            if image.shape[axis + 1] > 2:
                shape, pad = [1, 1, 1, 1, 1], [0] * 6
                shape[axis + 2], pad[4 - 2 * axis], pad[5 - 2 * axis] = 5, 2, 2
                result = functional.conv3d(functional.pad(result, pad, mode="replicate"), kernel.reshape(shape))
        return result[:, 0]

    return _each(images, random, 0.2, smooth)


def brightness(images: Tensor, random: Random) -> Tensor:
    """Multiply 15 % of the patches by 0.75 to 1.25."""
    return _each(images, random, 0.15, lambda image: image * random.uniform(0.75, 1.25))


def contrast(images: Tensor, random: Random) -> Tensor:
    """Stretch 15 % of the patches about their mean by 0.75 to 1.25, within their own range."""

    def stretch(image: Tensor) -> Tensor:
        mean = image.mean(dim=(1, 2, 3), keepdim=True)
        low, high = image.amin(dim=(1, 2, 3), keepdim=True), image.amax(dim=(1, 2, 3), keepdim=True)
        return torch.clamp((image - mean) * random.uniform(0.75, 1.25) + mean, low, high)

    return _each(images, random, 0.15, stretch)


def low_resolution(images: Tensor, random: Random) -> Tensor:
    """Resample an eighth of the patches to 0.5 to 1 of their size and back."""

    def coarsen(image: Tensor) -> Tensor:
        zoom = random.uniform(0.5, 1.0)
        size = [max(1, round(n * zoom)) for n in image.shape[1:]]
        small = functional.interpolate(image[None], size=size, mode="nearest-exact")
        return functional.interpolate(small, size=image.shape[1:], mode="trilinear")[0]

    return _each(images, random, 0.125, coarsen)


def gamma(images: Tensor, random: Random) -> Tensor:
    """Gamma of 0.7 to 1.5 on 30 % of the patches, mean and standard deviation kept; on a third of those inverted."""

    def bend(image: Tensor) -> Tensor:
        power = random.uniform(0.7, 1.0) if random.random() < 0.5 else random.uniform(1.0, 1.5)
        sign = -1.0 if random.random() < 1 / 3 else 1.0
        over = (1, 2, 3)
        image = image * sign
        mean, sd = image.mean(dim=over, keepdim=True), image.std(dim=over, keepdim=True)
        low = image.amin(dim=over, keepdim=True)
        reach = (image.amax(dim=over, keepdim=True) - low).clamp_min(1e-7)
        bent = ((image - low) / reach) ** power
        bent = (bent - bent.mean(dim=over, keepdim=True)) / bent.std(dim=over, keepdim=True).clamp_min(1e-7)
        return (bent * sd + mean) * sign

    return _each(images, random, 0.3, bend)


AUGMENTATIONS: dict[str, Callable[[Tensor, Random], Tensor]] = {
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "contrast": contrast,
    "low_resolution": low_resolution,
    "gamma": gamma,
}
