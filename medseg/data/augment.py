"""AUGMENTATIONS, batched, on the training device; every draw is a function of (seed, step).

MOVES say where each patch is sampled, CHANGES what becomes of its intensities; a factory's keyword options are those of
``train.augmentation``. Everything random is drawn by numpy and sent to the device, and nothing is read back, so a GPU
never waits; only noise is made on the device, from a drawn seed. Each entry has draws of its own: turning one off leaves
the others as they were. The defaults follow Isensee 2021, doi:10.1038/s41592-020-01008-z.
"""

import inspect
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medseg.core.component import Component, build, find
from medseg.core.config import Config
from medseg.core.plan import Plan, Triple
from medseg.data.augment_artefacts import bias_field, ghosting, motion
from medseg.data.augment_changes import Change, Random, blur, brightness, contrast, gamma, low_resolution, noise, sent
from medseg.data.augment_moves import Move, PatchGrid, affine, elastic, sampled

MOVES: dict[str, Callable[..., Move]] = {"affine": affine, "elastic": elastic}
CHANGES: dict[str, Callable[..., Change]] = {
    "bias_field": bias_field,
    "motion": motion,
    "ghosting": ghosting,
    "noise": noise,
    "blur": blur,
    "brightness": brightness,
    "contrast": contrast,
    "low_resolution": low_resolution,
    "gamma": gamma,
}
AUGMENTATIONS: dict[str, Callable[..., Move] | Callable[..., Change]] = {**MOVES, **CHANGES}
OFF = ("elastic", "bias_field", "motion", "ghosting")  # unless a config asks for them


def extent_for(plan: Plan) -> Triple:
    """The voxels to load so that a turned and shrunk patch still finds image at most of its corners: 1.2 patches an axis."""
    i, j, k = (size if size == 1 else math.ceil(size * 1.2) for size in plan.patch_size)
    return i, j, k


def augment(images: Tensor, references: Tensor, plan: Plan, step: int, swaps: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Patches of ``plan.patch_size`` from loaded ``images`` (B, C, *extent) and ``references`` (B, *extent), int64.

    ``swaps[c]`` is the channel that channel ``c`` becomes when left and right change sides (see ``mirror_swaps``).
    """

    dtype, grid = images.dtype, PatchGrid(len(images), plan.patch_size, plan.spacing_mm)
    moves = [part for part in plan.augmentation if part.name in MOVES]
    motions = [build("augmentation", MOVES, part)(grid, _random(plan, step, part.name)) for part in moves]
    images, references = sampled(images.float(), references, grid, motions)
    images, references = mirror(images, references, plan.mirror_axes, swaps, _random(plan, step, "mirror"))
    for part in plan.augmentation:
        if part.name not in MOVES:
            images = build("augmentation", CHANGES, part)(images, _random(plan, step, part.name))
    return images.to(dtype), references


def _random(plan: Plan, step: int, name: str) -> Random:
    return np.random.default_rng((plan.seed, 3, step, zlib.crc32(name.encode())))


def sides_changed(plan: Plan, step: int, patches: int) -> npt.NDArray[np.bool_]:
    """Which of a batch's ``patches`` ``augment`` flips along axis 0, where left becomes right."""
    return _flips(plan.mirror_axes, patches, _random(plan, step, "mirror")).get(0, np.zeros(patches, bool))


def _flips(axes: Sequence[int], patches: int, random: Random) -> dict[int, npt.NDArray[np.bool_]]:
    return {axis: random.random(patches) < 0.5 for axis in axes}


def mirror(
    images: Tensor, references: Tensor, axes: Sequence[int], swaps: Sequence[int], random: Random
) -> tuple[Tensor, Tensor]:
    """Flip each patch along each of ``axes`` with probability one half; a flip along axis 0 (left-right) swaps sides.

    References beyond ``swaps``, such as voxels to ignore, stay what they are.
    """
    for axis, flipped_patches in _flips(axes, len(images), random).items():
        chosen = np.flatnonzero(flipped_patches)
        if chosen.size:
            rows = sent(chosen, images)
            images = images.index_copy(0, rows, images[rows].flip(axis + 2))
            flipped = references[rows].flip(axis + 1)
            if axis == 0 and tuple(swaps) != tuple(range(len(swaps))):
                other_side = sent(np.asarray(swaps, np.int64), references)[flipped.clamp(0, len(swaps) - 1)]
                flipped = torch.where((flipped >= 0) & (flipped < len(swaps)), other_side, flipped)
            references = references.index_copy(0, rows, flipped)
    return images, references


def augmentation_for(config: Config) -> tuple[Component, ...]:
    """What ``train.augmentation`` asks for. Raises ConfigError as ``recipe`` does."""
    asked = config.train.augmentation
    return () if asked == "none" else recipe({} if isinstance(asked, str) else asked)


def recipe(changes: Mapping[str, bool | Mapping[str, Any]] | None = None) -> tuple[Component, ...]:
    """The augmentations of a plan in the table's order, every option written out.

    ``changes``, by name: options that differ from the default, True for the default, False for none. What is OFF needs
    an entry there. Raises ConfigError for an unknown name or option, or an option out of its range.
    """
    asked = dict.fromkeys(AUGMENTATIONS, True) | dict.fromkeys(OFF, False) | dict(changes or {})
    parts = []
    for name, options in asked.items():
        factory = find("augmentation", AUGMENTATIONS, name)
        if options is not False:
            given = {} if options is True else dict(options)
            build("augmentation", AUGMENTATIONS, Component(name=name, options=given))
            known = {p.name: p.default for p in inspect.signature(factory).parameters.values()}
            parts.append(Component(name=name, options=known | given))
    return tuple(part for part in parts if part.options["share"])
