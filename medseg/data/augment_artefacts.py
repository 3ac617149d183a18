"""Artefacts of MR scanners as changes of intensity, after TorchIO (doi:10.1016/j.cmpb.2021.106236); off by default."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseg.data.augment_changes import SPACE, Change, Random, Rows, changed_share, in_range, low_high, sent
from medseg.data.resample import axis_matrix

CENTRE = 0.05  # of the sampling frequency: lines of k-space that hold the contrast and stay as they are


def bias_field(*, share: float = 0.15, strength: float = 0.3, points: int = 4) -> Change:
    """A smooth gain over the patch, as of a surface coil: exp of a cubic field of normal draws of ``strength``."""
    in_range("bias_field", share=(share, 0, 1), strength=(strength, 0, 2), points=(points, 2, 12))

    def change(images: Tensor, random: Random) -> Tensor:
        def gain(chosen: Tensor, rows: Rows) -> Tensor:
            number = [min(int(points), size) for size in chosen.shape[2:]]
            field = random.normal(0, strength, (len(rows), images.shape[1], *number))
            sizes = zip(number, chosen.shape[2:], strict=True)
            matrices = [sent(axis_matrix(n, to, 3 if n > 1 else 0), chosen) for n, to in sizes]
            darkest = chosen.amin(
                dim=SPACE, keepdim=True
            )  # intensities have mean 0 here: the gain acts on what is above black
            return (chosen - darkest) * torch.einsum(
                "ncxyz,ix,jy,kz->ncijk", sent(field, chosen), *matrices
            ).exp() + darkest

        return changed_share(images, random, share, gain)

    return change


def ghosting(*, share: float = 0.1, strength: Sequence[float] = (0.1, 0.4), ghosts: Sequence[int] = (2, 6)) -> Change:
    """Faint copies along an axis, as of breathing: every n-th line of k-space but those about its centre is weakened."""
    in_range("ghosting", share=(share, 0, 1))
    low, high = low_high("ghosting", "strength", strength, 0, 1)
    fewest, most = low_high("ghosting", "ghosts", ghosts, 2, 20)

    def change(images: Tensor, random: Random) -> Tensor:
        def ghost(chosen: Tensor, rows: Rows) -> Tensor:
            axis = _axis(chosen, random)
            frequency = np.abs(np.fft.fftfreq(chosen.shape[axis]))
            period = random.integers(int(fewest), int(most) + 1, (len(rows), images.shape[1], 1))
            weak = np.where(np.arange(len(frequency)) % period == 0, random.uniform(low, high, period.shape), 0.0)
            return _in_k_space(chosen, axis, 1.0 - np.where(frequency < CENTRE, 0.0, weak))

        return changed_share(images, random, share, ghost)

    return change


def motion(*, share: float = 0.1, shift: float = 0.04, lines: float = 0.4) -> Change:
    """The patient moves while scanned: up to a part ``lines`` of k-space stems from where the patient lay shifted.

    ``shift``: standard deviation along the axis, as a part of the patch. The centre of k-space stays.
    """
    in_range("motion", share=(share, 0, 1), shift=(shift, 0, 0.5), lines=(lines, 0, 1))

    def change(images: Tensor, random: Random) -> Tensor:
        def move(chosen: Tensor, rows: Rows) -> Tensor:
            axis = _axis(chosen, random)
            size = chosen.shape[axis]
            frequency = np.fft.fftfreq(size)
            shape = len(rows), images.shape[1], 1
            first = 0.5 - random.uniform(0, lines / 2, shape)  # the later half-lines of an acquisition from the edge
            late = np.abs(frequency) >= np.maximum(first, CENTRE)
            phase = np.exp(-2j * np.pi * frequency * random.normal(0, shift * size, shape))
            return _in_k_space(chosen, axis, np.where(late, phase, 1.0))

        return changed_share(images, random, share, move)

    return change


def _axis(images: Tensor, random: Random) -> int:
    """One of the axes that are not flat: that of the phase encoding."""
    return int(random.choice([axis for axis in SPACE if images.shape[axis] > 1] or [SPACE[0]]))


def _in_k_space(images: Tensor, axis: int, factors: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
    """``images`` with each line of k-space along ``axis`` times its factor (n, C, size)."""
    shape = [*images.shape[:2], *(images.shape[a] if a == axis else 1 for a in SPACE)]
    complex_factors = factors.astype(np.complex64).reshape(shape)
    by = torch.from_numpy(complex_factors).to(images.device, non_blocking=True)
    changed: Tensor = torch.fft.ifft(torch.fft.fft(images, dim=axis) * by, dim=axis)
    return changed.real.contiguous()
