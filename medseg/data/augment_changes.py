"""What augmentation makes of intensities: each change draws for a whole batch and works on all chosen patches at once.

A change takes images (B, C, I, J, K) float32, which it may write to, and a numpy generator. Channels are drawn apart.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.errors import ConfigError

Random = np.random.Generator
Change = Callable[[Tensor, Random], Tensor]
Rows = npt.NDArray[np.int64]
SPACE = (2, 3, 4)


def in_range(name: str, **options: tuple[Any, float, float]) -> None:
    """Raise ConfigError where an option ``key=(value, low, high)`` is no number from low to high."""
    for key, (value, low, high) in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise ConfigError(f"augmentation {name}: {key} {value!r} must be a number from {low:g} to {high:g}")


def low_high(name: str, key: str, value: Any, low: float, high: float) -> tuple[float, float]:
    """``value`` as the two ends of a range inside [``low``, ``high``]. Raises ConfigError for anything else."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ConfigError(f"augmentation {name}: {key} {value!r} must be [lowest, highest]")
    in_range(name, **{key: (value[0], low, high)})
    in_range(name, **{key: (value[1], value[0], high)})
    return float(value[0]), float(value[1])


def sent(array: npt.NDArray[Any], like: Tensor) -> Tensor:
    """``array`` on the device of ``like``, not waited for; fractions as float32."""
    tensor = torch.from_numpy(np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else None))
    return tensor.to(like.device, non_blocking=True)


def noise(*, share: float = 0.1, variance: float = 0.1) -> Change:
    """Gaussian noise of a variance up to ``variance`` (the images have about 1)."""
    in_range("noise", share=(share, 0, 1), variance=(variance, 0, 10))

    def change(images: Tensor, random: Random) -> Tensor:
        seed = int(random.integers(2**62))

        def add(chosen: Tensor, rows: Rows) -> Tensor:
            sd = each(random.uniform(0, variance, (len(rows), images.shape[1])) ** 0.5, chosen)
            return chosen + sd * torch.randn(chosen.shape, generator=generator_on(seed, chosen), device=chosen.device)

        return changed_share(images, random, share, add)

    return change


def blur(*, share: float = 0.2, sigma: Sequence[float] = (0.5, 1.0)) -> Change:
    """Gaussian blur of ``sigma`` voxels, cut off at two voxels or two standard deviations; edges repeat."""
    in_range("blur", share=(share, 0, 1))
    low, high = low_high("blur", "sigma", sigma, 0.05, 10)

    def change(images: Tensor, random: Random) -> Tensor:
        def smooth(chosen: Tensor, rows: Rows) -> Tensor:
            width = random.uniform(low, high, (len(rows), images.shape[1]))
            return _separable(chosen, lambda size: _gaussian(width, size, max(2, int(np.ceil(2 * high)))))

        return changed_share(images, random, share, smooth)

    return change


def brightness(*, share: float = 0.15, factor: Sequence[float] = (0.75, 1.25)) -> Change:
    """Multiply by ``factor``."""
    in_range("brightness", share=(share, 0, 1))
    low, high = low_high("brightness", "factor", factor, 0.01, 100)

    def change(images: Tensor, random: Random) -> Tensor:
        def scale(chosen: Tensor, rows: Rows) -> Tensor:
            return chosen * each(random.uniform(low, high, (len(rows), images.shape[1])), chosen)

        return changed_share(images, random, share, scale)

    return change


def contrast(*, share: float = 0.15, factor: Sequence[float] = (0.75, 1.25)) -> Change:
    """Stretch about the mean by ``factor``, within the patch's own range."""
    in_range("contrast", share=(share, 0, 1))
    low, high = low_high("contrast", "factor", factor, 0.01, 100)

    def change(images: Tensor, random: Random) -> Tensor:
        def stretch(chosen: Tensor, rows: Rows) -> Tensor:
            by = each(random.uniform(low, high, (len(rows), images.shape[1])), chosen)
            mean = chosen.mean(dim=SPACE, keepdim=True)
            darkest, brightest = (end.reshape(mean.shape) for end in torch.aminmax(chosen.flatten(2), dim=2))
            return torch.lerp(mean, chosen, by).clamp_(darkest, brightest)

        return changed_share(images, random, share, stretch)

    return change


def low_resolution(*, share: float = 0.125, zoom: Sequence[float] = (0.5, 1.0)) -> Change:
    """Resample to ``zoom`` of the size by the nearest voxel, and back linearly."""
    in_range("low_resolution", share=(share, 0, 1))
    low, high = low_high("low_resolution", "zoom", zoom, 0.05, 1)

    def change(images: Tensor, random: Random) -> Tensor:
        def coarsen(chosen: Tensor, rows: Rows) -> Tensor:
            zooms = random.uniform(low, high, (len(rows), images.shape[1]))
            return _separable(chosen, lambda size: _there_and_back(zooms, size))

        return changed_share(images, random, share, coarsen)

    return change


def gamma(*, share: float = 0.3, power: Sequence[float] = (0.7, 1.5), inverted: float = 0.33) -> Change:
    """Raise to a ``power``, below and above 1 equally often, mean and standard deviation kept; a part of them ``inverted``."""
    in_range("gamma", share=(share, 0, 1), inverted=(inverted, 0, 1))
    low, high = low_high("gamma", "power", power, 0.1, 10)

    def change(images: Tensor, random: Random) -> Tensor:
        def bend(chosen: Tensor, rows: Rows) -> Tensor:
            shape = len(rows), images.shape[1]
            below = random.uniform(low, min(1.0, high) if low < 1 else high, shape)
            above = random.uniform(max(1.0, low) if high > 1 else low, high, shape)
            powers = each(np.where(random.random(shape) < 0.5, below, above), chosen)
            sign = each(np.where(random.random(shape) < inverted, -1.0, 1.0), chosen)
            x = chosen * sign
            darkest, brightest = (end.reshape(powers.shape) for end in torch.aminmax(x.flatten(2), dim=2))
            bent = ((x - darkest) / (brightest - darkest).clamp_min(1e-7)).pow_(powers)
            mean, spread = _mean_and_spread(x)
            bent_mean, bent_spread = _mean_and_spread(bent)
            return torch.addcmul(mean * sign, bent - bent_mean, sign * spread / bent_spread.clamp_min(1e-7))

        return changed_share(images, random, share, bend)

    return change


def changed_share(images: Tensor, random: Random, share: float, change: Callable[[Tensor, Rows], Tensor]) -> Tensor:
    """``change`` a share of the patches, all at once, in place."""
    rows = np.flatnonzero(random.random(len(images)) < share)
    if len(rows) == len(images):
        return change(images, rows)
    if rows.size:
        index = sent(rows, images)
        images[index] = change(images[index], rows)
    return images


def each(values: npt.NDArray[np.float64], like: Tensor) -> Tensor:
    """A number for each patch and channel (n, C), to multiply images with."""
    return sent(values[:, :, None, None, None], like)


def _mean_and_spread(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and root of the summed squares about it (n, C, 1, 1, 1); 13 times quicker than ``torch.std_mean`` on one core."""
    mean = images.mean(dim=SPACE, keepdim=True)
    return mean, torch.linalg.vector_norm(images - mean, dim=SPACE, keepdim=True)


def generator_on(seed: int, like: Tensor) -> torch.Generator:
    return torch.Generator(like.device).manual_seed(seed)


def _separable(images: Tensor, matrix: Callable[[int], npt.NDArray[np.float64]]) -> Tensor:
    """Multiply along each axis that is not flat with a matrix (n, C, size, size) of each patch and channel."""
    count, channels = images.shape[:2]
    for axis in SPACE:
        size = images.shape[axis]
        if size > 2:
            by = sent(matrix(size), images).flatten(0, 1)
            if axis == 2:  # already rows of a matrix: nothing to reorder
                images = (by @ images.reshape(count * channels, size, -1)).reshape(images.shape)
            else:
                rows = images.movedim(axis, -1)
                images = (rows.reshape(count * channels, -1, size) @ by.mT).reshape(rows.shape).movedim(-1, axis)
    return images


def _gaussian(sigma: npt.NDArray[np.float64], size: int, reach: int) -> npt.NDArray[np.float64]:
    """Blurring as matrices (*sigma.shape, size, size); beyond the edge the last voxel repeats."""
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / sigma[..., None]) ** 2)
    weights /= weights.sum(-1, keepdims=True)
    found = np.zeros((*sigma.shape, size, size))
    to = np.arange(size)
    for n, offset in enumerate(offsets):
        found[..., to, np.clip(to + offset, 0, size - 1)] += weights[..., n, None]
    return found


def _there_and_back(zoom: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Nearest to ``round(size * zoom)`` voxels and linearly back, as matrices (*zoom.shape, size, size)."""
    small = np.maximum(np.round(size * zoom), 1)[..., None]
    place = np.clip((np.arange(size) + 0.5) * small / size - 0.5, 0, small - 1)
    found = np.zeros((*zoom.shape, size, size))
    lower = np.floor(place)
    for node, weight in ((lower, 1 - (place - lower)), (np.minimum(lower + 1, small - 1), place - lower)):
        source = np.floor((node + 0.5) * size / small).astype(np.int64)[..., None]
        np.put_along_axis(found, source, np.take_along_axis(found, source, -1) + weight[..., None], -1)
    return found
