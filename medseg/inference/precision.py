"""In which floating-point type a network computes, and what the shorter one costs in Dice, measured model by model."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import torch

from medseg.core.errors import ConfigError, ResourceError
from medseg.inference.device import bf16_pays
from medseg.inference.stream import Predict
from medseg.models.how_to_run import Bf16DiceLoss, HowToRun

Precision = Literal["f32", "bf16", "fp16"]
LARGEST_DICE_LOSS = 0.001
"""The mean Dice that a structure may lose for bf16 to be chosen unasked."""


def precision_for(asked: str, device: torch.device, backend: str, wishes: HowToRun) -> Precision:
    """What ``asked`` means there: ``auto`` is fp16 on a GPU and f32 on a CPU.

    On a CPU with arithmetic for it ``auto`` is bf16, where the model folder has measured on this backend that no structure
    loses more than ``LARGEST_DICE_LOSS``. Raises ConfigError for an unknown word and for fp16 on a CPU, ResourceError for
    bf16 on a device that does not have it.
    """
    if asked == "auto":
        if device.type == "cuda":
            return "fp16"
        loss = wishes.bf16_dice_loss
        allowed = loss is not None and loss.backend == backend and loss.largest <= LARGEST_DICE_LOSS
        return "bf16" if allowed and bf16_pays(device) else "f32"
    for known in get_args(Precision):
        if asked == known:
            precision: Precision = known
            break
    else:
        raise ConfigError(f"precision {asked!r} is unknown; choose auto, {', '.join(get_args(Precision))}")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a CUDA GPU, and this device is the CPU; use auto, f32 or bf16")
    if precision == "bf16" and not bf16_pays(device):
        raise ResourceError(f"precision bf16: this device ({device}) has no arithmetic for it; use auto or f32")
    return precision


DiceOfCases = Callable[[Predict], Sequence[Mapping[str, float]]]
"""Segments the same cases with the ``Predict`` it is given: the Dice of each structure, case by case; NaN where undefined."""


def bf16_dice_loss(f32: Predict, bf16: Predict, *, backend: str, dice: DiceOfCases) -> Bf16DiceLoss | None:
    """Dice in f32 less Dice in bf16, for ``inference.bf16_dice_loss`` of a model folder; None where no Dice is defined.

    A case counts for the structures whose Dice is defined in either; one that is lost altogether in bf16 counts as 0 there.
    """
    lost: dict[str, list[float]] = {}
    for exact, short in zip(dice(f32), dice(bf16), strict=True):
        for structure, value in exact.items():
            if not math.isnan(value):
                other = short[structure]
                lost.setdefault(structure, []).append(value - (0.0 if math.isnan(other) else other))
    if not lost:
        return None
    means = {structure: float(np.mean(values)) for structure, values in lost.items()}
    worst = max(means, key=means.__getitem__)
    return Bf16DiceLoss(
        mean=float(np.mean(list(means.values()))),
        largest=means[worst],
        structure=worst,
        cases=max(len(values) for values in lost.values()),
        backend=backend,
    )
